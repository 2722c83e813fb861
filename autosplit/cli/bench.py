"""`autosplit bench`: tables of truth, and methods measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.common import EXIT_INTERRUPTED, AsJson, DataRoot, Quiet, Set, assignments, changed, reported, say
from autosplit.errors import ConfigError

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure whole plan spaces, and compare search methods on them.",
                  no_args_is_help=True, rich_markup_mode=None)


@app.command(name="table")
@reported
def table(
    out: Annotated[Path, typer.Option(help="The table: NAME.csv or NAME.csv.gz; its record is NAME.json beside it.")],
    scenario: Annotated[str, typer.Option(help="Packaged scenario, or a YAML file.")] = "default",
    set_: Set = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure every plan of a scenario's space once (F1); the same command goes on with what was stopped."""
    from autosplit.report.progress import Progress
    from autosplit.scenario import load_scenario
    from autosplit.tabulate import tabulate

    if not out.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"--out {str(out)!r}: name a table NAME.csv or NAME.csv.gz")
    wanted = changed(load_scenario(scenario), {}, assignments(set_))
    try:
        made = tabulate(wanted, out, progress=Progress(quiet=quiet), data_root=data_root)
    except KeyboardInterrupt:
        say("interrupted; what was measured is in the cache, and the same command goes on from there")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        typer.echo(made.record.model_dump_json())
        return
    best = max(made.evaluator.measurements, key=lambda m: m.accuracy)
    typer.echo(f"{made.record.plans} plans in {out}; uncut network {made.record.backbone_accuracy:.1%}, "
               f"best plan {best.accuracy:.1%} ({best.plan.label})")
