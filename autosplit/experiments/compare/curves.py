"""What the figures of a comparison show: frontiers of codecs, chosen deployments, and what other rates would change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from autosplit.core.comparison import FINALIST
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Measurement
from autosplit.core.scenario import Scenario
from autosplit.evaluation.scorer import Scorer
from autosplit.experiments.compare.literature import STUDENT
from autosplit.experiments.compare.run import Comparison
from autosplit.latency.exits import in_time_accuracy
from autosplit.report.comparison_figures import Panel, Series

__all__ = ["latency_panels", "payload_panels", "rate_panels", "scaled_rate", "titles"]

_FACTORS = np.geomspace(1 / 30, 30, 37)


def payload_panels(comparisons: Sequence[Comparison]) -> list[Panel]:
    """A panel a network: the frontiers of everything that its scenarios measured, and what they chose.

    A frontier is the best accuracy at F1 on validation images with at most so many bytes; marks are test images.
    """
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.networks, []).append(comparison)
    return [_payload_panel(group) for group in groups.values()]


def _payload_panel(group: Sequence[Comparison]) -> Panel:
    families: dict[str, set[tuple[float, float]]] = {}
    for method, measurement in ((method, m) for c in group for method, pool in c.measured.items() for m in pool):
        codec, payload = measurement.plan.codec, measurement.workload.payload_bytes_mean
        name = STUDENT if method == STUDENT else codec.family or codec.kind  # which has a code of our own family
        if codec.kind == "code" or (codec.image and codec.quality is not None):
            families.setdefault(name, set()).add((payload, measurement.accuracy))
    right = max((x for points in families.values() for x, _ in points), default=1.0)
    scenario = group[0].scenario
    marks = dict.fromkeys((r.method, (r.payload_bytes, r.accuracy)) for c in group for r in c.rows
                          if r.payload_bytes and r.method != FINALIST)
    return Panel(
        f"{scenario.backbone.rpartition('/')[2]} on {scenario.dataset.rpartition('/')[2]}",
        lines=tuple(Series(n, _frontier(points, right)) for n, points in families.items()),
        dots=tuple(Series(n, tuple(sorted(points))) for n, points in families.items()),
        marks=tuple(Series(method, (point,)) for method, point in marks),
    )


def _frontier(points: Iterable[tuple[float, float]], right: float) -> tuple[tuple[float, float], ...]:
    """Best accuracy so far with growing payload, up to the right end."""
    found: list[tuple[float, float]] = []
    for payload, accuracy in sorted(points):
        if not found or accuracy > found[-1][1]:
            found.append((payload, accuracy))
    return (*found, (right, found[-1][1]))


def latency_panels(comparisons: Sequence[Comparison]) -> list[Panel]:
    """A panel a scenario: every row, with the budget."""
    return [Panel(title, marks=tuple(Series(r.method, ((r.latency.p95_ms, r.accuracy),)) for r in c.rows
                                     if r.method != FINALIST),
                  limit=c.scenario.conditions.budget_ms)
            for c, title in zip(comparisons, titles(comparisons), strict=True)]


def rate_panels(comparisons: Sequence[Comparison]) -> list[Panel]:
    """A panel a scenario: each baseline's best in-time accuracy where its link is slower or faster."""
    return [_rate_panel(c, title) for c, title in zip(comparisons, titles(comparisons), strict=True)]


def _rate_panel(comparison: Comparison, title: str) -> Panel:
    scenario = comparison.scenario
    rate = scenario.conditions.channel.uplink_kbps.value
    conditions = [scaled_rate(scenario.conditions, float(f)) for f in _FACTORS]
    lines = []
    for row in comparison.rows:
        if row.method not in comparison.measured:  # a finalist, of the plans that the search measured
            continue
        best = _best_in_time(comparison.measured[row.method], scenario, conditions)
        points = zip((rate * _FACTORS).tolist(), best.tolist(), strict=True)
        lines.append(Series(row.method, tuple(points)))
    return Panel(title, lines=tuple(lines), limit=rate)


def _best_in_time(
    measured: Sequence[Measurement], scenario: Scenario, conditions: Sequence[Conditions]
) -> np.typing.NDArray[np.float64]:
    """Highest expected in-time accuracy among measured plans, under each of the conditions."""
    breakdown = Scorer.of(scenario).latency_model.latency([m.workload for m in measured], conditions)
    best: np.typing.NDArray[np.float64] = in_time_accuracy(measured, breakdown.in_time).max(axis=0)
    return best


def scaled_rate(conditions: Conditions, factor: float) -> Conditions:
    """The same conditions with uplink and downlink so many times as fast."""
    return conditions.model_copy(update={"channel": conditions.channel.scaled(factor, 1.0)})


def titles(comparisons: Sequence[Comparison]) -> list[str]:
    """What tells the scenarios apart: device, channel and budget, with the name where there are several names."""
    several = len({c.scenario.name for c in comparisons}) > 1
    found = []
    for c in comparisons:
        where = c.scenario.conditions
        title = f"{where.device.name}, {where.channel.name}, {where.budget_ms:g} ms"
        found.append(f"{c.scenario.name}: {title}" if several else title)
    return found
