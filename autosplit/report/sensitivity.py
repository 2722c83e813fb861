"""What the best measured plan becomes as link and budget change: no plan is measured for it, latencies are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import AutosplitError
from autosplit.core.measurement import Outcome
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.latency.base import LatencyBreakdown
from autosplit.latency.checked import require_quick
from autosplit.report.pareto import measured_plans, pareto_mask

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
        """Find the best of the measured plans for every rate and budget of the grid.

        Args:
            outcomes: Of one fidelity, at least one.
            scorer: Latency model and objective of the scenario.

        Raises:
            AutosplitError: The latency model failed under other conditions than the scenario's.
        """
        here, budgets = scorer.conditions, scorer.conditions.budget_ms * _BUDGETS

        def at(factor: float, budget_ms: float) -> Conditions:
            channel = here.channel if factor == 1 else here.channel.scaled(float(factor), 1.0)
            return here.model_copy(update={"channel": channel, "budget_ms": float(budget_ms)})

        workloads = [o.measurement.workload for o in outcomes]
        require_quick(scorer.latency_model, "the figure of other links and deadlines", workloads[0], here)
        accuracy = np.array([o.measurement.accuracy for o in outcomes])
        latency = scorer.latency_model.latency(workloads, [at(f, here.budget_ms) for f in _FACTORS])
        # A plan that others beat in everything is the best one at no budget; leaving such plans out saves most work.
        able = np.zeros(len(accuracy), dtype=bool)
        for r in range(len(_FACTORS)):
            able |= pareto_mask(np.column_stack([-accuracy, latency.p50_ms[:, r], latency.p95_ms[:, r],
                                                 latency.energy_mj[:, r]]))
        kept, columns, cells = np.flatnonzero(able), np.arange(len(budgets)), []
        for factor in _FACTORS:
            conditions = [at(factor, budget) for budget in budgets]
            answer = scorer.latency_model.latency([workloads[i] for i in kept], conditions)
            rewards = scorer.objective.reward(accuracy[kept], answer, conditions)
            # As `best_outcome` chooses: the highest reward in time, else the least late; the more accurate of equals.
            met = answer.p95_ms <= budgets
            rank = np.where(met.any(axis=0), np.where(met, rewards, -np.inf), -answer.p95_ms / budgets)
            first = np.where(rank == rank.max(axis=0), accuracy[kept, None], -1.0).argmax(axis=0)
            cells.append((kept[first], answer.in_time[first, columns], met[first, columns]))
        best, in_time, feasible = (np.array(parts) for parts in zip(*cells, strict=True))
        home = int(np.flatnonzero(_FACTORS == 1)[0]), int(np.flatnonzero(_BUDGETS == 1)[0])
        return cls(tuple(outcomes), _FACTORS, here.channel.uplink_kbps.value * _FACTORS, budgets, home, latency,
                   best, in_time, feasible)

    @classmethod
    def of_run(cls, result: Result, outcomes: Sequence[Outcome]) -> tuple[Sensitivity | None, str]:
        """The measured plans of a run under other conditions, or why there are none, such as a missing latency model.

        Args:
            result: What the search found.
            outcomes: Its ledger.
        """
        try:
            return cls.of(measured_plans(outcomes), Scorer.of(result.scenario)), ""
        except AutosplitError as e:
            return None, " ".join(str(e).split())

    @property
    def accuracy(self) -> Array:
        """Accuracy of the best plan in per cent, NaN where none is in time, shape (R, B)."""
        levels = np.array([100 * o.measurement.accuracy for o in self.outcomes])
        shown: Array = np.where(self.feasible, levels[self.best], np.nan)
        return shown
