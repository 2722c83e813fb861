"""`Agent` proposes plans and observes outcomes; `SearchProblem` is all that it may know before measuring.

Life cycle: an agent is built for one problem. `autosplit.agents.loop.run_search` asks it for plans, has them
measured, and hands the outcomes back, until the measurements are spent or the agent is exhausted. The first plans are
the same for all agents, the problem's initial design; then each proposes its own. An agent depends on
the problem (its seed included) and on what it observed, and on nothing else: a search is resumed by running it again
with the recorded measurements at hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from autosplit.agents.design import InitialDesign, plan_points, spread
from autosplit.agents.prior import expected_accuracy
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import PluginError
from autosplit.core.measurement import Outcome, Workload
from autosplit.core.plan import Plan
from autosplit.core.space import PlanSpace
from autosplit.envs.core import latency_limit_ms
from autosplit.envs.features import plan_features
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.objective import Objective, best_outcome
from autosplit.latency.base import LatencyBreakdown, LatencyModel

if TYPE_CHECKING:
    from autosplit.agents.policy import CoInferencePolicy

__all__ = ["Agent", "Proposer", "SearchProblem"]

Key = TypeVar("Key", bound=Hashable)


def _derived_seed(seed: int, purpose: str, step: int) -> int:
    entropy = [seed, step, *purpose.encode()]  # not `hash`, which differs from process to process
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@dataclass(frozen=True)
class SearchProblem:
    """All that is known before the first measurement.

    Attributes:
        space: The plans.
        workloads: Work and predicted payload, one a plan, in the order of `space.plans()`.
        latency_model: Gives the latency of a workload under conditions.
        objective: What to maximise.
        conditions: Where the plan is to run.
        seed: Seed of everything random in the agent.
        policy: A policy trained on other measurements, whose knowledge is the prior.
        design: How many plans every agent measures before it proposes its own.
    """

    space: PlanSpace
    workloads: tuple[Workload, ...]
    latency_model: LatencyModel
    objective: Objective
    conditions: Conditions
    seed: int = 0
    policy: CoInferencePolicy | None = None
    design: InitialDesign = field(default_factory=InitialDesign)

    def __post_init__(self) -> None:
        if len(self.workloads) != len(self.space) or not self.workloads:
            raise ValueError(f"{len(self.workloads)} workloads do not describe a space of {len(self.space)} plans")

    @classmethod
    def of(
        cls,
        evaluator: Evaluator,
        latency_model: LatencyModel,
        objective: Objective,
        conditions: Conditions,
        seed: int = 0,
        policy: CoInferencePolicy | None = None,
    ) -> SearchProblem:
        """The problem of searching an evaluator's whole space."""
        space = evaluator.space
        workloads = tuple(evaluator.workloads(space.plans()))
        return cls(space, workloads, latency_model, objective, conditions, seed, policy)

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The P plans, numbered."""
        return tuple(self.space.plans())

    @cached_property
    def number(self) -> dict[Plan, int]:
        """The number of each plan, by plan."""
        return {plan: i for i, plan in enumerate(self.plans)}

    @cached_property
    def features(self) -> Array:
        """`autosplit.envs.features.plan_features`, shape (P, F)."""
        return plan_features(self.space, self.workloads)

    @cached_property
    def prior(self) -> Array:
        """Accuracies expected before any measurement, shape (P,): what the policy knows, or a guess without one."""
        if self.policy is None:
            return expected_accuracy(self.workloads)
        from autosplit.agents.transfer import predicted_accuracy  # brings torch along, which most agents do not need

        return predicted_accuracy(self.policy.knowledge, self.space, self.workloads)

    @cached_property
    def breakdown(self) -> LatencyBreakdown:
        """Predicted latency of the P plans under the problem's conditions."""
        return self.latency_model.latency(self.workloads, [self.conditions])

    @cached_property
    def prior_rewards(self) -> Array:
        """Rewards expected before any measurement, from `prior` and the predicted latency, shape (P,)."""
        rewards: Array = self.objective.reward(self.prior, self.breakdown, [self.conditions])[:, 0]
        return rewards

    @cached_property
    def initial_design(self) -> tuple[int, ...]:
        """Numbers of the plans that every agent measures first, in order; fewer where there are fewer candidates.

        The candidates of the highest `prior_rewards`, then candidates that are spread over the space (`InitialDesign`
        says how many). They depend on the problem alone, its seed included, so all methods begin with the same.
        """
        numbers, size = np.flatnonzero(self.candidates), self.design.size
        best = numbers[np.argsort(-self.prior_rewards[numbers], kind="stable")[:min(self.design.guesses, size)]]
        rng = np.random.default_rng(_derived_seed(self.seed, "spread", 0))
        others = numbers[spread(plan_points(self.features)[numbers], size, rng)]
        return tuple(dict.fromkeys([*best.tolist(), *others.tolist()]))[:size]

    @cached_property
    def candidates(self) -> BoolArray:
        """Plans worth a measurement, shape (P,).

        Those whose predicted p95 is within `autosplit.envs.core.latency_limit_ms`.
        """
        p95_ms = self.breakdown.p95_ms[:, 0]
        worth: BoolArray = p95_ms <= latency_limit_ms(p95_ms, self.conditions.budget_ms)
        return worth


