"""`autosplit search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.cli.console import (
    EXIT_INFEASIBLE,
    EXIT_INTERRUPTED,
    RESULTS,
    announce,
    goes_on,
    print_rich,
    quoted,
    reported,
    say,
    say_next,
)
from autosplit.cli.options import (
    AcceleratorKind,
    AsJson,
    Channel,
    DataRoot,
    Device,
    Edge,
    Jobs,
    OptionalDeadline,
    Policy,
    Quiet,
    RayCluster,
    ScenarioName,
    Set,
    TrustCode,
    assignments,
    changed,
)
from autosplit.core.errors import ConfigError, ResumeError
from autosplit.core.hiring import workers_of
from autosplit.core.trust import require_trusted
from autosplit.core.workers import Workers

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario

__all__ = ["command", "run_search", "run_seeds"]

_MOST_EXHAUSTIVE = 300  # measurements; two or three minutes where one takes half a second


@reported
def command(
    scenario: ScenarioName = "default",
    budget_ms: OptionalDeadline = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, image-folder:PATH, image-csv:PATH, torchvision:CLASS, "
                                                     "hf:NAME, file.py:function.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side that a folder's images are brought to.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Zoo name, {torchvision,timm,hf}:NAME, file.py:factory.")] = None,
    weights: Annotated[str | None, typer.Option(help="Backbone weights (a file); trained when left out.")] = None,
    codec: Annotated[list[str] | None, typer.Option(help="Codec family on offer; several times for several.")] = None,
    device: Device = None,
    edge: Edge = None,
    channel: Channel = None,
    latency_model: Annotated[str | None, typer.Option(help="Name, module:Name or file.py:Name.")] = None,
    objective: Annotated[str | None, typer.Option(
        help="Reward to maximise: in-time-accuracy, lagrangian, amc or latency.")] = None,
    agent: Annotated[str | None, typer.Option(
        help="Method that proposes plans, such as ppo, random or tpe; `autosplit list agents` names all.")] = None,
    granularity: Annotated[str | None, typer.Option(help="One sparsity a head: uniform; or a group: layer.")] = None,
    policy: Policy = None,
    target: Annotated[str | None, typer.Option(
        help="What the device runs: onnx; or c, of which only plans that fit its memory are searched.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Measurements, as a total.")] = None,
    finalists: Annotated[int | None, typer.Option(
        help="Plans that are fine-tuned in the end; baselines, and a split and a cheap one where splits are in time, "
             "come on top.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    seeds: Annotated[int | None, typer.Option(
        min=2, help="Search with so many seeds, from --seed on, each on its own, and show the spread.")] = None,
    accelerator: AcceleratorKind = None,
    jobs: Jobs = 1,
    cluster: RayCluster = None,
    set_: Set = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; a new one below results/ when left out.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run directory.")] = None,
    reuse: Annotated[bool, typer.Option(help="Take measurements of earlier searches from the cache.")] = True,
    yes: Annotated[bool, typer.Option(
        "--yes", help="Let the agent exhaustive take more than 300 measurements, which it refuses otherwise.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be searched, train nothing.")] = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search the best split, sparsity and compression for a network, its data, device, link and deadline."""
    from autosplit.core.scenario import OPTIONS, for_machine, load_scenario

    if seeds is not None and (resume is not None or dry_run):
        raise ConfigError("--seeds begins searches of its own, and goes on with those in --out; leave --resume and "
                          "--dry-run away")
    if resume is not None and out is not None:
        raise ConfigError("--resume continues a run in its own directory; leave --out away, or begin a new run with it")
    given: dict[str, Any] = {
        "budget_ms": budget_ms, "dataset": dataset, "image_size": image_size, "backbone": backbone, "weights": weights,
        "codecs": tuple(codec) if codec else None, "device": device, "edge": edge, "channel": channel,
        "latency_model": latency_model, "objective": objective, "agent": agent, "granularity": granularity,
        "policy": str(policy) if policy else None, "evaluations": evaluations, "finalists": finalists,
        "target": target, "seed": seed,
        "accelerator": accelerator}
    options = {OPTIONS[name]: value for name, value in given.items()}
    assigned = assignments(set_)
    if resume is not None:
        scenario = str(resume / "scenario.yaml")  # what it was begun with; the options given now come on top
        if not Path(scenario).is_file():
            raise ResumeError(f"{resume} is no run directory (it holds no scenario.yaml); "
                              "start a search without --resume")
    wanted = changed(load_scenario(scenario, trust_code=trust_code), options, assigned, rename=resume is None)
    wanted = for_machine(wanted, {key for key, value in options.items() if value is not None} | set(assigned))
    for spec in wanted.anchored(data_root).code:  # before data are loaded or anything is timed
        require_trusted(spec)
    bounded = resume is not None or evaluations is not None or "search.evaluations" in assigned
    if assigned.get("search.agent", agent) == "exhaustive" and not bounded:
        from autosplit.report.progress import Progress
        from autosplit.training.prepare import untrained

        plans = untrained(wanted, Progress(quiet=quiet), data_root=data_root).supernet.plan_space
        wanted = wanted.replace(**{"search.evaluations": len(plans)})
    if dry_run:
        from autosplit.cli.dry_run import describe

        describe(wanted, data_root, as_json, quiet)
        return
    with workers_of(jobs, cluster) as workers:
        if seeds is not None:
            run_seeds(wanted, seeds, out, data_root, reuse, as_json, quiet, workers)
            return
        run_search(wanted, resume or out, resume is not None, data_root, reuse, yes, as_json, quiet, workers)


