"""What a policy expects of every plan: what was measured of it or of its twin, else an estimate; 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.intervals import share_interval
from autosplit.core.plan import Measurement, Plan

__all__ = ["Expectations", "as_measured", "expectations"]


class Expectations(NamedTuple):
    """Accuracies of P plans, each array of shape (P,), in [0, 1].

    Attributes:
        accuracy: Expected.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    accuracy: Array
    low: Array
    high: Array


def as_measured(plans: Sequence[Plan], measured: Mapping[int, Measurement]) -> dict[int, Measurement]:
    """What is known of plans by measurement: of each one, or of the plan that runs the same networks.

    Args:
        plans: All plans.
        measured: Some measurements, by the number of the plan.

    Returns:
        By the number of the plan. The accuracy is the plan's own, not what else its measurement holds.
    """
    by_networks = {plans[number].as_trained: m for number, m in measured.items()}
    found = {number: by_networks[plan.as_trained] for number, plan in enumerate(plans)
             if plan.as_trained in by_networks}
    return found | dict(measured)


def expectations(
    plans: Sequence[Plan], estimate: Expectations, measured: Mapping[int, Measurement]
) -> Expectations:
    """What is expected of every plan.

    No plan is expected to be more accurate than the uncut network on the same images, where that was measured: pruning
    and compression only take from it, and what exceeds it is chance, of which a decision would pick the luckiest.

    Args:
        plans: The P plans.
        estimate: By a model of the accuracy, for plans that were not measured.
        measured: Measurements by the number of the plan.
    """
    accuracy, low, high = (values.copy() for values in estimate)
    for number, m in as_measured(plans, measured).items():
        accuracy[number] = m.accuracy
        low[number], high[number] = share_interval(m.accuracy, m.images) if m.images else (m.accuracy, m.accuracy)
    first: dict[Plan, int] = {}
    for number, plan in enumerate(plans):  # twins have one estimate too
        twin = first.setdefault(plan.as_trained, number)
        accuracy[number], low[number], high[number] = accuracy[twin], low[twin], high[twin]
    uncut = max((m.accuracy for m in measured.values() if m.plan.lossless), default=1.0)
    return Expectations(*(np.minimum(values, uncut) for values in (accuracy, low, high)))
