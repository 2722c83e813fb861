"""The report of a run: one HTML file that needs nothing but a browser.

Charts are drawn by plotly's own script, which is put into the page compressed (2 MB instead of 5): no request leaves
the page, which its content security policy makes sure of.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.core.plan import Outcome
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.report.figures import HeatMap, SearchCurve, energy_bars, stage_bars
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import DARK
from autosplit.report.templates import environment
from autosplit.report.verdict import verdict

__all__ = ["REPORT_FILE", "measured_plans", "report_page", "sensitivity_of", "write_report"]

REPORT_FILE = "report.html"


def write_report(result: Result, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the report of a run.

    Args:
        result: What the search found.
        outcomes: Its ledger.
        path: The HTML file; folders on the way are made.

    Raises:
        ConfigError: The file cannot be written.
    """
    page = report_page(result, outcomes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror or e}; give another file with --out") from e


def report_page(result: Result, outcomes: Sequence[Outcome]) -> str:
    """The report as HTML.

    Args:
        result: What the search found.
        outcomes: Its ledger, in the order of the search.
    """
    sensitivity, problem = sensitivity_of(result, outcomes)
    measured = measured_plans(outcomes)
    heat_map = HeatMap.of(measured)
    return environment().get_template("report.html.j2").render(
        result=result, scenario=result.scenario, conditions=result.scenario.conditions,
        budget_ms=result.scenario.conditions.budget_ms, rows=result.comparison,
        chosen=next(row for row in result.comparison if row.chosen),
        verdict=verdict(result.comparison, result.scenario.conditions.budget_ms),
        measured=measured, heat_map=heat_map, sensitivity=sensitivity, problem=problem,
        data=_embedded(_data(result, outcomes, heat_map, sensitivity)),
        plotly=_packed_plotly(), yaml=result.scenario.to_yaml(),
    )


def measured_plans(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that were measured by the supernet (F1), which can be compared with each other."""
    return [o for o in outcomes if o.measurement.fidelity == "F1"]


def sensitivity_of(result: Result, outcomes: Sequence[Outcome]) -> tuple[Sensitivity | None, str]:
    """The measured plans under other conditions, or why that cannot be told (a latency model that is not there)."""
    try:
        return Sensitivity.of(measured_plans(outcomes), Scorer.of(result.scenario)), ""
    except AutosplitError as e:
        return None, " ".join(str(e).split())


def _data(result: Result, outcomes: Sequence[Outcome], heat_map: HeatMap, sensitivity: Sensitivity | None
          ) -> dict[str, Any]:
    """Everything that the page's script reads."""
    from autosplit.report import interactive

    budget, objective = result.scenario.conditions.budget_ms, result.scenario.objective.partition(":")[0]
    figures = {
        "tradeoff": interactive.tradeoff_figure(outcomes, result.comparison, result.outcome),
        "stages": interactive.stages_figure(stage_bars(result.comparison, budget), budget),
        "heat-map": interactive.heat_map_figure(heat_map),
        "search-curve": interactive.search_curve_figure(SearchCurve.of(measured_plans(outcomes)), objective),
        "energy": interactive.energy_figure(energy_bars(result.comparison)),
    }
    lookup: dict[str, Any] | None = None
    if sensitivity is not None:
        figures["sensitivity"], figures["map"], lookup = interactive.sensitivity_figures(sensitivity)
    for figure in figures.values():
        figure.layout.template = None
    return {"figures": {name: figure.to_plotly_json() for name, figure in figures.items()},
            "template": interactive.template(), "dark": DARK, "sensitivity": lookup}


def _embedded(data: dict[str, Any]) -> str:
    """JSON that may stand within a script element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _packed_plotly() -> str:
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode("ascii")
