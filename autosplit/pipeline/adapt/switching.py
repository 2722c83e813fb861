"""Which rate goes with which link: a policy's answers over a grid of links, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.agents.policy import CoInferencePolicy
from autosplit.core.arrays import Array
from autosplit.core.measurement import Measurement
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.adapt.links import LinkGrid
from autosplit.runtime.standalone.bundle.rates import Switching

__all__ = ["Regret", "switching_of"]

_POSSIBLE, _EQUAL = 0.01, 1e-9  # in-time accuracies


@dataclass(frozen=True)
class Regret:
    """In-time accuracy that answers lose against the best rate for each link, by the latency model.

    Attributes:
        links: Links of the grid under which some rate has an in-time accuracy above 1 %.
        agrees: Share of them with the best rate, or one as good.
        mean: Mean loss over them.
        worst: Largest loss.
        network_agrees: As `agrees`, of the policy's network alone, without the latency model's word.
        network_mean: As `mean`, likewise.
        network_worst: As `worst`, likewise.
    """

    links: int
    agrees: float
    mean: float
    worst: float
    network_agrees: float
    network_mean: float
    network_worst: float


def switching_of(
    policy: CoInferencePolicy, measurements: Sequence[Measurement], scorer: Scorer, grid: LinkGrid
) -> tuple[Switching, Regret]:
    """Ask a policy about every link of a grid.

    A rate that is late now and then may be picked: at run time there is nothing but rates to choose from, and one
    that is always in time may be of little use.

    Args:
        policy: Of the run; it is restricted to the rates.
        measurements: One a rate, fine-tuned, smallest payload first.
        scorer: Of the run.
        grid: Links around that of the run.
    """
    asked = policy.restricted(measurements)
    number = {m.plan: i for i, m in enumerate(measurements)}
    answers = [number[asked.decide(c, strict=False).plan] for c in grid.conditions]
    alone = [number[asked.knowledge.plans[asked.ranked(c)[0]]] for c in grid.conditions]
    base = scorer.conditions
    switching = Switching(
        budget_ms=base.budget_ms, uplink_kbps=grid.rates_kbps, delays_ms=grid.delays_ms,
        overhead_bytes=grid.overhead_bytes, start=number[asked.decide(base, strict=False).plan],
        picks=grid.rows(answers))
    return switching, _regret(grid.in_time_accuracy(measurements, scorer.latency_model), answers, alone)


def _regret(values: Array, answers: Sequence[int], alone: Sequence[int]) -> Regret:
    best, links = values.max(axis=0), np.arange(values.shape[1])
    possible = best > _POSSIBLE
    figures = []
    for chosen in (answers, alone):
        lost = (best - values[np.array(chosen), links])[possible]
        lost = lost if lost.size else np.zeros(1)
        figures += [float((lost < _EQUAL).mean()), float(lost.mean()), float(lost.max())]
    return Regret(int(possible.sum()), *figures)
