"""`LayerwiseAgent`: proposes plans with one sparsity a prunable group; and `LayerwiseProblem`, what it searches.

The life cycle is that of `autosplit.agents.base.Agent`, and the same loop drives both. Such plans cannot be numbered,
there are too many; the state is tracked by `Choice`, so that plans of the same head and codec are one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autosplit.agents.base import Proposer
from autosplit.core.conditions import Conditions
from autosplit.core.errors import PluginError
from autosplit.core.plan import CodecSetting, Plan
from autosplit.envs.episodes import LayerwiseCore
from autosplit.envs.layers import Choice, LayerwiseSpace
from autosplit.evaluation.base import Evaluator, layerwise
from autosplit.evaluation.objective import Objective
from autosplit.latency.base import LatencyModel

__all__ = ["LayerwiseAgent", "LayerwiseProblem", "LayerwiseRandomAgent"]

_SLACK = 1e-6  # of the limit: plans are bounded by a closed form of the latency that is right up to so much
_BLOCK = 64  # random episodes played at once
_FRUITLESS = 16  # blocks without a new plan, after which there seems to be none


@dataclass(frozen=True)
class LayerwiseProblem:
    """All that is known before the first measurement.

    Attributes:
        space: The plans.
        latency_model: Gives the latency of a workload under conditions.
        objective: What to maximise.
        conditions: Where the plan is to run.
        seed: Seed of everything random in the agent.
        evaluations: Measurements that are asked for; agents with a schedule spread it over so many.
    """

    space: LayerwiseSpace
    latency_model: LatencyModel
    objective: Objective
    conditions: Conditions
    seed: int = 0
    evaluations: int = 150

    @classmethod
    def of(
        cls,
        evaluator: Evaluator,
        latency_model: LatencyModel,
        objective: Objective,
        conditions: Conditions,
        seed: int = 0,
        evaluations: int = 150,
        *,
        splits: Sequence[str] | None = None,
        codecs: Sequence[CodecSetting] | None = None,
    ) -> LayerwiseProblem:
        """The problem of searching an evaluator's space, or a part of it.

        Args:
            evaluator: Knows the heads, predicts the payloads.
            latency_model: As for the class, like the arguments up to `evaluations`.
            objective: As for the class.
            conditions: As for the class.
            seed: As for the class.
            evaluations: As for the class.
            splits: Split points to choose among; all when left out.
            codecs: Codecs to choose among; all when left out.

        Raises:
            ConfigError: The evaluator measures no such plans, or nothing is left to choose.
            PruningError: The work of a pruned head cannot be predicted.
        """
        space = LayerwiseSpace.of(layerwise(evaluator), splits=splits, codecs=codecs)
        return cls(space, latency_model, objective, conditions, seed, evaluations)

    @cached_property
    def core(self) -> LayerwiseCore:
        """The decisions under the problem's conditions."""
        return LayerwiseCore(self.space, self.latency_model, self.conditions, quick=True)


