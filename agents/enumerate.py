"""Agents that do not learn: everything in order, and everything in random order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.base import Agent, SearchProblem

__all__ = ["ExhaustiveAgent", "RandomAgent"]


class ExhaustiveAgent(Agent):
    """Every plan that may be in time, ordered by split, sparsity and codec."""

    name = "exhaustive"

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
