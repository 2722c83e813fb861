"""The plans that no other plan beats, as a mask and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autosplit.core.plan import Outcome

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["one_a_plan", "pareto_frame", "pareto_mask"]


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

    frame = pd.DataFrame([_record(o) for o in one_a_plan(outcomes)], columns=list(_COLUMNS))
    costs = np.column_stack([-frame["accuracy"].to_numpy(dtype=float), frame["p95_ms"].to_numpy(dtype=float),
                             frame["energy_mj"].to_numpy(dtype=float)])
    front: pd.DataFrame = frame[pareto_mask(costs)].sort_values(["p95_ms", "accuracy"], kind="stable",
                                                                ignore_index=True)
    return front


_COLUMNS = ("plan", "split", "sparsity", "codec", "fidelity", "accuracy", "payload_bytes", "compression_ratio",
            "device_macs", "p50_ms", "p95_ms", "in_time", "energy_mj", "budget_ms", "feasible", "reward")


def _record(outcome: Outcome) -> dict[str, Any]:
    measured, plan, times = outcome.measurement, outcome.plan, outcome.latency
    work = measured.workload
    sparsity = plan.sparsity
    return {
        "plan": plan.label, "split": plan.split, "codec": plan.codec.label, "fidelity": measured.fidelity,
        "sparsity": " ".join(map(str, sparsity)) if isinstance(sparsity, tuple) else sparsity,
        "accuracy": measured.accuracy, "payload_bytes": work.payload_bytes_mean,
        "compression_ratio": measured.compression_ratio, "device_macs": work.device.macs + work.encode.macs,
        "p50_ms": times.p50_ms, "p95_ms": times.p95_ms, "in_time": times.in_time, "energy_mj": times.energy_mj,
        "budget_ms": outcome.budget_ms, "feasible": outcome.feasible, "reward": outcome.reward,
    }


def one_a_plan(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes with each plan once: the highest fidelity, of those the latest record; in the order of the search."""
    kept: dict[Any, Outcome] = {}
    for outcome in outcomes:
        known = kept.get(outcome.plan)
        if known is None or outcome.measurement.fidelity >= known.measurement.fidelity:
            kept[outcome.plan] = outcome
    return list(kept.values())
