"""What the best measured plan becomes as link and budget change: no plan is measured for it, latencies are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import AutosplitError
from autosplit.core.plan import Outcome
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.latency.base import LatencyBreakdown
from autosplit.report.pareto import pareto_mask

__all__ = ["Sensitivity"]

_FACTORS = 2.0 ** (np.arange(-16, 17) / 4)  # rates from 1/16 to 16 times the scenario's
_BUDGETS = 2.0 ** (np.arange(-12, 13) / 4)  # budgets from 1/8 to 8 times


@dataclass(frozen=True)
class Sensitivity:
    """All measured plans over a grid of R link rates and B budgets.

    Attributes:
        outcomes: The P plans, measured at F1.
        factors: Uplink and downlink rate in multiples of the scenario's, shape (R,).
        rates_kbps: Uplink rates, kilobits per second, shape (R,).
        budgets_ms: Deadlines, shape (B,).
        home: Place of the scenario's own rate and budget.
        latency: Of every plan at every rate, shape (P, R).
        best: Which plan is best, by the scenario's objective; where none is in time, the least late. Shape (R, B).
        in_time: Probability that the best plan is in time, shape (R, B).
        feasible: Whether its p95 latency is within the budget, shape (R, B).
    """

    outcomes: tuple[Outcome, ...]
    factors: Array
    rates_kbps: Array
    budgets_ms: Array
    home: tuple[int, int]
    latency: LatencyBreakdown
    best: npt.NDArray[np.int64]
    in_time: Array
    feasible: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], scorer: Scorer) -> Sensitivity:
        """Hold the measured plans against every rate and budget of the grid.

        A plan that another one beats in accuracy, median and p95 latency and energy at every rate is held against none
        of the budgets.

        Args:
            outcomes: Of one fidelity, at least one.
            scorer: Latency model and objective of the scenario.

        Raises:
            AutosplitError: The latency model failed under other conditions than the scenario's.
        """
        here = scorer.conditions
        budgets = here.budget_ms * _BUDGETS
        workloads = [o.measurement.workload for o in outcomes]
        accuracy = np.array([o.measurement.accuracy for o in outcomes])
        latency = scorer.latency_model.latency(workloads, [_changed(here, f, here.budget_ms) for f in _FACTORS])
        able = np.flatnonzero(_able(accuracy, latency))
        cells = []
        for factor in _FACTORS:
            conditions = [_changed(here, factor, budget) for budget in budgets]
            answer = scorer.latency_model.latency([workloads[i] for i in able], conditions)
            rewards = scorer.objective.reward(accuracy[able], answer, conditions)
            cells.append(_best(accuracy[able], rewards, answer, budgets))
        best, in_time, feasible = (np.array(parts) for parts in zip(*cells, strict=True))
        home = int(np.flatnonzero(_FACTORS == 1)[0]), int(np.flatnonzero(_BUDGETS == 1)[0])
        return cls(tuple(outcomes), _FACTORS, here.channel.uplink_kbps.value * _FACTORS, budgets, home, latency,
                   able[best], in_time, feasible)

    @classmethod
    def of_run(cls, result: Result, outcomes: Sequence[Outcome]) -> tuple[Sensitivity | None, str]:
        """The measured plans of a run under other conditions, or why there are none, such as a missing latency model.

        Args:
            result: What the search found.
            outcomes: Its ledger.
        """
        measured = [o for o in outcomes if o.measurement.fidelity == "F1"]
        try:
            return cls.of(measured, Scorer.of(result.scenario)), ""
        except AutosplitError as e:
            return None, " ".join(str(e).split())

    @property
    def accuracy(self) -> Array:
        """Accuracy of the best plan in per cent, NaN where none is in time, shape (R, B)."""
        levels = np.array([100 * o.measurement.accuracy for o in self.outcomes])
        shown: Array = np.where(self.feasible, levels[self.best], np.nan)
        return shown


def _changed(here: Conditions, factor: float, budget_ms: float) -> Conditions:
    channel = here.channel if factor == 1 else here.channel.scaled(float(factor), 1.0)
    return here.model_copy(update={"channel": channel, "budget_ms": float(budget_ms)})


def _able(accuracy: Array, latency: LatencyBreakdown) -> npt.NDArray[np.bool_]:
    """Which plans none of the others beats in everything, at one rate or more."""
    able = np.zeros(len(accuracy), dtype=bool)
    for r in range(latency.p95_ms.shape[1]):
        able |= pareto_mask(np.column_stack([-accuracy, latency.p50_ms[:, r], latency.p95_ms[:, r],
                                             latency.energy_mj[:, r]]))
    return able


def _best(accuracy: Array, rewards: Array, answer: LatencyBreakdown, budgets_ms: Array,
          ) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.bool_]]:
    """The best plan for each budget, as `best_outcome` chooses: place, in time, feasible."""
    feasible = answer.p95_ms <= budgets_ms
    value = np.where(feasible.any(axis=0), np.where(feasible, rewards, -np.inf), -answer.p95_ms / budgets_ms)
    tied = np.where(value == value.max(axis=0), accuracy[:, None], -1.0)
    best = tied.argmax(axis=0)
    columns = np.arange(len(budgets_ms))
    return best, answer.in_time[best, columns], feasible[best, columns]
