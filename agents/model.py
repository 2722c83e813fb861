"""Agents that choose by a model of the accuracy, whose mean is the prior: fit, acquisition, in rounds.

Agents of this kind differ in one thing only: which plans the acquisition value is computed for. `ppo` asks its policy.
The controls in `benchmarks/model_only.py` take all plans, or some drawn uniformly, to show what the policy adds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.design import spread
from autosplit.agents.expectations import twins_of
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Measurement, Outcome, Workload
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import IntArray
from autosplit.latency.base import LatencyModel, coarse_of

__all__ = ["ModelAgent", "ModelSettings"]


@dataclass(frozen=True)
class ModelSettings:
    """How an agent with a model spends measurements.

    Attributes:
        round: Measurements a round.
    """

    round: int = 10


class ModelAgent(Agent):
    """Measures, in rounds, the best of some candidate plans. Authors override `candidate_plans`.

    A round fits the surrogate on everything measured, asks for candidate plans, and takes those of the highest
    acquisition value, an upper confidence bound (UCB) of the reward. Plans are proposed in the same order whatever
    number is asked for at a time, provided that a round's outcomes are in before the next round begins.

    Args:
        problem: What to search.
        settings: See `ModelSettings`.
    """

    def __init__(self, problem: SearchProblem, settings: ModelSettings) -> None:
        super().__init__(problem)
        self._size = settings.round
        self._surrogate = AccuracySurrogate(problem.features, prior=problem.prior)
        self._rounds = 0
        self._queue: deque[int] = deque()  # plans of this round
        self._revised: dict[int, Workload] = {}  # measured workloads that differ from the predicted ones
        self._cores: tuple[CoInferenceCore, ...] | None = None

    @abstractmethod
    def candidate_plans(self, rng: np.random.Generator) -> IntArray:
        """Numbers of the open plans to choose from, distinct; the surrogate is fitted.

        Args:
            rng: The round's generator.
        """

    def pools(self) -> list[list[Conditions]]:
        """Pools of conditions to keep latencies for; the first is the problem's conditions alone."""
        return [[self.problem.conditions]]

    def learnt_value(self, outcome: Outcome) -> float:
        """What the surrogate learns of an outcome, in [0, 1]: the accuracy, which is the same under all conditions."""
        return outcome.measurement.accuracy

    def estimated_accuracy(self, surrogate: AccuracySurrogate, ucb_weight: float) -> Array:
        """The learnt value of every plan, shape (P,): measured, or `ucb_weight` deviations above the median."""
        values = surrogate.estimate(ucb_weight)
        learnt = {number: self.learnt_value(outcome) for number, outcome in self._outcomes.items()}
        for number, value in learnt.items():
            values[self._twins.get(number, number)] = value
        for number, value in learnt.items():  # where twins were both measured, each keeps its own
            values[number] = value
        return values

    @cached_property
    def _twins(self) -> dict[int, list[int]]:
        """For each plan that has twins all of them, itself among them."""
        return {number: group for group in twins_of(self.problem.plans) for number in group}

    def estimated_rewards(self, core: CoInferenceCore, surrogate: AccuracySurrogate, ucb_weight: float) -> Array:
        """Reward of every plan under every conditions of a core, by these estimates, shape (P, C)."""
        return core.rewards(self.problem.objective, self.estimated_accuracy(surrogate, ucb_weight))

    def fitted(
        self, surrogate: AccuracySurrogate, more: Mapping[int, Measurement] | None = None
    ) -> AccuracySurrogate:
        """The surrogate, fitted on everything observed, and on the accuracies of more measured plans."""
        values = {number: m.accuracy for number, m in (more or {}).items()}
        values |= {number: self.learnt_value(o) for number, o in self._outcomes.items()}
        surrogate.fit(np.array(list(values), dtype=np.int64), np.array(list(values.values())))
        return surrogate

    def cores(self) -> tuple[CoInferenceCore, ...]:
        """One core for each of `pools`, with the measured workloads where they differ from the predicted ones."""
        p = self.problem
        if self._cores is None:
            self._cores = tuple(CoInferenceCore.build(p.space, p.workloads, self._model_for(len(pool)), pool)
                                for pool in self.pools())
        if self._revised:
            self._cores = tuple(core.revised(self._revised, self._model_for(len(core.conditions)))
                                for core in self._cores)
            self._revised = {}
        return self._cores

    def _model_for(self, conditions: int) -> LatencyModel:
        """What gives the latencies of a pool: exact under the problem's conditions, quick under many."""
        model = self.problem.latency_model
        return model if conditions == 1 else coarse_of(model)

    def _propose(self, n: int) -> Sequence[int]:
        queue = deque(i for i in self._queue if self._open[i])  # others may have been observed meanwhile
        if not queue:
            # two outcomes are the least that a surrogate can be fitted on
            queue.extend(self._spread() if len(self._outcomes) < 2 else self._round())
        self._queue = queue
        return [queue.popleft() for _ in range(min(n, len(queue)))]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            number, work = self.problem.number[outcome.plan], outcome.measurement.workload
            if work != self.problem.workloads[number]:
                self._revised[number] = work

    def _spread(self) -> list[int]:
        """A round's number of open plans, spread over the space."""
        numbers = self.open_numbers()
        chosen = spread(self._surrogate.points[numbers], self._size, self.generator("spread", self._rounds))
        return [int(i) for i in numbers[chosen]]

    def _round(self) -> list[int]:
        """Fit the surrogate, ask for candidate plans, and choose those of the highest acquisition value.

        The UCB weight is drawn anew for each plan, from Exp(1), so that a batch both exploits and explores (Hutter et
        al., "Parallel algorithm configuration", LION 2012).
        """
        self._rounds += 1
        self.report_progress(f"round {self._rounds}: {len(self._outcomes)} measurements")
        self.fitted(self._surrogate)
        rng = self.generator("choose", self._rounds)
        left = set(self.candidate_plans(rng).tolist())
        # a round's size never depends on how many plans are asked for at once: nor do, then, the proposals
        size = min(self._size, self.remaining)
        if len(left) < size:
            left = set(self.open_numbers().tolist())
        here, chosen = self.cores()[0], list[int]()
        for ucb_weight in rng.exponential(size=size):
            numbers = np.array(sorted(left))
            value = self.estimated_rewards(here, self._surrogate, float(ucb_weight))[numbers, 0]
            chosen.append(int(numbers[value.argmax()]))
            left.remove(chosen[-1])
        return chosen