class LayerwiseAgent(Proposer[Choice]):
    """Proposes plans that are pruned layer by layer. Authors override `_propose`, and `_observe` where outcomes matter.

    The public methods track the state: a plan is proposed once, is not measured, and is within the limit of `core`, as
    far as latency is known before measuring.

    Args:
        problem: What to search.

    Attributes:
        problem: What to search.
        core: The decisions under the problem's conditions; `correct_payloads` replaces it.
    """

    def __init__(self, problem: LayerwiseProblem) -> None:
        super().__init__(problem.seed)
        self.problem = problem
        self.core = problem.core
        self._taken: set[Choice] = set()
        self._exhausted = False
        self._payload_scale = (1.0,) * len(problem.space.splits)

    @property
    def exhausted(self) -> bool:
        """Whether the agent found nothing new to propose when it was asked last."""
        return self._exhausted

    def propose(self, n: int) -> list[Plan]:
        """Plans to measure next.

        Args:
            n: How many are wanted, at least 1.

        Returns:
            At most `n` distinct plans; none only where the agent is exhausted.

        Raises:
            ValueError: `n` is below 1.
            PluginError: The agent's own code proposed too many, or a plan that it may not propose.
        """
        if n < 1:
            raise ValueError(f"an agent is asked for at least one plan, not {n}")
        choices = [] if self._exhausted else list(self._propose(n))
        self._exhausted = not choices
        if len(choices) > n:
            raise PluginError(f"agent {self.name!r} proposed {len(choices)} plans, asked for {n}")
        for choice in choices:
            p95_ms = self.core.latency.breakdown([choice]).p95_ms[0, 0]
            if choice in self._taken or p95_ms > self.core.limit_ms * (1 + _SLACK):
                label = self.problem.space.plan(choice).label
                raise PluginError(f"agent {self.name!r} proposed the plan {label!r}, which is no candidate or was "
                                  "proposed before")
            self._take(choice)
        return [self.problem.space.plan(c) for c in choices]

    def _key(self, plan: Plan) -> Choice:
        return self.problem.space.locate(plan)

    def _take(self, key: Choice) -> None:
        self._taken.add(key)

    @abstractmethod
    def _propose(self, n: int) -> Sequence[Choice]:
        """At most `n` choices that are not in `self._taken`; none where there is nothing new."""

    def random_plans(self, rng: np.random.Generator) -> list[Choice]:
        """Plans of some random episodes that are not taken yet: every action uniform, then bounded.

        Args:
            rng: Draws the actions.

        Returns:
            None where many blocks of episodes end in taken plans only: there seem to be no others.
        """
        layers = max(1, self.problem.space.groups)
        for _ in range(_FRUITLESS):
            episodes = self.core.play(rng.random(_BLOCK), rng.random((_BLOCK, layers)), rng.random(_BLOCK))
            found = [c for c in dict.fromkeys(self.core.choices(episodes)) if c not in self._taken]
            if found:
                return found
        return []

    def correct_payloads(self) -> bool:
        """Scale predicted payloads to the measured ones, split point by split point.

        Bounded plans lie just within the limit by predicted payloads. Where pruned heads need more bytes, all of them
        would be too late.

        Returns:
            Whether that changed `core`.
        """
        ratios: list[list[float]] = [[] for _ in self.problem.space.splits]
        for choice, outcome in self._outcomes.items():
            predicted = self.problem.space.splits[choice.split].workloads[choice.codec]
            # images do not depend on the head, and a plan without payload has no ratio
            if predicted.plan.codec.kind == "code" and predicted.payload_bytes_p95 > 0:
                measured = outcome.measurement.workload.payload_bytes_p95
                ratios[choice.split].append(measured / predicted.payload_bytes_p95)
        # rounded up to a percent, so that `core`, which is costly to build, does not change with every outcome
        scale = tuple(float(np.ceil(np.quantile(r, 0.8) * 100) / 100) if r else 1.0 for r in ratios)
        if scale == self._payload_scale:
            return False
        self._payload_scale = scale
        space = self.problem.space.with_payloads(scale)
        self.core = LayerwiseCore(space, self.problem.latency_model, self.problem.conditions, quick=True)
        return True


class LayerwiseRandomAgent(LayerwiseAgent):
    """Random actions, bounded: the baseline that every method must beat."""

    name = "random"

    def __init__(self, problem: LayerwiseProblem) -> None:
        super().__init__(problem)
        self._rng = self.generator("random")
        self._queue: deque[Choice] = deque()

    def _propose(self, n: int) -> Sequence[Choice]:
        found: list[Choice] = []
        while len(found) < n:
            if not self._queue:
                self._queue.extend(c for c in self.random_plans(self._rng) if c not in found)
                if not self._queue:
                    break
            choice = self._queue.popleft()
            if choice not in self._taken:
                found.append(choice)
        return found
