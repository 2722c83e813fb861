"""Regularised evolution: the young survive, not the best."""

from __future__ import annotations

from collections.abc import Sequence

from autosplit.agents.axes import PlanAxes
from autosplit.agents.base import Agent, SearchProblem

__all__ = ["EvolutionAgent"]


class EvolutionAgent(Agent):
    """The best of a few plans of the population has a child with one choice changed; the oldest plan dies.

    Real et al., "Regularized evolution for image classifier architecture search" (AAAI 2019, arXiv 1802.01548). The
    paper's population of 100 would be a random search for as many measurements; population and tournament here are
    for 100 in all. Since every plan that is measured joins and the oldest leaves, the population is always what was
    observed last. A mutation changes one axis, drawn uniformly, to another level of it, drawn uniformly, among those
    that lead to a plan not measured yet (`PlanAxes.moves`).

    One plan is proposed at a time, since the next parent may be its child.

    Args:
        problem: What to search.
        population: Plans that are alive. The first are those of the initial design; where they are fewer, random ones
            are measured too.
        tournament: Plans drawn from the population, of which the best becomes the parent.

    Raises:
        ValueError: `population` or `tournament` is below 1.
    """

    name = "evolution"

    def __init__(self, problem: SearchProblem, population: int = 10, tournament: int = 5) -> None:
        super().__init__(problem)
        if population < 1 or tournament < 1:
            raise ValueError(f"population and tournament must be at least 1, got {population} and {tournament}")
        self._axes = PlanAxes.of(problem)
        self._rng = self.generator("evolution")
        self._size = population
        self._tournament = tournament

    @property
    def population(self) -> list[int]:
        """Numbers of the plans that are alive, the oldest first."""
        return list(self._outcomes)[-self._size:]

    def _propose(self, n: int) -> Sequence[int]:  # noqa: ARG002
        alive = self.population
        if len(alive) < self._size:
            return [int(self._rng.choice(self.open_numbers()))]  # the first generation
        drawn = self._rng.choice(alive, size=min(self._tournament, len(alive)), replace=False)
        parent = max(drawn.tolist(), key=lambda i: self._outcomes[i].reward)
        for axis in self._rng.permutation(len(self._axes.names)):
            moves = self._axes.moves(parent, int(axis), self._open)
            if moves:
                return [int(self._rng.choice(list(moves.values())))]
        return [self._axes.nearest(parent, self.open_numbers())]  # no open plan differs in one choice only
