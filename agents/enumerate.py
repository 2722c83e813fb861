"""Agents that do not learn: everything in order, in random order, and in the order of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.envs.tree import IntArray

__all__ = ["ExhaustiveAgent", "PriorOnlyAgent", "RandomAgent"]


class ExhaustiveAgent(Agent):
    """Every plan that may be in time, ordered by split, sparsity and codec."""

    name = "exhaustive"
    primed = False

    def _propose(self, n: int) -> Sequence[int]:
        return list(self.open_numbers()[:n])


class RandomAgent(Agent):
    """Plans that may be in time, uniformly without replacement: the baseline that every method must beat."""

    name = "random"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._order = np.random.default_rng(problem.seed).permutation(len(problem.plans))

    def _propose(self, n: int) -> Sequence[int]:
        return list(self._order[self._open[self._order]][:n])


class PriorOnlyAgent(Agent):
    """Plans sorted by the reward that the prior expects, measured from the top: the control of everything that learns.

    What a method finds sooner than this it owes to what it learnt from measurements; the rest it was given.
    """

    name = "prior-only"
    primed = False  # the design's other half is there for methods that learn

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._order: IntArray = np.argsort(-problem.prior_rewards, kind="stable")

    def _propose(self, n: int) -> Sequence[int]:
        return list(self._order[self._open[self._order]][:n])
