"""`Scorer`: what a measurement is worth under one set of conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.plan import LatencySummary, Measurement, Outcome, Workload
from autosplit.core.scenario import Scenario
from autosplit.evaluation.objective import Objective, load_objective
from autosplit.latency import load_latency_model
from autosplit.latency.base import LatencyModel

__all__ = ["Scorer", "score"]


@dataclass(frozen=True)
class Scorer:
    """Latency model, objective and conditions, by which searched plans and baselines are scored alike.

    Attributes:
        latency_model: Gives latencies.
        objective: Gives rewards.
        conditions: Device, edge, channel and deadline.
    """

    latency_model: LatencyModel
    objective: Objective
    conditions: Conditions

    @classmethod
    def of(cls, scenario: Scenario) -> Scorer:
        """The scorer of a scenario.

        Raises:
            AutosplitError: There is no such latency model or objective.
        """
        return cls(load_latency_model(scenario.latency_model), load_objective(scenario.objective), scenario.conditions)

    def outcomes(self, measurements: Iterable[Measurement]) -> list[Outcome]:
        """Measurements with their latency and reward, in order."""
        return score(list(measurements), self.latency_model, self.objective, self.conditions)

    def outcome(self, measurement: Measurement) -> Outcome:
        """One measurement with its latency and reward."""
        return self.outcomes([measurement])[0]

    def latency(self, measurement: Measurement) -> LatencySummary:
        """The latency of one measurement."""
        return self.latency_model.latency([measurement.workload], [self.conditions]).summary(0)

    def affordable(self, workloads: Sequence[Workload]) -> list[int]:
        """Which plans may be in time, by the latency of their predicted work; the quickest one where none is."""
        p95_ms = self.latency_model.latency(workloads, [self.conditions]).p95_ms[:, 0]
        within = [i for i, ms in enumerate(p95_ms) if ms <= self.conditions.budget_ms]
        return within or [int(p95_ms.argmin())]


def score(
    measurements: Sequence[Measurement],
    latency_model: LatencyModel,
    objective: Objective,
    conditions: Conditions,
) -> list[Outcome]:
    """Join measurements with their latency and reward under one set of conditions; the order is kept."""
    if not measurements:
        return []
    breakdown = latency_model.latency([m.workload for m in measurements], [conditions])
    accuracy = np.array([m.accuracy for m in measurements], dtype=np.float64)
    rewards = objective.reward(accuracy, breakdown, [conditions])[:, 0]
    return [Outcome(measurement=m, latency=breakdown.summary(i), budget_ms=conditions.budget_ms, reward=float(r))
            for i, (m, r) in enumerate(zip(measurements, rewards, strict=True))]
