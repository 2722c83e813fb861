"""What a search found, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from autosplit.core.comparison import ComparisonRow, quickest_baseline
from autosplit.report.style import short_number

__all__ = ["verdict"]

_EVEN = 0.05  # points of accuracy, and share of the latency, that make no difference worth a word


def verdict(rows: Sequence[ComparisonRow], budget_ms: float) -> str:
    """The chosen plan against the best baseline: p95 latency, accuracy lost, in time or not.

    Args:
        rows: The comparison, test accuracies; exactly one row is the chosen plan.
        budget_ms: The deadline.
    """
    chosen = next(row for row in rows if row.chosen)
    p95, budget = (f"{short_number(value)} ms" for value in (chosen.latency.p95_ms, budget_ms))
    if chosen.feasible:
        opening = f"The plan answers in {p95} (p95) of the {budget} allowed"
    else:
        opening = f"No plan is in time: the least late one takes {p95} (p95) where {budget} are allowed"
    return f"{opening}{_against(chosen, quickest_baseline(rows))}, and {_loss(chosen)}."


def _against(chosen: ComparisonRow, baseline: ComparisonRow | None) -> str:
    if baseline is None or not chosen.latency.p95_ms:
        return ""
    factor = baseline.latency.p95_ms / chosen.latency.p95_ms
    if abs(factor - 1) < _EVEN:
        how = "as fast as"
    else:
        how = f"{factor:.1f} times faster than" if factor > 1 else f"{1 / factor:.1f} times slower than"
    return f", {how} the best baseline ({baseline.name}, {short_number(baseline.latency.p95_ms)} ms)"


def _loss(chosen: ComparisonRow) -> str:
    points, accuracy = chosen.accuracy_loss_points, f"{chosen.accuracy:.1%}".replace("%", " %")
    uncut = f"{chosen.accuracy * 100 + points:.1f} %"
    if abs(points) < _EVEN:
        return f"loses no accuracy ({accuracy})"
    change = f"loses {points:.1f}" if points > 0 else f"gains {-points:.1f}"
    return f"{change} points of accuracy ({accuracy} against {uncut} of the uncut network)"
