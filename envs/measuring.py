"""The vectorised environment over an evaluator: what `gymnasium.make_vec` makes of `autosplit/CoInference-v0`."""

from __future__ import annotations

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.plan import Measurement
from autosplit.core.scenario import Scenario
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.generators import Selection
from autosplit.envs.task import CoInferenceTask
from autosplit.envs.tree import IntArray
from autosplit.envs.vector import VectorCoInference
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.objective import Objective
from autosplit.latency.base import LatencyBreakdown, LatencyModel

__all__ = ["MeasuringVectorCoInference"]


class MeasuringVectorCoInference(VectorCoInference):
    """n copies of `CoInferenceEnv` that share one evaluator; see `VectorCoInference` for steps and infos.

    A plan is measured when a copy first completes it, all new plans of a step in one call, and never again: over a
    `TableEvaluator` that is a lookup, over networks the environment is as slow as they are until it knows the plans.

    Args:
        num_envs: Number n of episodes at once.
        scenario: See `CoInferenceEnv`, as for all that follow.
        evaluator: Who measures.
        latency_model: The scenario's when left out.
        objective: The scenario's when left out.
        sampler: Where conditions come from; the scenario's conditions only, when left out.
        pool_size: Number of conditions drawn from the sampler.
        pool_seed: Seed of that draw.
        pool_episodes: Episodes of a copy after which its pool is drawn anew; never when left out.

    Raises:
        ConfigError: The scenario or the objective cannot be read, or the pools make no sense.
        ValueError: There is no copy.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Scenario | str = "default",
        evaluator: Evaluator | None = None,
        latency_model: LatencyModel | None = None,
        objective: Objective | str | None = None,
        sampler: ConditionsSampler | None = None,
        *,
        pool_size: int = 256,
        pool_seed: int = 0,
        pool_episodes: int | None = None,
    ) -> None:
        self.task = CoInferenceTask.of(scenario, evaluator, latency_model, objective, sampler, pool_size=pool_size,
                                       pool_seed=pool_seed, pool_episodes=pool_episodes)
        self._measured: dict[int, Measurement] = {}
        self._cores = {0: self.task.core()}  # the pools in use, side by side among the conditions
        self._pool_of: IntArray = np.zeros(num_envs, dtype=np.int64)
        core = self._cores[0]
        super().__init__(core, _unknown(core), num_envs)

    def _rewards_of(self, plans: IntArray, conditions: IntArray) -> Array:
        unknown = np.isnan(self._rewards[plans, conditions])
        if unknown.any():
            self._fill(np.unique(plans[unknown]))
        return super()._rewards_of(plans, conditions)

    def _fill(self, plans: IntArray) -> None:
        """Enter the rewards of plans under all conditions, and measure those that never were."""
        new = [int(p) for p in plans if int(p) not in self._measured]
        if new:
            found = self.task.evaluator.measure([self.core.plans[p] for p in new])
            self._measured |= dict(zip(new, found, strict=True))
        as_predicted = np.array([self._measured[p].workload == self.task.workloads[p] for p in plans.tolist()])
        self._enter(plans[as_predicted], self.core.breakdown.rows(plans[as_predicted]))
        if not as_predicted.all():
            other = plans[~as_predicted]
            workloads = [self._measured[p].workload for p in other.tolist()]
            self._enter(other, self.task.latency_model.latency(workloads, self.core.conditions))

    def _enter(self, plans: IntArray, breakdown: LatencyBreakdown) -> None:
        accuracy = np.array([self._measured[p].accuracy for p in plans.tolist()], dtype=np.float64)
        self._rewards[plans] = self.task.objective.reward(accuracy, breakdown, self.core.conditions)

    def _pools(self, which: Selection) -> tuple[int | IntArray, int]:
        size, episodes = len(self.task.core().conditions), self.task.pool_episodes
        if episodes is None:
            return 0, size
        self._pool_of[which] = self._episodes[which] // episodes
        used = np.unique(self._pool_of)
        if used.tolist() != list(self._cores):
            within = self._conditions % size
            self._cores = {g: self._cores[g] if g in self._cores else self.task.core(g) for g in used.tolist()}
            core = CoInferenceCore.joined(list(self._cores.values()))
            self._set(core, _unknown(core))
            self._conditions = np.searchsorted(used, self._pool_of) * size + within
        start: IntArray = np.searchsorted(used, self._pool_of[which]) * size
        return start, size


def _unknown(core: CoInferenceCore) -> Array:
    return np.full(core.allowed.shape, np.nan)
