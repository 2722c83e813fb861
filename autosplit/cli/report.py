"""`autosplit report`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import reported
from autosplit.cli.options import AsJson, TrustCode
from autosplit.runtime.standalone.errors import printable

__all__ = ["command"]


class Format(str, Enum):
    """Kinds of figure files."""

    PNG = "png"
    SVG = "svg"


@reported
def command(
    run: Annotated[Path, typer.Argument(help="The run directory of a finished search.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; RUN/report.html when left out.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder that the figures are written to as well.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="Format of these figures: png or svg.")] = Format.PNG,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a run as one HTML page that opens anywhere without network, and its figures as files."""
    from autosplit.pipeline.ledger import load_baselines, load_run
    from autosplit.report.draw_matplotlib import draw_figures
    from autosplit.report.page import REPORT_FILE, write_report
    from autosplit.report.verdict import verdict

    result, outcomes = load_run(run, trust_code=trust_code)
    page = out or run / REPORT_FILE
    baselines = load_baselines(run)
    write_report(result, outcomes, page, baselines)
    drawn = draw_figures(result, outcomes, figures, format_.value, baselines) if figures is not None else []
    sentence = verdict(result.comparison, result.scenario.conditions.budget_ms, result.best_baseline)
    if as_json:
        typer.echo(json.dumps({"verdict": sentence, "page": str(page), "figures": [str(path) for path in drawn]}))
        return
    for line in (sentence, *(f"written to {path}" for path in (page, *drawn))):
        typer.echo(printable(line))
