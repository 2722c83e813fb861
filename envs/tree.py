"""The decisions that lead to the plans of a space, as a tree in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autosplit.core.space import PlanSpace

__all__ = ["STEPS", "BoolArray", "DecisionTree", "IntArray"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

STEPS = 3
"""Decisions of an episode: split, sparsity, codec."""


@dataclass(frozen=True)
class DecisionTree:
    """Root, split points, (split, sparsity) pairs and plans, numbered level by level.

    Action a at the root takes split point a; there it takes the split's sparsity a, and then its codec a.
    Nodes below `inner` await a decision; node `inner + p` is plan p of `PlanSpace.plans()`.

    Attributes:
        actions: Size A of the action space: the most choices any node has.
        inner: Number N of nodes that await a decision.
        plans: Number P of plans.
        child: Node that an action leads to, shape (N, A); 0 where there is no such choice.
        exists: Whether there is such a choice, shape (N, A).
        step: Decisions taken at a node, 0 to 3, shape (N + P,).
        first_plan: A node's first plan, shape (N + P,); a node's plans are contiguous.
        end_plan: One past a node's last plan, shape (N + P,).
    """

    actions: int
    inner: int
    plans: int
    child: IntArray
    exists: BoolArray
    step: IntArray
    first_plan: IntArray
    end_plan: IntArray

    @classmethod
    def of(cls, space: PlanSpace) -> DecisionTree:
        """The tree of a plan space.

        Raises:
            ValueError: The space is empty, or a split point has no sparsity or no codec.
        """
        branches = [(len(space.sparsities[s]), len(space.codecs[s])) for s in space.splits]
        if not branches or 0 in {n for branch in branches for n in branch}:
            raise ValueError("a plan space needs at least one split point, each with a sparsity and a codec")
        inner, plans = 1 + len(branches) + sum(n for n, _ in branches), len(space)
        actions = max(len(branches), *(n for branch in branches for n in branch))
        child = np.zeros((inner, actions), dtype=np.int64)
        exists = np.zeros((inner, actions), dtype=np.bool_)
        step = np.full(inner + plans, STEPS, dtype=np.int64)
        step[:inner] = 2
        step[:1 + len(branches)] = 1
        step[0] = 0

        def connect(node: int, first: int, count: int) -> None:
            child[node, :count] = np.arange(first, first + count)
            exists[node, :count] = True

        connect(0, 1, len(branches))
        # numbered level by level: the root, the split points, the (split, sparsity) pairs, and then the plans
        pair, leaf = 1 + len(branches), inner
        for split, (sparsities, codecs) in enumerate(branches):
            connect(1 + split, pair, sparsities)
            for _ in range(sparsities):
                connect(pair, leaf, codecs)
                pair, leaf = pair + 1, leaf + codecs
        # the plans below a node are contiguous; children have higher numbers than their parents, so go backwards
        first_plan = np.zeros(inner + plans, dtype=np.int64)
        first_plan[inner:] = np.arange(plans)
        end_plan = first_plan + 1
        for node in range(inner - 1, -1, -1):
            below = child[node, exists[node]]
            first_plan[node], end_plan[node] = first_plan[below[0]], end_plan[below[-1]]
        return cls(actions, inner, plans, child, exists, step, first_plan, end_plan)

    def reachable(self, allowed: BoolArray) -> BoolArray:
        """Which nodes lead to at least one allowed plan.

        Args:
            allowed: Shape (P, C).

        Returns:
            Shape (N + P, C).
        """
        # a node's plans are contiguous, so two cumulative counts say whether any of them is allowed
        before = np.zeros((self.plans + 1, allowed.shape[1]), dtype=np.int64)
        np.cumsum(allowed, axis=0, out=before[1:])
        result: BoolArray = before[self.end_plan] > before[self.first_plan]
        return result

    def masks(self, allowed: BoolArray) -> BoolArray:
        """Actions that lead to an allowed plan, shape (C, N, A); `allowed` as for `reachable`."""
        reachable = self.reachable(allowed).T
        # contiguous, so that a step can take whole rows of masks
        result: BoolArray = np.ascontiguousarray(reachable[:, self.child] & self.exists)
        return result
