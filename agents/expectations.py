"""What a policy expects of every plan: what was measured of it or of its twin, else an estimate; 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.intervals import share_interval
from autosplit.core.measurement import Measurement
from autosplit.core.plan import Plan

__all__ = ["Expectations", "expectations", "twins_of"]


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


def twins_of(plans: Iterable[Plan]) -> list[list[int]]:
    """Numbers of the plans that run the same networks and so have one accuracy: groups of at least two."""
    groups: dict[Plan, list[int]] = {}
    for number, plan in enumerate(plans):
        groups.setdefault(plan.as_trained, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


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
    for number, m in measured.items():
        accuracy[number] = m.accuracy
        low[number], high[number] = share_interval(m.accuracy, m.images) if m.images else (m.accuracy, m.accuracy)
    for group in twins_of(plans):  # a measured one speaks for all; without any they have one estimate too
        speaker = next((number for number in group if number in measured), group[0])
        for values in (accuracy, low, high):
            values[group] = values[speaker]
    uncut = max((m.accuracy for m in measured.values() if m.plan.lossless), default=1.0)
    return Expectations(*(np.minimum(values, uncut) for values in (accuracy, low, high)))
