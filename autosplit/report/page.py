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

from autosplit.core.errors import ConfigError
from autosplit.core.files import write_whole
from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.result import Result
from autosplit.report.deployment_map import DeploymentMap
from autosplit.report.draw_plotly import TEMPLATE, page_chart
from autosplit.report.figures import run_figures
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import DARK, quantity
from autosplit.report.templates import environment
from autosplit.report.verdict import verdict, why_chosen

__all__ = ["REPORT_FILE", "report_page", "write_report"]

REPORT_FILE = "report.html"


def write_report(
    result: Result, outcomes: Sequence[Outcome], path: Path, baselines: Sequence[Measurement] = ()
) -> None:
    """Write the report of a run.

    Args:
        result: What the search found.
        outcomes: Its ledger.
        path: The HTML file; folders on the way are made.
        baselines: What its baselines measured.

    Raises:
        ConfigError: The file cannot be written.
    """
    page = report_page(result, outcomes, baselines)
    try:
        write_whole(path, page)  # a browser may have the old page open
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror or e}; give another file with --out") from e


def report_page(result: Result, outcomes: Sequence[Outcome], baselines: Sequence[Measurement] = ()) -> str:
    """The report as HTML.

    Args:
        result: What the search found.
        outcomes: Its ledger, in the order of the search.
        baselines: What its baselines measured.
    """
    sensitivity, problem = Sensitivity.of_run(result, outcomes)
    found, _ = DeploymentMap.of_run(result, outcomes, baselines)
    figures = run_figures(result, outcomes, sensitivity, found)
    budget_ms = result.scenario.conditions.budget_ms
    data = {"figures": {name: page_chart(figure.charts[0]) for name, figure in figures.items()},
            "template": TEMPLATE, "dark": DARK, "sensitivity": sensitivity and slider_data(sensitivity)}
    # Within a script element nothing may look like the element's end.
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return environment().get_template("report.html.j2").render(
        result=result, scenario=result.scenario, conditions=result.scenario.conditions,
        budget_ms=budget_ms, rows=result.comparison, elsewhere=found,
        chosen=next(row for row in result.comparison if row.chosen),
        verdict=verdict(result.comparison, budget_ms, result.best_baseline), figures=figures,
        why=why_chosen(result.choice), sensitivity=sensitivity, problem=problem, data=embedded, plotly=packed_plotly(),
        yaml=result.scenario.to_yaml(),
    )


def slider_data(found: Sensitivity) -> dict[str, Any]:
    """What the page's script looks up as the sliders move, by rate, then by budget or plan.

    Args:
        found: The measured plans over a grid of link rates and budgets.
    """
    # Five figures are more than the page shows, and keep it small.
    def rounded(values: Any) -> list[float]:
        return [float(f"{v:.5g}") for v in values]

    measured, latency = [o.measurement for o in found.outcomes], found.latency
    return {
        "home": list(found.home),
        "rates": [f"{kbps / 1000:.3g} Mb/s" if kbps >= 1000 else f"{kbps:.3g} kb/s" for kbps in found.rates_kbps],
        "budgets": [quantity(budget, "ms") for budget in found.budgets_ms],
        "budgets_ms": rounded(found.budgets_ms),
        "plans": [o.plan.label for o in found.outcomes],
        "accuracy": [100 * m.accuracy for m in measured],
        "bytes": [m.workload.payload_bytes_mean for m in measured],
        "p50_ms": [rounded(column) for column in latency.p50_ms.T],
        "p95_ms": [rounded(column) for column in latency.p95_ms.T],
        "energy_mj": [rounded(column) for column in latency.energy_mj.T],
        "best": found.best.tolist(),
        "in_time": [rounded(row) for row in found.in_time],
        "feasible": found.feasible.astype(int).tolist(),
    }


@cache
def packed_plotly() -> str:
    """The script of plotly, compressed, in base64; without a time, so that equal runs give equal pages."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode("ascii")
