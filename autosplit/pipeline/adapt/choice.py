"""Where a run is cut for its rates, and which settings of the codec there are worth being rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autosplit.compression import load_codec
from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.core.measurement import Measurement
from autosplit.core.plan import Plan
from autosplit.core.result import Result
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.adapt.links import LinkGrid
from autosplit.pipeline.ledger import Ledger

__all__ = ["codes_on_the_front", "cut_of", "spread"]

_LEAST_GAIN = 0.001  # of the mean in-time accuracy, below which another rate is not worth its place


def cut_of(result: Result, run: Path) -> Plan:
    """A plan of the place and sparsity that rates are made at: the run's own, else its best whose code can have rates.

    Without the exit that it may have: a bundle of several rates has none.

    Args:
        result: Of the run.
        run: Its directory.

    Raises:
        ConfigError: No plan was measured whose codec has one model for all settings.
    """
    if _can_have_rates(result.plan):
        return result.plan.without_exit
    try:
        outcomes = Ledger.read(run).outcomes()
    except AutosplitError as e:
        raise ConfigError(f"{run}: its plan {result.plan.label!r} sends no code that can have rates, and its "
                          f"ledger cannot be read for another: {e}") from e
    coded = [o for o in outcomes if _can_have_rates(o.plan) and not isinstance(o.plan.sparsity, tuple)]
    if not coded:
        raise ConfigError(f"{run}: no plan was measured whose code can have rates; search again with the codec nested "
                          "or factorised and more evaluations")
    return best_outcome(coded).plan


def codes_on_the_front(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those that no other beats in both accuracy and mean payload, smallest payload first."""
    found: list[Measurement] = []
    for m in sorted(measurements, key=lambda m: (m.workload.payload_bytes_mean, -m.accuracy)):
        if not found or m.accuracy > found[-1].accuracy:
            found.append(m)
    return found


def spread(measurements: Sequence[Measurement], scorer: Scorer, grid: LinkGrid, most: int) -> list[Measurement]:
    """The settings that together lose least over all links of a grid, smallest payload first.

    Greedily: the one with the best mean in-time accuracy by the latency model, then again and again the one that adds
    most to the mean of the best for each link. That mean is submodular, so the greedy choice has at least 63 % of the
    best one's gain (Nemhauser, Wolsey and Fisher 1978).

    Args:
        measurements: Plans of one place and sparsity.
        scorer: Has the latency model.
        grid: The links.
        most: How many; fewer are returned where more would bring nothing.
    """
    values = grid.in_time_accuracy(measurements, scorer.latency_model)
    values = values[:, values.max(axis=0) > 0]  # links under which anything can be in time
    chosen: list[int] = []
    best = np.zeros(values.shape[1])
    while len(chosen) < most and best.size:
        means = np.maximum(values, best).mean(axis=1)
        if chosen and means.max() - best.mean() < _LEAST_GAIN:
            break
        chosen.append(int(means.argmax()))
        best = values[chosen].max(axis=0)
    return [measurements[i] for i in sorted(chosen, key=lambda i: measurements[i].workload.payload_bytes_mean)]


def _can_have_rates(plan: Plan) -> bool:
    return plan.codec.family is not None and load_codec(plan.codec.family).one_model
