"""The one search loop, whoever proposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autosplit.agents.base import Proposer
from autosplit.core.conditions import Conditions
from autosplit.core.plan import Outcome
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.objective import Objective, score
from autosplit.latency.base import LatencyModel

__all__ = ["run_search"]


def run_search(
    agent: Proposer[Any],
    evaluator: Evaluator,
    latency_model: LatencyModel,
    objective: Objective,
    conditions: Conditions,
    *,
    evaluations: int,
    batch: int = 10,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Propose, measure, observe, until the measurements are spent or nothing is left to measure.

    Args:
        agent: Who proposes.
        evaluator: Who measures; a `MemoEvaluator` makes the search durable and resumable.
        latency_model: Gives the latency of what was measured.
        objective: Gives its reward.
        conditions: Where the plan is to run.
        evaluations: Plans to measure at most, in this agent's whole life: what it observed before counts.
        batch: Plans to ask for at once.
        on_outcome: Called with each outcome, in order, before the agent sees the batch.

    Returns:
        Everything the agent has observed, in order.

    Raises:
        ValueError: `batch` or `evaluations` is below 1.
    """
    if batch < 1 or evaluations < 1:
        raise ValueError(f"evaluations and batch must be at least 1, got {evaluations} and {batch}")
    while (left := evaluations - len(agent.outcomes)) > 0 and not agent.exhausted:
        plans = agent.propose(min(batch, left))
        outcomes = score(evaluator.measure(plans), latency_model, objective, conditions)
        if on_outcome is not None:
            for outcome in outcomes:
                on_outcome(outcome)
        agent.observe(outcomes)
    return agent.outcomes
