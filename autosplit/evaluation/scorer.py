"""`Scorer`: what a measurement is worth under one set of conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import LatencySummary, Measurement, Outcome, StageCost, Workload
from autosplit.core.plan import INPUT, CodecSetting, Plan
from autosplit.core.scenario import Scenario
from autosplit.evaluation.objective import Objective, best_outcome, load_objective
from autosplit.latency import load_latency_model
from autosplit.latency.base import LatencyBreakdown, LatencyModel
from autosplit.latency.exits import in_time_accuracy
from autosplit.latency.function import FunctionLatency

__all__ = ["Scorer", "rewards_of", "score"]


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

    def try_out(self) -> None:
        """Ask functions of the user's about an invented plan, so that a wrong answer is told before any training.

        Latency models that are classes may know the plans of the scenario only, so they are not asked.

        Raises:
            PluginError: The answer is wrong.
        """
        cost = StageCost(conv_macs=1e6, weight_elements=1e4, activation_elements=1e4, operators=4)
        work = Workload(plan=Plan(split=INPUT, codec=CodecSetting(kind="png")), device=cost, encode=cost, edge=cost,
                        payload_bytes_mean=1000.0, payload_bytes_p95=1200.0, result_bytes=1.0)
        model: LatencyModel = self.latency_model
        if not isinstance(getattr(model, "model", None), FunctionLatency):
            model = load_latency_model("analytic")
        breakdown = model.latency([work], [self.conditions])
        self.objective.reward(np.array([0.5]), breakdown, [self.conditions])

    def outcomes(self, measurements: Iterable[Measurement]) -> list[Outcome]:
        """Measurements with their latency and reward, in order."""
        return score(list(measurements), self.latency_model, self.objective, self.conditions)

    def outcome(self, measurement: Measurement) -> Outcome:
        """One measurement with its latency and reward."""
        return self.outcomes([measurement])[0]

    def with_best_exits(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Each outcome, or that of the same plan with an exit where the best threshold on offer brings more.

        A measurement holds what every threshold would do, so that no search has to look for one.
        """
        found = []
        for outcome in outcomes:
            others = self.outcomes(outcome.measurement.variants[1:])
            found.append(best_outcome([outcome, *others]) if others else outcome)
        return found

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
    rewards = rewards_of(measurements, breakdown, objective, [conditions])[:, 0]
    return [Outcome(measurement=m, latency=breakdown.summary(i), budget_ms=conditions.budget_ms, reward=float(r))
            for i, (m, r) in enumerate(zip(measurements, rewards, strict=True))]


def rewards_of(
    measurements: Sequence[Measurement], breakdown: LatencyBreakdown, objective: Objective,
    conditions: Sequence[Conditions],
) -> Array:
    """Rewards of P measurements under C conditions, shape (P, C).

    What an answer in time is worth depends on which end gives it, so the accuracy that an objective is given is that
    among the answers in time.
    """
    plain: Array = np.array([m.accuracy for m in measurements], dtype=np.float64)
    if all(m.plan.exit is None for m in measurements):
        return objective.reward(plain, breakdown, conditions)
    chance = breakdown.in_time
    accuracy = np.where(chance > 0, in_time_accuracy(measurements, chance) / np.maximum(chance, 1e-12), plain[:, None])
    # where somebody asks what another accuracy would be worth
    accuracy += np.array([[m.accuracy - m.exits[0].accuracy if m.plan.exit is not None else 0.0] for m in measurements])
    return objective.reward(accuracy, breakdown, conditions)
