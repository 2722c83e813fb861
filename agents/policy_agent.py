"""The agent `policy`: what a trained policy would choose, measured to be sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.envs.tree import IntArray

__all__ = ["PolicyAgent"]


class PolicyAgent(Agent):
    """Proposes the policy's decision, and then the other plans by the reward that its knowledge predicts.

    Nothing is learnt on the way. On the plans that the policy was trained on, the first proposal is what
    `CoInferencePolicy.decide` answers; on another space there is no such answer, and the predictions alone decide.

    Args:
        problem: With a policy.

    Raises:
        ValueError: The problem has no policy.
    """

    name = "policy"
    needs_policy = True

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        policy = problem.policy
        if policy is None:
            raise ValueError("agent 'policy' needs a problem with a policy")
        breakdown = problem.latency_model.latency(problem.workloads, [problem.conditions])
        rewards = problem.objective.reward(problem.prior, breakdown, [problem.conditions])[:, 0]
        if policy.knowledge.space == problem.space:
            # first, whatever its predicted reward: this is the plan that the policy would answer without measuring
            rewards[problem.number[policy.decide(problem.conditions).plan]] = np.inf
        self._order: IntArray = np.argsort(-rewards, kind="stable")

    def _propose(self, n: int) -> Sequence[int]:
        return list(self._order[self._open[self._order]][:n])
