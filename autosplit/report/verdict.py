"""What a search found, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from autosplit.core.comparison import ComparisonRow, quickest_baseline
from autosplit.report.style import quantity

__all__ = ["verdict"]

_EVEN = 0.05  # points of accuracy, and share of the latency, that make no difference worth a word


def verdict(rows: Sequence[ComparisonRow], budget_ms: float) -> str:
    """The chosen plan against the best baseline: p95 latency, accuracy lost, in time or not.

    Args:
        rows: The comparison, test accuracies; exactly one row is the chosen plan.
        budget_ms: The deadline.
    """
    chosen = next(row for row in rows if row.chosen)
    p95, accuracy, points = chosen.latency.p95_ms, 100 * chosen.accuracy, chosen.accuracy_loss_points
    budget = quantity(budget_ms, "ms")
    if chosen.feasible:
        opening = f"The plan answers in {quantity(p95, 'ms')} (p95) of the {budget} allowed"
    else:
        opening = f"No plan is in time: the least late one takes {quantity(p95, 'ms')} (p95) where {budget} are allowed"
    if (baseline := quickest_baseline(rows)) is not None and p95:
        factor = baseline.latency.p95_ms / p95
        if abs(factor - 1) < _EVEN:
            how = "as fast as"
        else:
            how = f"{factor:.1f} times faster than" if factor > 1 else f"{1 / factor:.1f} times slower than"
        opening += f", {how} the best baseline ({baseline.name}, {quantity(baseline.latency.p95_ms, 'ms')})"
    if abs(points) < _EVEN:
        return f"{opening}, and loses no accuracy ({accuracy:.1f} %)."
    change = f"loses {points:.1f}" if points > 0 else f"gains {-points:.1f}"
    return (f"{opening}, and {change} points of accuracy ({accuracy:.1f} % against {accuracy + points:.1f} % of the "
            "uncut network).")
