"""What a search found, in one sentence: what a split buys over the best other deployment, or what to deploy instead."""

from __future__ import annotations

from collections.abc import Sequence

from autosplit.core.comparison import OWN_FILES, ComparisonRow, best_baseline, best_split
from autosplit.core.result import Chosen
from autosplit.report.style import quantity

__all__ = ["finding", "verdict", "why_chosen"]

_EVEN = 0.05  # points of accuracy, and share of a latency or an energy, that make no difference worth a word


def verdict(rows: Sequence[ComparisonRow], budget_ms: float, baseline: str = "") -> str:
    """The chosen deployment, and what a split brings against the best deployment without one, or does not bring.

    Args:
        rows: The comparison, test accuracies; exactly one row is the chosen plan.
        budget_ms: The deadline.
        baseline: Method of the baseline that was best on validation images; the one of the highest in-time accuracy
            when left out.
    """
    chosen, split, other = _entrants(rows, baseline)
    budget, p95 = quantity(budget_ms, "ms"), quantity(chosen.latency.p95_ms, "ms")
    if not chosen.feasible:
        return (f"No deployment is in time: the least late one, {chosen.plan}, takes {p95} (p95) where {budget} are "
                f"allowed, and is right for {_percent(chosen)}.")
    what = f"{_percent(chosen)} right within {p95} (p95) of the {budget} allowed"
    if chosen.is_cascade:
        opening = f"Cascade: {_name(chosen)}: {what}"
        if other is not None:
            opening += (f". Against the best deployment of one kind ({other.name}) it has {_against(chosen, other)}"
                        f"{'' if other.feasible else ', which is late'}")
        # the simpler cascade, or the one with a split, so that nobody takes the sender for the reason
        second = next((row for row in rows if row.is_cascade and not row.chosen), None)
        if second is not None:
            sender = "a picture" if second.plan.startswith("input") else "a split"
            opening += f". The best cascade that sends {sender} instead has {_against(second, chosen)}"
        return f"{opening}."
    if split is not chosen:
        opening = f"Deploy {_name(chosen)}: {what}"
        if other is not None and other.feasible and other.method == OWN_FILES:
            opening += f"; sending your own files as they are has {_against(other, chosen)}"
        if split is None:
            return f"{opening}. No split was in time."
        return f"{opening}. A split buys nothing here: the best one ({split.plan}) has {_against(split, chosen)}."
    opening = f"Split: {chosen.plan} is {what}"
    if other is None:
        return f"{opening}."
    if not other.feasible:
        return (f"{opening}, and no baseline is in time: the best ({other.name}) takes "
                f"{quantity(other.latency.p95_ms, 'ms')}.")
    return f"{opening}. Against the best other deployment ({other.name}) it has {_against(chosen, other)}."


def finding(rows: Sequence[ComparisonRow], budget_ms: float, baseline: str = "") -> str:
    """The verdict, short enough for the title of a figure; arguments as of `verdict`."""
    chosen, split, other = _entrants(rows, baseline)
    if not chosen.feasible:
        return (f"No deployment meets {budget_ms:g} ms; the least late takes "
                f"{quantity(chosen.latency.p95_ms, 'ms')} at {_percent(chosen)}")
    opening = f"{_percent(chosen)} within {budget_ms:g} ms: {'cascade' if chosen.is_cascade else _name(chosen)}"
    if split is not chosen and not chosen.is_cascade:
        return f"{opening}; a split buys nothing"
    if other is None or not other.feasible:
        return f"{opening}; no baseline is in time"
    if chosen.is_cascade:
        energy = chosen.latency.energy_mj / other.latency.energy_mj if other.latency.energy_mj else 1.0
        gap = 100 * (chosen.accuracy - other.accuracy)
        return f"{opening}; {gap:+.1f} points at {energy:.1f} times the energy of the best baseline"
    factor, gap = other.latency.p95_ms / chosen.latency.p95_ms, 100 * (chosen.accuracy - other.accuracy)
    return f"{opening}; {gap:+.1f} points, {_times(factor, 'faster', 'slower')} than the best baseline"


def why_chosen(choice: Chosen | None) -> str:
    """Why this plan and no other, in a few words."""
    if choice is None:
        return "the file does not say why"
    images = f"{choice.images:,} validation images"
    if choice.sources is not None:
        images += f" made from {choice.sources:,} sources"
    if not choice.equals:
        return "it is the least late one"
    if len(choice.equals) == 1:
        return f"by {images} it is better than every other fine-tuned plan that is in time"
    bound = " and that are at most a point below it" if choice.half_width_points > 1 else ""
    return (f"it is the cheapest (energy, then bytes, then latency) of {len(choice.equals)} plans in time that "
            f"{images} cannot tell apart from the best one{bound}; differences below about "
            f"{choice.half_width_points:.1f} points do not show in them")


def _entrants(
    rows: Sequence[ComparisonRow], baseline: str
) -> tuple[ComparisonRow, ComparisonRow | None, ComparisonRow | None]:
    """The chosen row, the best split and the best baseline."""
    return next(row for row in rows if row.chosen), best_split(rows), best_baseline(rows, baseline)


def _percent(row: ComparisonRow) -> str:
    return f"{100 * row.accuracy:.1f} %"


def _name(row: ComparisonRow) -> str:
    """The chosen deployment in words."""
    split, *rest = row.plan.split(" | ")
    if row.is_cascade and row.exit is not None:
        network = row.exit.exit.network
        pruned = network.label.split(" | ")[1:] if network is not None else []
        device = " ".join(["the whole network on the device", *(f"({part})" for part in pruned)])
        sent = f"the picture as {rest[0]}" if split == "input" else f"split {' | '.join([split, *rest[:-1]])}"
        return (f"{device} answers where it is {100 * row.exit.exit.threshold:g} % sure, else {sent} is sent "
                f"({100 * row.exit.sent:.1f} % of the images)")
    if split == "output":
        return " ".join(["the whole network on the device", *(f"({part})" for part in rest)])
    return f"the picture as {', '.join(rest)}, and the network on the edge" if split == "input" else f"split {row.plan}"


def _against(row: ComparisonRow, other: ComparisonRow) -> str:
    """Accuracy, latency and energy of a row against another: "0.3 points more accuracy (95 %: -0.4 to 1.0), ..."."""
    points = 100 * (row.accuracy - other.accuracy)
    related, sign = (row, 1.0) if other.chosen else (other, -1.0)
    interval = ""
    if related.difference_low_points is not None and related.difference_high_points is not None:
        low, high = sorted((sign * related.difference_low_points, sign * related.difference_high_points))
        interval = f" (95 % interval {low:+.1f} to {high:+.1f})"
    accuracy = f"{abs(points):.1f} points {'more' if points > 0 else 'less'} accuracy"
    if abs(points) < _EVEN:
        accuracy = "the same accuracy"
    times = _times(other.latency.p95_ms / row.latency.p95_ms, "faster", "slower")
    energy = row.latency.energy_mj / other.latency.energy_mj if other.latency.energy_mj else 1.0
    return f"{accuracy}{interval}, is {times} and takes {energy:.1f} times the energy"


def _times(factor: float, more: str, less: str) -> str:
    if abs(factor - 1) < _EVEN:
        return f"no {more}"
    return f"{factor:.1f} times {more}" if factor > 1 else f"{1 / factor:.1f} times {less}"
