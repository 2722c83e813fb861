"""How results show themselves in a notebook: HTML of a few lines, without script."""

from __future__ import annotations

import html
from collections.abc import Sequence

from autosplit.core.comparison import ComparisonRow
from autosplit.core.measurement import LatencySummary, Outcome
from autosplit.core.result import Result
from autosplit.report.tables import STAGES
from autosplit.report.templates import environment
from autosplit.report.verdict import verdict

__all__ = ["comparison_html", "latency_html", "outcome_html"]


def comparison_html(rows: Sequence[ComparisonRow], budget_ms: float) -> str:
    """The verdict, and the chosen plan beside the baselines.

    Args:
        rows: The comparison.
        budget_ms: The deadline.
    """
    return environment().get_template("notebook.html.j2").render(rows=rows, verdict=verdict(rows, budget_ms))


def latency_html(latency: LatencySummary) -> str:
    """Stages, end to end, in time, energy."""
    cells = [(stage, f"{getattr(latency, f'{stage}_ms'):.1f} ms") for stage in STAGES]
    cells += [("p50", f"{latency.p50_ms:.1f} ms"), ("p95", f"{latency.p95_ms:.1f} ms"),
              ("in time", f"{100 * latency.in_time:.1f} %"), ("energy", f"{latency.energy_mj:.2f} mJ")]
    return table_html(cells)


def outcome_html(outcome: Outcome) -> str:
    """Plan, what was measured, and what the latency model predicts."""
    measured, times = outcome.measurement, outcome.latency
    return table_html([
        ("plan", outcome.plan.label), (f"accuracy ({measured.fidelity})", f"{100 * measured.accuracy:.1f} %"),
        ("payload", f"{measured.workload.payload_bytes_mean:,.0f} B"), ("p50", f"{times.p50_ms:.1f} ms"),
        ("p95", f"{times.p95_ms:.1f} ms"),
        (f"within {outcome.budget_ms:g} ms", "yes" if outcome.feasible else "no"),
        ("energy", f"{times.energy_mj:.2f} mJ"), ("reward", f"{outcome.reward:.3f}"),
    ])


def table_html(cells: Sequence[tuple[str, str]]) -> str:
    """One row of values below their titles; both are escaped."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title, _ in cells)
    values = "".join(f"<td>{html.escape(value)}</td>" for _, value in cells)
    return f"<table><thead><tr>{titles}</tr></thead><tbody><tr>{values}</tr></tbody></table>"


def result_html(result: Result) -> str:
    """A result as its comparison."""
    return comparison_html(result.comparison, result.scenario.conditions.budget_ms)


# Notebooks ask an object for this method. It is set here, so that `core` does not depend on how things are shown.
for _shown, _html in ((LatencySummary, latency_html), (Outcome, outcome_html), (Result, result_html)):
    setattr(_shown, "_repr_html_", _html)  # noqa: B010
