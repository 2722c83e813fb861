"""`Scorer`: what a measurement is worth under one scenario's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autosplit.core.plan import LatencySummary, Measurement, Outcome, Workload
from autosplit.core.scenario import Scenario
from autosplit.evaluation.objective import Objective, load_objective, score
from autosplit.latency import load_latency_model
from autosplit.latency.base import LatencyModel

__all__ = ["Scorer"]


@dataclass(frozen=True)
class Scorer:
    """Latency model and objective of a scenario, by which searched plans and baselines are judged alike.

    Attributes:
        scenario: Its conditions are what plans are held against.
        latency_model: Gives latencies.
        objective: Gives rewards.
    """

    scenario: Scenario
    latency_model: LatencyModel
    objective: Objective

    @classmethod
    def of(cls, scenario: Scenario) -> Scorer:
        """The scorer that a scenario names.

        Raises:
            AutosplitError: There is no such latency model or objective.
        """
        return cls(scenario, load_latency_model(scenario.latency_model), load_objective(scenario.objective))

    def outcomes(self, measurements: Sequence[Measurement]) -> list[Outcome]:
        """Measurements with their latency and reward, in order."""
        return score(measurements, self.latency_model, self.objective, self.scenario.conditions)

    def outcome(self, measurement: Measurement) -> Outcome:
        """One measurement with its latency and reward."""
        return self.outcomes([measurement])[0]

    def latency(self, measurement: Measurement) -> LatencySummary:
        """The latency of one measurement."""
        return self.latency_model.latency([measurement.workload], [self.scenario.conditions]).summary(0)

    def affordable(self, workloads: Sequence[Workload]) -> list[int]:
        """Which plans may be in time, by the latency of their predicted work; the least late one where none is."""
        p95_ms = self.latency_model.latency(workloads, [self.scenario.conditions]).p95_ms[:, 0]
        within = [i for i, ms in enumerate(p95_ms) if ms <= self.scenario.conditions.budget_ms]
        return within or [int(p95_ms.argmin())]
