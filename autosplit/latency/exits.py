"""Latency of plans some of whose images are answered on the device: a mixture of two distributions.

An image that leaves by the exit is done when head and exit are; it is neither encoded nor sent. As every other image
takes at least as long, the quantile of the mixture at a level is the device's time up to the share that leaves, and
beyond it a quantile of what is sent, at a higher level the fewer are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.measurement import Measurement, Workload
from autosplit.latency.base import LatencyBreakdown

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["in_time_accuracy", "level_of_sent", "mixed"]


def level_of_sent(level: float, sent: float) -> float:
    """The level among the images that are sent which is a level among all; at most 0 where it falls to the device."""
    return (level - (1.0 - sent)) / sent if sent > 0 else 0.0


def mixed(
    breakdown: LatencyBreakdown, workloads: Sequence[Workload], conditions: Sequence[Conditions]
) -> LatencyBreakdown:
    """A breakdown as if every image was sent, to that of the mixture.

    For latency models that know nothing of exits. Between the three percentiles that they give quantiles are
    interpolated, below the median they count as the median and above the 99th percentile as that, so that all but the
    last are not too low. Encoding counts for every image, as their energy does not tell it from the head's.

    Args:
        breakdown: Of P plans under C conditions.
        workloads: The P workloads.
        conditions: The C conditions.
    """
    sent = np.array([w.sent for w in workloads])
    if (sent == 1.0).all():
        return breakdown
    local = breakdown.device_ms + breakdown.encode_ms
    known = np.stack([breakdown.p50_ms, breakdown.p95_ms, breakdown.p99_ms])
    found = {name: known[i].copy() for i, name in enumerate(("p50_ms", "p95_ms", "p99_ms"))}
    in_time = breakdown.in_time.copy()
    budget = np.array([c.budget_ms for c in conditions])
    for p in np.flatnonzero(sent < 1.0).tolist():
        share = float(sent[p])
        for name, level in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
            wanted = level_of_sent(level, share)
            found[name][p] = local[p] if wanted <= 0 else [
                np.interp(wanted, (0.5, 0.95, 0.99), known[:, p, c]) for c in range(len(budget))]
        in_time[p] = (1 - share) * (local[p] <= budget) + share * breakdown.in_time[p]
    scale = sent[:, None]
    transmit, wait, tail = (scale * part for part in (breakdown.transmit_mj, breakdown.wait_mj, breakdown.tail_mj))
    return LatencyBreakdown(
        breakdown.device_ms, breakdown.encode_ms, breakdown.uplink_ms, breakdown.edge_ms, breakdown.downlink_ms,
        in_time=in_time, energy_mj=breakdown.compute_mj + transmit + wait + tail, compute_mj=breakdown.compute_mj,
        transmit_mj=transmit, wait_mj=wait, tail_mj=tail, **found)


def in_time_accuracy(measurements: Sequence[Measurement], in_time: Array) -> Array:
    """Expected accuracy of an answer within the deadline.

    Without an exit that is accuracy x probability of being in time; with one see `ExitPoint.in_time_accuracy`.

    Args:
        measurements: P measurements; each with an exit holds what the exit does.
        in_time: Probability of being in time, (P, C).

    Returns:
        Shape (P, C).
    """
    found: Array = np.array([m.accuracy for m in measurements], dtype=np.float64)[:, None] * in_time
    for p, m in enumerate(measurements):
        if m.plan.exit is None or not m.exits:
            continue
        found[p] = [m.exits[0].in_time_accuracy(float(share)) for share in in_time[p]]
    return found
