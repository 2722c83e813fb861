"""`autosplit compare`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.cli.console import RESULTS, announce, goes_on, print_error, print_rich, quoted, reported, say_next
from autosplit.cli.options import (
    AcceleratorKind,
    AsJson,
    Channels,
    DataRoot,
    Devices,
    Jobs,
    OptionalDeadline,
    Quiet,
    RayCluster,
    Set,
    TrustCode,
    assignments,
    changed,
)
from autosplit.core.hiring import workers_of

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario
    from autosplit.experiments.compare import Report

__all__ = ["command", "scenario_grid"]

_MOST_TABLES = 2  # more scenarios than this are summed up, a line each


@reported
def command(
    scenario: Annotated[list[str] | None, typer.Option(
        help="Packaged scenario, or a YAML file; several times for several [default: default].")] = None,
    budget_ms: OptionalDeadline = None,
    device: Devices = None,
    channel: Channels = None,
    finalists: Annotated[int | None, typer.Option(help="Plans that each baseline fine-tunes.")] = None,
    accelerator: AcceleratorKind = None,
    jobs: Jobs = 1,
    cluster: RayCluster = None,
    set_: Set = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(
        help="Folder of tables, figures and runs; results/compare-SCENARIO when left out.")] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a search with every baseline, in one scenario or in each of scenarios x devices x channels."""
    from autosplit.cli.estimate import estimate_comparison
    from autosplit.experiments.compare import Report, compare
    from autosplit.experiments.compare.curves import titles
    from autosplit.experiments.compare.files import draw_figures, summary, write_tables
    from autosplit.report.progress import Progress
    from autosplit.report.tables import comparison_table, summary_table

    options = {"conditions.budget_ms": budget_ms, "search.finalists": finalists,
               "training.accelerator": accelerator}
    wanted = scenario_grid(scenario or ["default"], device or [None], channel or [None], options, assignments(set_),
                           trust_code)
    names = list(dict.fromkeys(s.name for s in wanted))
    more = f"-and-{len(names) - 1}-more" if len(names) > 1 else ""
    folder = out or RESULTS / f"compare-{names[0]}{more}"
    so_far = Report()

    def keep(report: Report) -> None:
        nonlocal so_far
        so_far = report
        write_tables(report.done, folder)

    if not quiet:
        announce(estimate_comparison(wanted, data_root))
    with (goes_on(lambda: f"{len(so_far.done)} of {len(wanted)} scenarios are in {folder}"),
          workers_of(jobs, cluster) as workers):
        report = compare(wanted, folder, progress=Progress(quiet=quiet), data_root=data_root, workers=workers,
                         on_done=keep)
    done, files = report.done, [*write_tables(report.done, folder), *draw_figures(report.done, folder)]
    if as_json:
        typer.echo(json.dumps(as_data(report, files)))
    else:
        if len(done) > _MOST_TABLES:
            print_rich(summary_table(summary(done)))
        else:
            for comparison, title in zip(done, titles(done), strict=True):
                print_rich(f"{comparison.scenario.name}: {title}",
                           comparison_table(comparison.rows, comparison.scenario.conditions.budget_ms))
        print_rich(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")
        if not quiet:
            say_next(*(f"report {quoted(c.run)}  # one page about {c.scenario.name}" for c in done[:_MOST_TABLES]))
    for failure in report.failed:
        where = failure.scenario.conditions
        print_error(failure.error, f"{failure.scenario.name}, {where.device.name}, {where.channel.name}: ")
    if report.failed:
        raise typer.Exit(report.failed[0].error.exit_code)


def scenario_grid(
    names: Sequence[str], devices: Sequence[str | None], channels: Sequence[str | None], options: dict[str, Any],
    assigned: dict[str, Any], trust_code: bool = False,
) -> list[Scenario]:
    """Every scenario with every device and channel, each once; `None` = the scenario's own."""
    from autosplit.core.scenario import load_scenario

    found: dict[str, Scenario] = {}
    for name, device, channel in itertools.product(names, devices, channels):
        conditions = {"conditions.device": device, "conditions.channel": channel}
        scenario = changed(load_scenario(name, trust_code=trust_code), options | conditions, assigned)
        found[scenario.fingerprint] = scenario
    return list(found.values())


def as_data(report: Report, files: Sequence[Path]) -> dict[str, Any]:
    """What `--json` prints: every row of every scenario, what failed, and the files written."""
    return {
        "comparisons": [{
            "scenario": c.scenario.model_dump(mode="json"), "run": str(c.run),
            "rows": [row.model_dump(mode="json") | {"in_time_accuracy": row.in_time_accuracy} for row in c.rows],
        } for c in report.done],
        "failed": [{"scenario": f.scenario.model_dump(mode="json"), "error": str(f.error)} for f in report.failed],
        "files": [str(path) for path in files],
    }
