"""The plans that no other plan beats, as a mask and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autosplit.core.measurement import Outcome
from autosplit.core.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("plan", "split", "sparsity", "codec", "fidelity", "accuracy", "payload_bytes", "compression_ratio",
            "device_macs", "p50_ms", "p95_ms", "in_time", "energy_mj", "budget_ms", "feasible", "reward")

__all__ = ["measured_plans", "one_a_plan", "pareto_frame", "pareto_mask"]


def pareto_mask(costs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates; of exact duplicates all or none.

    Args:
        costs: Points by objectives, each objective the lower the better.

    Returns:
        One truth value a point.
    """
    points, which = np.unique(np.asarray(costs, dtype=float), axis=0, return_inverse=True)
    left = np.arange(len(points))  # in lexicographic order: a point can be dominated by an earlier one only
    keep = np.zeros(len(points), dtype=bool)
    while len(left):
        first, left = left[0], left[1:]
        keep[first] = True
        left = left[np.any(points[left] < points[first], axis=1)]
    kept: npt.NDArray[np.bool_] = keep[which.reshape(-1)]
    return kept


def pareto_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The plans that no other plan beats in accuracy, p95 latency and energy at once, fastest first.

    A plan recorded more than once counts with its highest fidelity, the latest record of it.

    Args:
        outcomes: Outcomes under one set of conditions, in the order of the search.

    Returns:
        One line a plan: plan, split, sparsity, codec, fidelity, accuracy, payload_bytes, compression_ratio,
        device_macs, p50_ms, p95_ms, in_time, energy_mj, budget_ms, feasible, reward.
    """
    import pandas as pd

    records = []
    for outcome in one_a_plan(outcomes):
        measured, plan, times = outcome.measurement, outcome.plan, outcome.latency
        work, sparsity = measured.workload, plan.sparsity
        records.append((
            plan.label, plan.split, " ".join(map(str, sparsity)) if isinstance(sparsity, tuple) else sparsity,
            plan.codec.label, measured.fidelity, measured.accuracy, work.payload_bytes_mean,
            measured.compression_ratio, work.device.macs + work.encode.macs, times.p50_ms, times.p95_ms,
            times.in_time, times.energy_mj, outcome.budget_ms, outcome.feasible, outcome.reward))
    frame = pd.DataFrame(records, columns=list(_COLUMNS))
    costs = np.column_stack([-frame["accuracy"].to_numpy(dtype=float), frame["p95_ms"].to_numpy(dtype=float),
                             frame["energy_mj"].to_numpy(dtype=float)])
    front: pd.DataFrame = frame[pareto_mask(costs)].sort_values(["p95_ms", "accuracy"], kind="stable",
                                                                ignore_index=True)
    return front


def measured_plans(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that the supernet measured (F1, proxy accuracy); only these can be compared with each other."""
    return [o for o in outcomes if o.measurement.fidelity == "F1"]


def one_a_plan(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes with each plan once: the highest fidelity, of those the latest record; in the order of the search."""
    kept: dict[Plan, Outcome] = {}
    for outcome in outcomes:
        known = kept.get(outcome.plan)  # a finalist is measured in the supernet first, then fine-tuned
        if known is None or outcome.measurement.fidelity >= known.measurement.fidelity:
            kept[outcome.plan] = outcome
    return list(kept.values())
