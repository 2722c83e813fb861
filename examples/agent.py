"""An agent of your own: it measures what looks best, and learns how far each split point is from what was expected.

    autosplit search --agent examples/agent.py:SplitCorrector --evaluations 40
    autosplit bench search TABLE --agent ppo --agent examples/agent.py:SplitCorrector --out results/mine

The base class tracks the state: no plan is measured twice, or although it cannot be in time. Check yours with
`autosplit.testing.AgentContract`, as tests/test_examples.py does with this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.core.measurement import Outcome


class SplitCorrector(Agent):
    """The plan of the highest expected accuracy next, where expectations are corrected split point by split point."""

    name = "split-corrector"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._surprises: defaultdict[str, list[float]] = defaultdict(list)

    def _propose(self, n: int) -> Sequence[int]:  # noqa: ARG002
        """One plan at a time, although `n` may be asked for: its outcome changes what is best next."""
        numbers = self.open_numbers()
        splits = [self.problem.plans[i].split for i in numbers]
        expected = self.problem.prior[numbers] + [np.mean(self._surprises[s] or 0.0) for s in splits]
        return [int(numbers[np.argmax(expected)])]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            expected = self.problem.prior[self.problem.number[outcome.plan]]
            self._surprises[outcome.plan.split].append(outcome.measurement.accuracy - expected)
