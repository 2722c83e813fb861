"""`autosplit compare`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.cli.common import (
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

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario
    from autosplit.experiments.compare import Comparison, Failure, Report

__all__ = ["command"]

_MOST_TABLES = 2  # more scenarios than this are summed up, a line each


@reported
def command(
    scenario: Annotated[list[str] | None, typer.Option(
        help="Packaged scenario, or a YAML file; several times for several [default: default].")] = None,
    budget_ms: BudgetMs = None,
    device: Annotated[list[str] | None, typer.Option(help="Device profile, or a YAML file; may be repeated.")] = None,
    channel: Annotated[list[str] | None, typer.Option(help="Channel profile, or a YAML file; may be repeated.")] = None,
    finalists: Annotated[int | None, typer.Option(help="Plans that each baseline fine-tunes.")] = None,
    set_: Set = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(
        help="Folder of tables, figures and runs; results/compare-SCENARIO when left out.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Set a search beside every baseline, in one scenario or in each of scenarios x devices x channels."""
    from autosplit.experiments.compare import Report, compare
    from autosplit.experiments.compare.files import draw_figures, write_tables
    from autosplit.report.progress import Progress

    names = scenario or ["default"]
    options = {"conditions.budget_ms": budget_ms, "search.finalists": finalists}
    wanted = _grid(names, device or [None], channel or [None], options, assignments(set_))
    folder = out or RESULTS / f"compare-{_title(wanted)}"
    so_far = Report()

    def keep(report: Report) -> None:
        nonlocal so_far
        so_far = report
        write_tables(report.done, folder)

    try:
        report = compare(wanted, folder, progress=Progress(quiet=quiet), data_root=data_root, on_done=keep)
    except KeyboardInterrupt:
        say(f"interrupted; {len(so_far.done)} of {len(wanted)} scenarios are in {folder}, "
            "and the same command goes on from there")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    files = [*write_tables(report.done, folder), *draw_figures(report.done, folder)]
    if as_json:
        typer.echo(json.dumps(_data(report, files)))
    else:
        _print(report.done, files)
    _tell(report.failed)


def _grid(
    names: Sequence[str], devices: Sequence[str | None], channels: Sequence[str | None], options: dict[str, Any],
    assigned: dict[str, Any],
) -> list[Scenario]:
    """Every scenario with every device and channel, each once; `None` = the scenario's own."""
    from autosplit.core.scenario import load_scenario

    found: dict[str, Scenario] = {}
    for name, device, channel in itertools.product(names, devices, channels):
        conditions = {"conditions.device": device, "conditions.channel": channel}
        scenario = changed(load_scenario(name), options | conditions, assigned)
        found[scenario.fingerprint] = scenario
    return list(found.values())


def _title(scenarios: Sequence[Scenario]) -> str:
    """Name of the folder: of the first scenario, and how many more names there are."""
    names = list(dict.fromkeys(s.name for s in scenarios))
    return names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"


def _data(report: Report, files: Sequence[Path]) -> dict[str, Any]:
    comparisons = [{
        "scenario": c.scenario.model_dump(mode="json"), "run": str(c.run),
        "rows": [row.model_dump(mode="json") | {"in_time_accuracy": row.in_time_accuracy} for row in c.rows],
    } for c in report.done]
    failed = [{"scenario": f.scenario.model_dump(mode="json"), "error": str(f.error)} for f in report.failed]
    return {"comparisons": comparisons, "failed": failed, "files": [str(path) for path in files]}


def _print(comparisons: Sequence[Comparison], files: Sequence[Path]) -> None:
    from autosplit.experiments.compare.curves import titles
    from autosplit.experiments.compare.files import summary
    from autosplit.report.tables import comparison_table, summary_table

    if len(comparisons) > _MOST_TABLES:
        print_rich(summary_table(summary(comparisons)))
    else:
        for comparison, title in zip(comparisons, titles(comparisons), strict=True):
            print_rich(f"{comparison.scenario.name}: {title}",
                       comparison_table(comparison.rows, comparison.scenario.conditions.budget_ms))
    folder = files[0].parent
    print_rich(f"written to {folder}: {', '.join(path.name for path in files)}")


def _tell(failed: Sequence[Failure]) -> None:
    """A line each scenario that failed, and the exit code of the first."""
    for failure in failed:
        where = failure.scenario.conditions
        say(f"error: {failure.scenario.name}, {where.device.name}, {where.channel.name}: "
            f"{' '.join(str(failure.error).split())}")
    if failed:
        raise typer.Exit(failed[0].error.exit_code)
