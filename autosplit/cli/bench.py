"""`autosplit bench`: tables of whole plan spaces, search methods on them, predictions against real links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import announce, goes_on, quoted, reported, say, say_next
from autosplit.cli.options import (
    AcceleratorKind,
    AsJson,
    DataRoot,
    Jobs,
    LatencyModel,
    Objective,
    Policy,
    Quiet,
    RayCluster,
    ScenarioName,
    Set,
    TrustCode,
    assignments,
    changed,
)
from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.files import write_whole
from autosplit.core.hiring import workers_of
from autosplit.core.records import writing

__all__ = ["app", "usable_agents"]

app = typer.Typer(name="bench", help="Measure whole plan spaces, compare search methods on them, cross real links.",
                  no_args_is_help=True, rich_markup_mode=None)

_LINKS = ("sub-ghz-fsk-50k", "lte-m", "ble-1m", "3g", "wifi4")


@app.command(name="table")
@reported
def table(
    out: Annotated[Path, typer.Option(help="The table: NAME.csv or NAME.csv.gz; its record is NAME.json beside it.")],
    scenario: ScenarioName = "default",
    accelerator: AcceleratorKind = None,
    jobs: Jobs = 1,
    cluster: RayCluster = None,
    shard: Annotated[str | None, typer.Option(
        help="Measure one part alone, such as 3/8; the command without it joins the parts.")] = None,
    set_: Set = None,
    data_root: DataRoot = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure every plan of a scenario's space once, without fine-tuning; the same command continues a stopped one."""
    from autosplit.cli.estimate import estimate_table
    from autosplit.core.scenario import load_scenario
    from autosplit.experiments.bench.shards import Shard
    from autosplit.experiments.bench.table import measure_shard, tabulate
    from autosplit.report.progress import Progress

    if not out.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"--out {str(out)!r}: name a table NAME.csv or NAME.csv.gz")
    part = None if shard is None else Shard.parse(shard)
    wanted = changed(load_scenario(scenario, trust_code=trust_code),
                     {"training.accelerator": accelerator}, assignments(set_))
    kept = "what was measured is in " + ("the cache" if part is None else "the part's file")
    with goes_on(lambda: kept), workers_of(jobs, cluster) as workers:
        if not quiet:
            announce(estimate_table(wanted, data_root))
        progress = Progress(quiet=quiet)
        if part is not None:
            path = measure_shard(wanted, out, part, progress=progress, data_root=data_root, workers=workers)
            typer.echo(json.dumps({"part": str(path)}) if as_json else f"part {part.number} of {part.of} in {path}")
            return
        made = tabulate(wanted, out, progress=progress, data_root=data_root, workers=workers)
    if as_json:
        typer.echo(made.record.model_dump_json())
        return
    best = max(made.evaluator.measurements, key=lambda m: m.accuracy)
    typer.echo(f"{made.record.plans} plans in {out}; uncut network {made.record.backbone_accuracy:.1%}, "
               f"best plan {best.accuracy:.1%} ({best.plan.label})")
    if not quiet:
        table, beside = quoted(out), out.parent
        say_next(f"bench search {table} --out {quoted(beside / 'searches')}  # compares search methods on it",
                 f"train-policy {table} --out {quoted(beside / 'policy')}  # plans for conditions that nobody searched")


