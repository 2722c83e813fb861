"""The agent `policy`: what a trained policy would choose, measured to be sure."""

from __future__ import annotations

import numpy as np

from autosplit.agents.base import SearchProblem
from autosplit.agents.enumerate import PriorOnlyAgent

__all__ = ["PolicyAgent"]


class PolicyAgent(PriorOnlyAgent):
    """Proposes the policy's decision, and then the other plans by the reward that its knowledge predicts.

    Nothing is learnt on the way. On the plans that the policy was trained on, the first proposal is what
    `CoInferencePolicy.decide` answers; on another space there is no such answer, and the predictions alone decide, as
    for `prior-only` with that policy.

    Args:
        problem: With a policy.

    Raises:
        ValueError: The problem has no policy.
    """

    name = "policy"
    needs_policy = True

    def __init__(self, problem: SearchProblem) -> None:
        policy = problem.policy
        if policy is None:
            raise ValueError("agent 'policy' needs a problem with a policy")
        super().__init__(problem)
        if policy.knowledge.space == problem.space:
            # first, whatever its predicted reward: this is the plan that the policy would answer without measuring
            decided = problem.number[policy.decide(problem.conditions).plan]
            self._order = np.concatenate(([decided], self._order[self._order != decided]))
