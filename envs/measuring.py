"""The vectorised environment over an evaluator: what `gymnasium.make_vec` makes of `autosplit/CoInference-v0`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.measurement import Measurement
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.generators import Selection
from autosplit.envs.task import CoInferenceTask, TaskOptions
from autosplit.envs.tree import IntArray
from autosplit.envs.vector import VectorCoInference

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MeasuringVectorCoInference"]


class MeasuringVectorCoInference(VectorCoInference):
    """n copies of `CoInferenceEnv` that share one evaluator; see `VectorCoInference` for steps and infos.

    A plan is measured when a copy first completes it, all new plans of a step in one call, and never again: over a
    `TableEvaluator` that is a lookup, over networks the environment is as slow as they are until it knows the plans.

    Args:
        num_envs: Number n of episodes at once.
        options: See `autosplit.envs.task.TaskOptions`.

    Raises:
        ConfigError: The scenario or the objective cannot be read, or the pools make no sense.
        ValueError: There is no copy.
    """

    def __init__(self, num_envs: int = 1, **options: Unpack[TaskOptions]) -> None:
        self.task = CoInferenceTask.of(**options)
        self._measured: dict[int, Measurement] = {}
        self._cores = {0: self.task.core()}  # the pools in use, side by side among the conditions
        self._pool_of: IntArray = np.zeros(num_envs, dtype=np.int64)
        core = self._cores[0]
        super().__init__(core, np.full(core.allowed.shape, np.nan), num_envs)  # no reward is known yet

    def _rewards_of(self, plans: IntArray, conditions: IntArray) -> Array:
        unknown = np.isnan(self._rewards[plans, conditions])
        if not unknown.any():
            return super()._rewards_of(plans, conditions)
        numbers = np.unique(plans[unknown])
        new = [int(p) for p in numbers if int(p) not in self._measured]
        if new:
            found = self.task.evaluator.measure([self.core.plans[p] for p in new])
            self._measured |= dict(zip(new, found, strict=True))
        # latencies of predicted workloads are known; only plans that measured otherwise need the latency model again
        workloads = [self._measured[p].workload for p in numbers.tolist()]
        revised = np.array([w != self.task.workloads[p] for p, w in zip(numbers.tolist(), workloads, strict=True)])
        breakdowns = {False: self.core.breakdown.rows(numbers[~revised])}
        if revised.any():
            others = [work for work, other in zip(workloads, revised, strict=True) if other]
            breakdowns[True] = self.task.latency_model.latency(others, self.core.conditions)
        for kind, breakdown in breakdowns.items():
            entered = numbers[revised == kind]
            accuracy = np.array([self._measured[p].accuracy for p in entered.tolist()], dtype=np.float64)
            self._rewards[entered] = self.task.objective.reward(accuracy, breakdown, self.core.conditions)
        return super()._rewards_of(plans, conditions)

    def _pools(self, which: Selection) -> tuple[int | IntArray, int]:
        size, episodes = len(self.task.core().conditions), self.task.pool_episodes
        if episodes is None:
            return 0, size
        self._pool_of[which] = self._episodes[which] // episodes
        used = np.unique(self._pool_of)
        if used.tolist() != list(self._cores):  # a copy has begun a pool, or the last copy has left one
            within = self._conditions % size
            self._cores = {g: self._cores[g] if g in self._cores else self.task.core(g) for g in used.tolist()}
            core = CoInferenceCore.joined(list(self._cores.values()))
            self._set(core, np.full(core.allowed.shape, np.nan))
            self._conditions = np.searchsorted(used, self._pool_of) * size + within
        start: IntArray = np.searchsorted(used, self._pool_of[which]) * size
        return start, size