class Proposer(ABC, Generic[Key]):
    """What agents have in common, whatever key they identify a plan with: outcomes, progress, seeds.

    Args:
        seed: Seed of everything random in the agent.

    Attributes:
        on_progress: Called with a line of text now and then, when set.
    """

    name: ClassVar[str]

    def __init__(self, seed: int) -> None:
        self.on_progress: Callable[[str], None] | None = None
        self._seed = seed
        self._outcomes: dict[Key, Outcome] = {}  # in the order of observation

    @property
    def outcomes(self) -> list[Outcome]:
        """Everything observed, in order."""
        return list(self._outcomes.values())

    @property
    def best(self) -> Outcome | None:
        """The best outcome so far (see `autosplit.evaluation.objective.best_outcome`)."""
        return best_outcome(self._outcomes.values()) if self._outcomes else None

    @property
    @abstractmethod
    def exhausted(self) -> bool:
        """Whether nothing is left to propose."""

    @abstractmethod
    def propose(self, n: int) -> list[Plan]:
        """At most `n` plans to measure next; none where nothing is left."""

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Take in the outcomes of proposed plans, or of others of the space, measured elsewhere.

        Raises:
            ValueError: A plan is not of this space or was observed before.
        """
        for outcome in outcomes:
            key = self._key(outcome.plan)
            if key in self._outcomes:
                raise ValueError(f"plan {outcome.plan.label!r} was observed before")
            self._outcomes[key] = outcome
            self._take(key)  # it may have been measured elsewhere, without a proposal
        self._observe(outcomes)

    @abstractmethod
    def _key(self, plan: Plan) -> Key:
        """The key that the agent identifies a plan with.

        Raises:
            ValueError: The plan is not of this space.
        """

    @abstractmethod
    def _take(self, key: Key) -> None:
        """Note that a plan must not be proposed any more."""

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from new outcomes; they are in `self._outcomes` already."""

    def seed_for(self, purpose: str, step: int = 0) -> int:
        """A seed for one purpose at one step, so that no draw depends on how many came before it.

        Args:
            purpose: A name of the agent's choice.
            step: Tells draws for the same purpose apart, such as the number of the round.
        """
        return _derived_seed(self._seed, purpose, step)

    def generator(self, purpose: str, step: int = 0) -> np.random.Generator:
        """A random generator for one purpose at one step; see `seed_for`."""
        return np.random.default_rng(self.seed_for(purpose, step))

    def report_progress(self, text: str) -> None:
        """Hand a line of text to `on_progress`, if that is set."""
        if self.on_progress is not None:
            self.on_progress(text)


class Agent(Proposer[int]):
    """Proposes plans. Authors override `_propose`, and `_observe` where outcomes matter.

    The public methods track the state: a plan is proposed once, only if it belongs to the space, is not measured, and
    may be in time (`SearchProblem.candidates`). The first proposals are those of `SearchProblem.initial_design`, so
    `_propose` is asked when they are spent.

    Args:
        problem: What to search.

    Attributes:
        problem: What to search.
        needs_policy: Whether the problem must come with a trained policy.
        primed: Whether the agent begins with the problem's initial design, as search methods do that are to be
            compared; one with an order of its own does not.
    """

    needs_policy: ClassVar[bool] = False
    primed: ClassVar[bool] = True

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem.seed)
        self.problem = problem
        self._open = problem.candidates.copy()  # a copy, since the problem may serve other agents

    @property
    def remaining(self) -> int:
        """Plans that may still be proposed."""
        return int(self._open.sum())

    @property
    def exhausted(self) -> bool:
        """Whether every plan worth a measurement has been proposed."""
        return not self._open.any()

    def propose(self, n: int) -> list[Plan]:
        """Plans to measure next.

        Args:
            n: How many are wanted, at least 1.

        Returns:
            At most `n` and at most `remaining` distinct plans, at least one unless the agent is exhausted.

        Raises:
            ValueError: `n` is below 1.
            PluginError: The agent's own code proposed too few, too many, or a plan that it may not propose.
        """
        if n < 1:
            raise ValueError(f"an agent is asked for at least one plan, not {n}")
        if self.exhausted:
            return []
        wanted = min(n, self.remaining)
        design = [i for i in self.problem.initial_design if self._open[i]] if self.primed else []
        # the agent may be somebody's plugin: a wrong proposal should end here, with its name, and not in the evaluator
        numbers = design[:wanted] or [int(i) for i in self._propose(wanted)]
        if not 1 <= len(numbers) <= wanted:
            raise PluginError(f"agent {self.name!r} proposed {len(numbers)} plans, asked for {wanted}")
        for number in numbers:
            if not (0 <= number < len(self._open) and self._open[number]):
                raise PluginError(f"agent {self.name!r} proposed plan {number}, which is no candidate or was proposed "
                                  f"before")
            self._take(number)
        return [self.problem.plans[i] for i in numbers]

    def _key(self, plan: Plan) -> int:
        number = self.problem.number.get(plan)
        if number is None:
            raise ValueError(f"plan {plan.label!r} is not in the search space")
        return number

    def _take(self, key: int) -> None:
        self._open[key] = False

    @abstractmethod
    def _propose(self, n: int) -> Sequence[int]:
        """Numbers of 1 to `n` open plans (`self.open_numbers()`); `n` is at least 1 and at most `remaining`."""

    def open_numbers(self) -> IntArray:
        """Numbers of the plans that may be proposed, ascending."""
        return np.flatnonzero(self._open)
