"""`autosplit search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.cli.common import (
    EXIT_INFEASIBLE,
    EXIT_INTERRUPTED,
    RESULTS,
    AsJson,
    BudgetMs,
    DataRoot,
    Quiet,
    Set,
    assignments,
    changed,
    print_rich,
    reported,
    say,
)
from autosplit.core.errors import ConfigError, ResumeError

if TYPE_CHECKING:
    from autosplit.core.result import Result
    from autosplit.core.scenario import Scenario

__all__ = ["command"]

_MOST_EXHAUSTIVE = 300  # measurements; two or three minutes where one takes half a second


@reported
def command(
    scenario: Annotated[str, typer.Option(help="Packaged scenario, or a YAML file.")] = "default",
    budget_ms: BudgetMs = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, or image-folder:PATH.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side that a folder's images are brought to.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Network: zoo name, torchvision:NAME, file.py:factory.")] = None,
    weights: Annotated[str | None, typer.Option(help="Backbone weights (safetensors); trained when left out.")] = None,
    codec: Annotated[list[str] | None, typer.Option(help="Codec family on offer; several times for several.")] = None,
    device: Annotated[str | None, typer.Option(help="Device profile, or a YAML file.")] = None,
    edge: Annotated[str | None, typer.Option(help="Edge profile, or a YAML file.")] = None,
    channel: Annotated[str | None, typer.Option(help="Channel profile, or a YAML file.")] = None,
    latency_model: Annotated[str | None, typer.Option(help="Name, module:Name or file.py:Name.")] = None,
    objective: Annotated[str | None, typer.Option(help="Reward.")] = None,
    agent: Annotated[str | None, typer.Option(help="Who proposes plans.")] = None,
    granularity: Annotated[str | None, typer.Option(help="One sparsity a head: uniform; or a group: layer.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Folder of a trained policy to start from.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Measurements, as a total.")] = None,
    finalists: Annotated[int | None, typer.Option(help="Plans that are fine-tuned in the end.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    set_: Set = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; a new one below results/ when left out.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run directory.")] = None,
    reuse: Annotated[bool, typer.Option(help="Take measurements of earlier searches from the cache.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Let the agent exhaustive take long without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be searched, train nothing.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search the best split, sparsity and compression for a network, its data, device, link and deadline."""
    if resume is not None and out is not None:
        raise ConfigError("--resume continues a run in its own directory; leave --out away, or begin a new run with it")
    options: dict[str, Any] = {
        "conditions.budget_ms": budget_ms, "dataset": dataset, "image_size": image_size, "backbone": backbone,
        "weights": weights, "codecs": tuple(codec) if codec else None, "conditions.device": device,
        "conditions.edge": edge, "conditions.channel": channel, "latency_model": latency_model,
        "objective": objective, "search.agent": agent, "search.granularity": granularity,
        "search.policy": str(policy) if policy else None,
        "search.evaluations": evaluations, "search.finalists": finalists, "search.seed": seed,
    }
    assigned = assignments(set_)
    wanted = _scenario(scenario, resume, options, assigned)
    bounded = resume is not None or evaluations is not None or "search.evaluations" in assigned
    if assigned.get("search.agent", agent) == "exhaustive" and not bounded:
        wanted = _whole(wanted, data_root, quiet)
    if dry_run:
        from autosplit.cli.dry_run import describe

        describe(wanted, data_root, as_json, quiet)
        return
    _run(wanted, resume or out, resume is not None, data_root, reuse, as_json, quiet, yes)


def _scenario(name: str, resume: Path | None, options: dict[str, Any], assigned: dict[str, Any]) -> Scenario:
    from autosplit.core.scenario import load_scenario

    if resume is not None:
        recorded = resume / "scenario.yaml"
        if not recorded.is_file():
            raise ResumeError(f"{resume} is no run directory (it holds no scenario.yaml); "
                              "start a search without --resume")
        name = str(recorded)
    return changed(load_scenario(name), options, assigned, rename=resume is None)


def _whole(scenario: Scenario, data_root: Path | None, quiet: bool) -> Scenario:
    """The scenario with as many measurements as there are plans."""
    from autosplit.report.progress import Progress
    from autosplit.training.prepare import untrained

    prepared = untrained(scenario, Progress(quiet=quiet), data_root=data_root)
    return scenario.replace(**{"search.evaluations": len(prepared.supernet.plan_space)})


def _run(
    scenario: Scenario, run: Path | None, resume: bool, data_root: Path | None, reuse: bool, as_json: bool, quiet: bool,
    yes: bool,
) -> None:
    from autosplit.pipeline.ledger import LEDGER_FILE
    from autosplit.pipeline.search import new_run, search_scenario
    from autosplit.report.progress import Progress

    run = run or new_run(scenario, RESULTS)
    try:
        result = search_scenario(scenario, run, resume=resume, progress=Progress(quiet=quiet), data_root=data_root,
                                 reuse=reuse, most_exhaustive=None if yes else _MOST_EXHAUSTIVE)
    except KeyboardInterrupt:
        if (run / LEDGER_FILE).exists():
            say(f"interrupted; every finished measurement is kept: autosplit search --resume {run}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json")))
    else:
        _print(result, run)
    _publish(result, run, quiet)
    if not result.feasible:
        say(f"nothing is feasible within {scenario.conditions.budget_ms:g} ms; the least infeasible plan is in {run}")
        raise typer.Exit(EXIT_INFEASIBLE)


def _print(result: Result, run: Path) -> None:
    from autosplit.report.tables import comparison_table

    print_rich(comparison_table(result.comparison, result.scenario.conditions.budget_ms))
    verdict = "found" if result.feasible else "least infeasible"
    print_rich(f"{verdict}: {result.plan.label}  (run directory {run})")


def _publish(result: Result, run: Path, quiet: bool) -> None:
    """Write results/best.json for the first run below results/; never over another."""
    best = RESULTS / "best.json"
    if run.parent == RESULTS and not best.exists() and result.feasible:
        result.save(best, weights=run / result.stored.weights)
    if not quiet:
        say(f"replay it with: autosplit replay {run / 'best.json'}")