@app.command(name="search")
@reported
def search(
    tables: Annotated[list[Path], typer.Argument(help="Tables, as `autosplit bench table` writes them.")],
    out: Annotated[Path, typer.Option(help="Folder of searches, summary and figure; one that was stopped goes on.")],
    agent: Annotated[list[str] | None, typer.Option(
        help="Agents to compare, all others against the first [default: ppo and every other agent].")] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="Conditions drawn for each table.")] = 30,
    scenario_seed: Annotated[int, typer.Option(help="Seed of that draw; 0 to 9 are for development.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches a method, table and scenario.")] = 5,
    evaluations: Annotated[int, typer.Option(min=1, help="Measurements of a search.")] = 100,
    latency_model: LatencyModel = "analytic",
    objective: Objective = "in-time-accuracy",
    policy: Policy = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that search, each with one thread.")] = 1,
    cluster: RayCluster = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare search methods on tables, under conditions drawn from the packaged profiles."""
    from autosplit.experiments.bench.runs import Grid, agent_names, run_grid, settings_of
    from autosplit.experiments.bench.summary import draw_regret, scenario_frame, summarise, to_markdown
    from autosplit.report.progress import Progress

    methods = tuple(agent) if agent else usable_agents(policy is not None)
    grid = Grid(tuple(tables), methods, scenarios, scenario_seed, seeds, evaluations, latency_model, objective,
                policy)
    with goes_on(lambda: f"the searches that are done are in {out}"), workers_of(jobs, cluster, threads=1) as workers:
        runs = run_grid(grid, out, workers=workers, progress=Progress(quiet=quiet))
    frame = summarise(runs, next(iter(agent_names(methods))), evaluations)
    text = to_markdown(frame, evaluations)
    with writing(out):
        write_whole(out / "summary.csv", frame.to_csv(index=False))
        write_whole(out / "scenarios.csv", scenario_frame(list(settings_of(grid).values())).to_csv(index=False))
        write_whole(out / "summary.md", f"{text}\n")
    draw_regret(runs, evaluations, out / "regret.png", out / "regret.svg")
    typer.echo(frame.to_json(orient="records") if as_json else text)


@app.command(name="link")
@reported
def link(
    results: Annotated[list[Path], typer.Argument(help="A best.json for each plan, its weights beside it; or runs.")],
    out: Annotated[Path, typer.Option(help="Folder of bundles, answers and table; what is measured stays measured.")],
    channel: Annotated[list[str] | None, typer.Option(help="Channel profiles, or YAML files [default: five that "
                                                           "differ a hundredfold].")] = None,
    tbf_kbps: Annotated[list[float] | None, typer.Option(min=1, help="Rates that the kernel's token bucket enforces, "
                                                                    "as further links.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of a cell at most.")] = 300,
    seconds: Annotated[float, typer.Option(min=0, help="After which a cell asks for no more than --least.")] = 30.0,
    least: Annotated[int, typer.Option(min=1, help="Images of a cell at least.")] = 30,
    loopback: Annotated[bool, typer.Option("--loopback", help="No network namespaces, which only root on Linux can "
                                                              "make.")] = False,
    device: Annotated[str | None, typer.Option(help="Profile of this machine, to predict its stages too.")] = None,
    edge: Annotated[str | None, typer.Option(help="The same for the edge [default: as --device].")] = None,
    latency_model: Annotated[str, typer.Option(help="What predicts them.")] = "profiled",
    seed: Annotated[int, typer.Option(help="Seed of the links.")] = 0,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare predicted latencies with those over links that two processes on this machine really cross."""
    from autosplit.core.errors import unwritable
    from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
    from autosplit.experiments.emulation.bench import LinkBench, Machine, bench_links, to_markdown
    from autosplit.experiments.emulation.hosts import can_make_namespaces
    from autosplit.experiments.emulation.links import KernelLink, Link, ProfileLink
    from autosplit.latency import load_latency_model
    from autosplit.report.progress import Progress

    machine = None
    if device is not None:
        machine = Machine(load_profile(DeviceProfile, device), load_profile(DeviceProfile, edge or device),
                          load_latency_model(latency_model))
    namespaces = not loopback and can_make_namespaces()
    if not namespaces and not loopback:
        say("network namespaces cannot be made here (root on Linux with iproute2 can); going over loopback")
    links: list[Link] = [ProfileLink(load_profile(ChannelProfile, name)) for name in channel or _LINKS]
    links += [KernelLink(kbps) for kbps in tbf_kbps or ()]
    bench = LinkBench(tuple(results), tuple(links), images, seconds, least, namespaces, seed, machine)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with goes_on(lambda: f"the cells that are measured are in {out}"):
            frame = bench_links(bench, out, data_root=data_root, progress=Progress(quiet=quiet))
        text = to_markdown(frame)
        write_whole(out / "links.csv", frame.to_csv(index=False))
        write_whole(out / "links.md", f"{text}\n")
    except OSError as e:
        raise unwritable(out, e) from e
    typer.echo(frame.to_json(orient="records") if as_json else text)


def usable_agents(policy: bool) -> tuple[str, ...]:
    """Every agent whose packages are installed, `ppo` first; those that need a policy only with one.

    Args:
        policy: Whether there is a policy to start from.
    """
    from autosplit.agents import list_agents, load_agent

    found = []
    for name in sorted(list_agents(), key=lambda name: (name != "ppo", name)):
        try:
            usable = policy or not load_agent(name).needs_policy
        except PluginError as e:
            say(f"left out: {e}")
        else:
            found += [name] if usable else []
    return tuple(found)
