"""The accuracy expected of a plan before anything was measured: pruning and compression cost some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.logit import accuracy_of
from autosplit.core.arrays import Array
from autosplit.core.measurement import Workload

__all__ = ["expected_accuracy"]

_LEVEL, _PRUNING, _HALVING, _REDUCING = 4.0, 4.0, 0.25, 0.5


def expected_accuracy(workloads: Sequence[Workload]) -> Array:
    """A guess that is good for ranking plans, and not for their level.

    The log-odds of the accuracy are 4 for a plan that loses nothing; less 4 times the square of the sparsity, less 1/4
    for each halving of the payload against the largest one at the same place, and less 1/2 for a reduced head. Round
    numbers, fitted to nothing: its user has to fit level and slope, and to learn what is different
    (`AccuracySurrogate`).

    Args:
        workloads: One a plan.

    Returns:
        Shape (P,), in (0, 1).
    """
    largest: dict[str, float] = {}
    for work in workloads:
        largest[work.plan.place] = max(largest.get(work.plan.place, 1.0), work.payload_bytes_mean)
    sparsity = np.array([np.mean(w.plan.sparsity) for w in workloads])
    # a plan that sends nothing has lost nothing by compression
    payload = np.array([w.payload_bytes_mean or largest[w.plan.place] for w in workloads])
    halvings = np.log2([largest[w.plan.place] for w in workloads]) - np.log2(np.maximum(payload, 1.0))
    reduced = np.array([w.plan.head == "reduced" for w in workloads])
    logits = _LEVEL - _PRUNING * sparsity**2 - _HALVING * halvings - _REDUCING * reduced
    return accuracy_of(logits)
