"""The one implementation of observation, mask and reward, in numpy, for any number of episodes at once.

An episode is a pair (node of the decision tree, index into a pool of conditions). All that an environment must
know is computed once for a plan space and a pool; a step is then a handful of lookups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Workload
from autosplit.core.plan import Plan
from autosplit.core.space import PlanSpace
from autosplit.envs.features import FloatArray, condition_features, node_features, plan_features
from autosplit.envs.tree import BoolArray, DecisionTree, IntArray
from autosplit.evaluation.objective import Objective
from autosplit.latency.base import LatencyBreakdown, LatencyModel

__all__ = ["CoInferenceCore", "allowed_plans", "latency_limit_ms"]

_NEAREST = 1.25  # times the least latency that is looked at where no plan is in time


def allowed_plans(breakdown: LatencyBreakdown, conditions: Sequence[Conditions]) -> BoolArray:
    """Plans that may be chosen: those within the budget (p95), or all of them where no plan is.

    Args:
        breakdown: Latency of P plans under C conditions.
        conditions: The C conditions, for their budgets.

    Returns:
        Shape (P, C); every column has at least one True.
    """
    feasible = breakdown.p95_ms <= np.array([c.budget_ms for c in conditions], dtype=np.float64)[None, :]
    result: BoolArray = feasible | ~feasible.any(axis=0, keepdims=True)
    return result


def latency_limit_ms(p95_ms: Array, budget_ms: float) -> float:
    """Latency up to which a plan is worth a measurement: the budget, if any of `p95_ms` is within it.

    Otherwise 1.25 times the least latency: plans that are further over the deadline than that cannot make up for it by
    their accuracy.
    """
    least_ms = float(p95_ms.min())
    return budget_ms if least_ms <= budget_ms else least_ms * _NEAREST


@dataclass(frozen=True)
class CoInferenceCore:
    """A plan space under a pool of C conditions.

    Attributes:
        plans: The P plans, in the order of `PlanSpace.plans()`.
        tree: The decisions that lead to them.
        conditions: The pool.
        breakdown: Latency of every plan under every conditions of the pool.
        allowed: Plans that may be chosen, shape (P, C).
        masks: Actions that lead to an allowed plan, shape (C, N, A).
        node_observations: Part of the observation that the choices so far make, shape (N + P, F).
        condition_observations: Part that the conditions make, shape (C, K).
    """

    plans: tuple[Plan, ...]
    tree: DecisionTree
    conditions: tuple[Conditions, ...]
    breakdown: LatencyBreakdown
    allowed: BoolArray
    masks: BoolArray
    node_observations: FloatArray
    condition_observations: FloatArray

    @classmethod
    def build(
        cls,
        space: PlanSpace,
        workloads: Sequence[Workload],
        latency_model: LatencyModel,
        conditions: Sequence[Conditions],
    ) -> CoInferenceCore:
        """Compute everything that does not change from episode to episode.

        Args:
            space: The plans.
            workloads: One a plan, in the order of `space.plans()`.
            latency_model: Gives the latency of all plans under all conditions, in one call.
            conditions: The pool.
        """
        tree = DecisionTree.of(space)
        breakdown = latency_model.latency(workloads, conditions)  # one call: models compute in arrays
        allowed = allowed_plans(breakdown, conditions)
        return cls(
            plans=tuple(space.plans()),
            tree=tree,
            conditions=tuple(conditions),
            breakdown=breakdown,
            allowed=allowed,
            masks=tree.masks(allowed),
            node_observations=node_features(tree, plan_features(space, workloads)),
            condition_observations=condition_features(conditions),
        )

    def under(
        self, conditions: Sequence[Conditions], workloads: Sequence[Workload], latency_model: LatencyModel
    ) -> CoInferenceCore:
        """The same plans under another pool of conditions; equal to `build`, but the plans are not described anew."""
        return replace(self, conditions=tuple(conditions), condition_observations=condition_features(conditions))._with(
            latency_model.latency(workloads, conditions))

    def revised(self, workloads: Mapping[int, Workload], latency_model: LatencyModel) -> CoInferenceCore:
        """A core with the latency of some plans computed anew; observations stay as they were predicted.

        Args:
            workloads: The number of each such plan, and its workload.
            latency_model: Gives their latency.
        """
        numbers = np.array(list(workloads), dtype=np.int64)
        new = latency_model.latency(list(workloads.values()), self.conditions)
        arrays = {f.name: getattr(self.breakdown, f.name).copy() for f in fields(LatencyBreakdown)}
        for name, array in arrays.items():
            array[numbers] = getattr(new, name)
        return self._with(LatencyBreakdown(**arrays))

    @classmethod
    def joined(cls, cores: Sequence[CoInferenceCore]) -> CoInferenceCore:
        """The same plans under the pools of several cores side by side, in the order of the cores."""
        if len(cores) == 1:
            return cores[0]
        return replace(
            cores[0],
            conditions=tuple(c for core in cores for c in core.conditions),
            breakdown=LatencyBreakdown.joined([c.breakdown for c in cores], axis=1),
            allowed=np.concatenate([c.allowed for c in cores], axis=1),
            masks=np.concatenate([c.masks for c in cores]),
            condition_observations=np.concatenate([c.condition_observations for c in cores]),
        )

    def _with(self, breakdown: LatencyBreakdown) -> CoInferenceCore:
        allowed = allowed_plans(breakdown, self.conditions)
        return replace(self, breakdown=breakdown, allowed=allowed, masks=self.tree.masks(allowed))

    def restricted(self, plans: BoolArray) -> CoInferenceCore:
        """A core in which these plans may be chosen, and no others.

        Args:
            plans: Shape (P,), at least one True.
        """
        allowed = np.repeat(plans[:, None], len(self.conditions), axis=1)
        return replace(self, allowed=allowed, masks=self.tree.masks(allowed))

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return int(self.node_observations.shape[1] + self.condition_observations.shape[1])

    def observe(self, nodes: IntArray, conditions: IntArray) -> FloatArray:
        """Observations of n episodes, shape (n, observation_size), in [0, 1]."""
        result: FloatArray = np.concatenate(
            (self.node_observations.take(nodes, axis=0), self.condition_observations.take(conditions, axis=0)), axis=1)
        return result

    def action_masks(self, nodes: IntArray, conditions: IntArray) -> BoolArray:
        """Actions that n running episodes may take, shape (n, A)."""
        # one index into flat rows is quicker than fancy indexing with two
        rows = self.masks.reshape(-1, self.tree.actions)
        result: BoolArray = rows.take(conditions * self.tree.inner + nodes, axis=0)
        return result

    def advance(self, nodes: IntArray, conditions: IntArray, actions: IntArray) -> IntArray:
        """The nodes that one action each leads to. An action outside the mask counts as the nearest one inside it.

        AMC bounds its actions in the same way; so algorithms without masking stay within the budget as well.
        """
        result: IntArray = self.tree.child[nodes, self._nearest[conditions, nodes, actions]]
        return result

    @cached_property
    def _nearest(self) -> NDArray[np.signedinteger[Any]]:
        """The action inside the mask that is nearest to each action, the lower of two, shape (C, N, A).

        Computed once it is needed: who only rolls policies out never does.
        """
        number = self.tree.actions
        # small integers, since the arrays have an entry for each condition, node and action
        actions = np.arange(number, dtype=np.min_scalar_type(-4 * number))
        below = np.maximum.accumulate(np.where(self.masks, actions, -number), axis=-1)
        above = np.minimum.accumulate(np.where(self.masks, actions, 2 * number)[..., ::-1], axis=-1)[..., ::-1]
        nearest = np.where(actions - below <= above - actions, below, above)
        result: NDArray[np.signedinteger[Any]] = np.clip(nearest, 0, number - 1)  # for nodes without any
        return result

    def best(self, rewards: Array) -> Array:
        """The best reward of an allowed plan under each conditions of the pool, from rewards (P, C); shape (C,)."""
        result: Array = np.where(self.allowed, rewards, -np.inf).max(axis=0)
        return result

    def rewards(self, objective: Objective, accuracy: Array) -> Array:
        """Reward of every plan under every conditions of the pool, from accuracies of shape (P,); shape (P, C)."""
        return objective.reward(accuracy, self.breakdown, self.conditions)
