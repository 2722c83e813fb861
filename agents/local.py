"""Local search: up the hill over neighbouring plans, and again from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from autosplit.agents.axes import PlanAxes
from autosplit.agents.base import Agent, SearchProblem

__all__ = ["LocalSearchAgent"]


class LocalSearchAgent(Agent):
    """Measures neighbours of where it stands, moves as soon as one is better, and starts anew where none is.

    White, Nolen and Savani, "Exploring the loss landscape in neural architecture search" (UAI 2021, arXiv 2005.02960),
    in their variant that does not wait for all neighbours. Neighbours are plans one step away in one dimension
    (`PlanAxes.neighbours`), asked in random order; plans that cannot be in time are stepped over. What is measured
    already is looked up.

    One plan is proposed at a time, since each decides about the next. Asked again before its outcome is in, the agent
    goes on with what it knows.

    Args:
        problem: What to search.
        starts: Random plans measured first where the agent is not primed. The climb begins at the best of them, or at
            the best of the initial design.
    """

    name = "local-search"

    def __init__(self, problem: SearchProblem, starts: int = 5) -> None:
        super().__init__(problem)
        self._axes = PlanAxes.of(problem)
        self._candidates = problem.candidates.copy()
        self._rng = self.generator("local-search")
        self._wanted = starts
        self._starts = list(problem.initial_design) if self.primed else []
        self._at: int | None = None

    def _propose(self, n: int) -> Sequence[int]:  # noqa: ARG002
        rewards = {number: outcome.reward for number, outcome in self._outcomes.items()}
        while True:
            if self._at is None:  # at the beginning, or where the last climb ended
                known = [i for i in self._starts if i in rewards]
                if len(self._starts) < self._wanted or not known:
                    self._starts.append(int(self._rng.choice(self.open_numbers())))
                    return self._starts[-1:]
                self._at = max(known, key=rewards.__getitem__)
            around = self._axes.neighbours(self._at, self._candidates)
            better = [i for i in around if i in rewards and rewards[i] > rewards[self._at]]
            unmeasured = [i for i in around if self._open[i]]
            if better:
                self._at = max(better, key=rewards.__getitem__)
            elif unmeasured:
                return [int(self._rng.choice(unmeasured))]
            else:  # nothing better around: the climb is over
                self._at, self._starts, self._wanted = None, [], 1