def run_search(
    scenario: Scenario, run: Path | None, resume: bool, data_root: Path | None, reuse: bool, yes: bool, as_json: bool,
    quiet: bool, workers: Workers | None = None,
) -> None:
    """Search a scenario, and print what was found.

    Args:
        scenario: With all options of the command line.
        run: The run directory; a new one below `results/` when left out.
        resume: Whether `run` is continued.
        data_root: Folder that data sets lie in.
        reuse: Whether measurements of earlier searches may be taken from the cache.
        yes: Whether an exhaustive search may take long.
        as_json: Whether the result goes to stdout as JSON.
        quiet: Whether nothing goes to stderr but warnings.
        workers: Who measures and fine-tunes; this process by default.
    """
    from autosplit.cli.estimate import estimate_search
    from autosplit.pipeline.ledger import LEDGER_FILE, load_baselines, load_run
    from autosplit.pipeline.search import new_run, search_scenario
    from autosplit.report.deployment_map import DeploymentMap
    from autosplit.report.progress import Progress
    from autosplit.report.tables import comparison_table
    from autosplit.report.verdict import verdict, why_chosen

    run = run or new_run(scenario, RESULTS)
    if not quiet:
        announce(estimate_search(scenario, data_root))
    try:
        result = search_scenario(scenario, run, resume=resume, progress=Progress(quiet=quiet), data_root=data_root,
                                 reuse=reuse, most_exhaustive=None if yes else _MOST_EXHAUSTIVE, workers=workers)
    except KeyboardInterrupt:
        if (run / LEDGER_FILE).exists():
            say(f"interrupted; every finished measurement is kept: autosplit search --resume {quoted(run)}"
                f"{workers.option if workers else ''}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json")))
    else:
        budget_ms = result.scenario.conditions.budget_ms
        elsewhere, _ = DeploymentMap.of_run(result, load_run(run)[1], load_baselines(run))
        print_rich(comparison_table(result.comparison, budget_ms),
                   verdict(result.comparison, budget_ms, result.best_baseline),
                   f"Chosen because {why_chosen(result.choice)}.",
                   *([elsewhere.summary] if elsewhere else []),
                   *(f"Careful: {warning}." for warning in result.warnings),
                   f"{'found' if result.feasible else 'least infeasible'}: {result.plan.label}  (run directory {run})")
    best = RESULTS / "best.json"
    if run.parent == RESULTS and not best.exists() and result.feasible:  # of the first run, never over another's
        result.save(best, weights=run / result.stored.weights)
    if not result.feasible:
        say(f"nothing is feasible within {scenario.conditions.budget_ms:g} ms; the least infeasible plan is in {run}")
        raise typer.Exit(EXIT_INFEASIBLE)
    if not quiet and not as_json:
        say_next(f"report {quoted(run)}  # one page with every figure",
                 f"replay {quoted(run / 'best.json')}  # checks what was found against its record",
                 f"export {quoted(run)} --out {quoted(run / 'bundle')}"
                 f"{' --target c' if scenario.search.target == 'c' else ''}  # what runs on the device and at the edge")


def run_seeds(
    scenario: Scenario, number: int, out: Path | None, data_root: Path | None, reuse: bool, as_json: bool, quiet: bool,
    workers: Workers,
) -> None:
    """Search a scenario with several seeds, and print what each found.

    Args:
        scenario: With all options of the command line.
        number: Of seeds, from the scenario's own on.
        out: Folder of the run directories; a new one below `results/` when left out.
        data_root: Folder that data sets lie in.
        reuse: Whether measurements of earlier searches may be taken from the cache.
        as_json: Whether the figures go to stdout as JSON.
        quiet: Whether nothing goes to stderr but warnings.
        workers: Who searches.
    """
    from rich import box
    from rich.table import Table

    from autosplit.cli.estimate import estimate_search
    from autosplit.pipeline.search import new_run
    from autosplit.pipeline.seeds import search_seeds
    from autosplit.report.progress import Progress

    if not quiet and (estimate := estimate_search(scenario, data_root)):
        announce(f"{number} searches, each: {estimate}")
    named = scenario.replace(name=f"{scenario.name}-{number}-seeds")
    folder, first = out or new_run(named, RESULTS), scenario.search.seed
    with goes_on(lambda: f"the searches that are done are in {folder}"):
        found = search_seeds(scenario, folder, range(first, first + number), progress=Progress(quiet=quiet),
                             data_root=data_root, reuse=reuse, workers=workers)
    rows, spread = found.to_frame(), found.spread()
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "seeds": rows.to_dict("records"),
                               "spread": spread.to_dict("index")}))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("seed", "plan", "test accuracy", "payload", "p95", "energy"):
        table.add_column(title, justify="left" if title == "plan" else "right", overflow="fold")
    for row in rows.itertuples(index=False):
        seed, plan, in_time, *figures = row
        table.add_row(str(seed), plan if in_time else f"{plan} (late)", *_shown(figures))
    for name, column in (("mean", "mean"), ("standard deviation", "std")):
        table.add_row("", name, *_shown(list(spread[column])), style="bold" if name == "mean" else None)
    print_rich(table, f"run directories in {folder}")


def _shown(figures: list[float]) -> list[str]:
    accuracy, payload, p95_ms, energy_mj = figures
    return [f"{accuracy:.1%}", f"{payload:.0f} B", f"{p95_ms:.1f} ms", f"{energy_mj:.2f} mJ"]
