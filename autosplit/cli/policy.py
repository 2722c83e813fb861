"""`autosplit train-policy` and `autosplit decide`: plans for conditions that nobody searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import EXIT_INFEASIBLE, announce, print_rich, quoted, reported, say, say_next
from autosplit.cli.estimate import duration
from autosplit.cli.options import AsJson, LatencyModel, Objective, Quiet
from autosplit.core.errors import ConfigError

__all__ = ["decide", "train"]

_STEPS_PER_S = 2800  # of the training, on two cores: docs/policies.md


@reported
def train(
    table: Annotated[Path, typer.Argument(help="A table, as `autosplit bench table` writes it.")],
    out: Annotated[Path, typer.Option(help="Folder of the policy.")],
    device: Annotated[list[str] | None, typer.Option(help="Devices to train for [default: all].")] = None,
    edge: Annotated[list[str] | None, typer.Option(help="Edges to train for [default: all].")] = None,
    channel: Annotated[list[str] | None, typer.Option(help="Channels to train for [default: all].")] = None,
    factor: Annotated[float, typer.Option(help="Rates vary between 1/factor and factor times the profiles'.")] = 2.0,
    least_budget_ms: Annotated[float, typer.Option(help="Shortest deadline to train for.")] = 10.0,
    most_budget_ms: Annotated[float, typer.Option(help="Longest deadline to train for.")] = 1000.0,
    conditions: Annotated[int, typer.Option(min=1, help="Conditions drawn for the training.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training; three make a decision.")] = 400_000,
    seed: Annotated[int, typer.Option(help="Seed of conditions and training.")] = 0,
    latency_model: LatencyModel = "analytic",
    objective: Objective = "in-time-accuracy",
    quiet: Quiet = False,
) -> None:
    """Train a policy over a table: it answers for devices, links and deadlines at once, without a measurement."""
    from autosplit.agents.amortise import PolicySettings, train_policy
    from autosplit.agents.policy import Origin
    from autosplit.core.errors import unwritable
    from autosplit.envs.conditions import ProfilesSampler
    from autosplit.evaluation.objective import load_objective
    from autosplit.experiments.bench import load_table
    from autosplit.experiments.bench.table import table_name
    from autosplit.latency import load_latency_model
    from autosplit.report.progress import Progress

    known = load_table(table)
    if not quiet:
        announce(f"train a policy for {steps:,} steps on {known.record.plans} plans, {duration(steps / _STEPS_PER_S)} "
                 "on two cores")
    distribution = ProfilesSampler.named(device or (), edge or (), channel or (), factor,
                                         (least_budget_ms, most_budget_ms))
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the training, not after
        policy = train_policy(
            known.evaluator, load_latency_model(latency_model), load_objective(objective), distribution,
            PolicySettings(conditions, steps), seed=seed,
            origin=Origin(table=table_name(table), sha256=known.record.sha256), progress=Progress(quiet=quiet))
        policy.save(out)
    except OSError as e:
        raise unwritable(out, e) from e
    assert policy.origin.unseen_regret is not None
    median, p95 = policy.origin.unseen_regret
    typer.echo(f"policy in {out}; regret under conditions it never met: median {median:.2%}, 95th percentile {p95:.2%}")
    if not quiet:
        say_next(f"decide --policy {quoted(out)} --device stm32l4r5 --channel ble-1m --budget-ms 100")


@reported
def decide(
    policy: Annotated[Path, typer.Option(help="Folder of a policy: of `train-policy`, or RUN/policy of a search.")],
    device: Annotated[str, typer.Option(help="Device profile, or a YAML file.")],
    channel: Annotated[str, typer.Option(help="Channel profile, or a YAML file.")],
    budget_ms: Annotated[float, typer.Option(help="Deadline of one inference, end to end.")],
    edge: Annotated[str, typer.Option(help="Edge profile, or a YAML file.")] = "edge-cpu",
    rate_kbps: Annotated[float | None, typer.Option(help="Uplink rate just now, instead of the profile's.")] = None,
    access_ms: Annotated[float | None, typer.Option(help="Median access delay just now, likewise.")] = None,
    among: Annotated[int, typer.Option(min=1, help="Likeliest plans that are looked at.")] = 64,
    latency_model: LatencyModel = "analytic",
    as_json: AsJson = False,
) -> None:
    """Ask a trained policy for a plan: a few milliseconds, no measurement."""
    from autosplit.agents.policy import CoInferencePolicy
    from autosplit.core.conditions import Conditions
    from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
    from autosplit.latency import load_latency_model

    if not budget_ms > 0:
        raise ConfigError(f"--budget-ms must be above 0, got {budget_ms:g}")
    usual = load_profile(ChannelProfile, channel)
    factors = []  # downlink and tail of the access delay change in proportion
    for flag, now, value in (("--rate-kbps", rate_kbps, usual.uplink_kbps.value),
                             ("--access-ms", access_ms, usual.access_ms_p50.value)):
        if now is not None and not now > 0:
            raise ConfigError(f"{flag} must be above 0, got {now:g}")
        if now is not None and not value > 0:
            raise ConfigError(f"{flag}: channel {usual.name!r} has none to scale; give it one in a YAML file of your "
                              "own")
        factors.append(1.0 if now is None else now / value)
    conditions = Conditions(device=load_profile(DeviceProfile, device), edge=load_profile(DeviceProfile, edge),
                            channel=usual.scaled(*factors), budget_ms=budget_ms)
    found = CoInferencePolicy.load(policy, load_latency_model(latency_model)).decide(conditions, among)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        latency = found.latency
        print_rich(
            f"{found.plan.label}\n"
            f"  predicted accuracy {found.accuracy:.1%} (95 % interval {found.accuracy_low:.1%} to "
            f"{found.accuracy_high:.1%}, before fine-tuning), payload {found.payload_bytes:.0f} B\n"
            f"  p50 {latency.p50_ms:.1f} ms, p95 {latency.p95_ms:.1f} ms (device {latency.device_ms:.1f}, "
            f"encode {latency.encode_ms:.1f}, uplink {latency.uplink_ms:.1f}, edge {latency.edge_ms:.1f}, "
            f"downlink {latency.downlink_ms:.1f}), in time {latency.in_time:.1%}, energy {latency.energy_mj:.2f} mJ")
    if not found.feasible:
        say(f"no plan is in time within {budget_ms:g} ms; this is the one with the lowest latency")
        raise typer.Exit(EXIT_INFEASIBLE)
