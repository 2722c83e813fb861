"""Which of many plans may be in time, estimated from the latencies of a few.

A latency is close to linear in a plan's work and bytes, whatever the model. So the latencies of some plans under some
conditions give prices, and the prices an estimate for all others, for the cost of a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.measurement import STAGE_COUNTS, Workload
from autosplit.core.regression import least_relative_squares
from autosplit.envs.tree import IntArray

__all__ = ["counts_of", "landmarks", "plausible"]

_LANDMARKS = 64
_ROOM = 1.5  # times the budget that an estimate may be for its plan to be looked at
_TRUSTED = 0.25  # relative error, 90th percentile, up to which estimates are believed


def counts_of(workloads: Sequence[Workload]) -> Array:
    """Work and bytes of P plans, and a one for what all have in common, shape (P, K)."""
    return np.array([[*(getattr(stage, name) for stage in (w.device, w.encode, w.edge) for name in STAGE_COUNTS),
                      w.payload_bytes_mean, w.payload_bytes_p95, float(w.payload_bytes_mean > 0), 1.0]
                     for w in workloads], dtype=np.float64)


def landmarks(counts: Array) -> IntArray:
    """Plans that differ: evenly chosen by the bytes they send, then by their work.

    Args:
        counts: Of `counts_of`.
    """
    # column -4 is the mean payload: bytes over the channel are what latencies of plans differ in most
    order = np.lexsort((counts.sum(axis=1), counts[:, -4]))
    picked: IntArray = np.unique(order[np.linspace(0, len(order) - 1, min(_LANDMARKS, len(order))).astype(int)])
    return picked


def plausible(counts: Array, numbers: IntArray, p95_ms: Array, budget_ms: float) -> tuple[IntArray, IntArray] | None:
    """Plans that may be in time.

    Args:
        counts: Of all plans, shape (P, K).
        numbers: Plans whose latency is known, shape (N,).
        p95_ms: Their latencies, shape (N,).
        budget_ms: The deadline.

    Returns:
        Their numbers, those of known latency left out: of the likely ones, which are in time if the estimate is no more
        off than for nine in ten of the known latencies, and of the others that may be. `None` where latencies do not
        follow from work and bytes, or too few are known to tell, so that any plan may be in time.
    """
    # fewer latencies than that would fit any prices
    if len(numbers) < 2 * counts.shape[1]:
        return None
    times_ms = np.maximum(p95_ms, 1e-6)
    prices = least_relative_squares(counts[numbers], times_ms)
    usual_error = float(np.quantile(np.abs(counts[numbers] @ prices / times_ms - 1.0), 0.9))
    if usual_error > _TRUSTED:
        return None
    share = counts @ prices / budget_ms
    share[numbers] = np.inf  # their latency is known
    likely = share <= 1.0 + usual_error
    return np.flatnonzero(likely), np.flatnonzero((share <= _ROOM) & ~likely)
