"""The one search loop, whoever proposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autosplit.agents.base import Proposer
from autosplit.core.measurement import Outcome
from autosplit.core.plan import Plan
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.scorer import Scorer

__all__ = ["run_search"]


def run_search(
    agent: Proposer[Any],
    evaluator: Evaluator,
    scorer: Scorer,
    *,
    evaluations: int,
    batch: int = 10,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Propose, measure, score, observe, until the measurements are spent or nothing is left to measure.

    Args:
        agent: Who proposes.
        evaluator: Who measures; a `CachedEvaluator` makes the search resumable.
        scorer: Joins a measurement with its latency and reward.
        evaluations: Plans to measure at most, in this agent's whole life: what it observed before counts.
        batch: Plans to ask for at once.
        on_outcome: Called with each outcome as soon as it is measured, before the agent sees the batch; a search is
            durable where this writes to the ledger.

    Returns:
        Everything the agent has observed, in order.

    Raises:
        ValueError: `batch` or `evaluations` is below 1.
    """
    if batch < 1 or evaluations < 1:
        raise ValueError(f"evaluations and batch must be at least 1, got {evaluations} and {batch}")
    while (left := evaluations - len(agent.outcomes)) > 0 and not agent.exhausted:
        plans = agent.propose(min(batch, left))
        outcomes: dict[Plan, Outcome] = {}
        # plans of one head follow each other, since evaluators keep a head's features at hand
        for measurement in evaluator.measure(sorted(plans, key=lambda p: (p.place, str(p.sparsity)))):
            outcome = outcomes[measurement.plan] = scorer.outcome(measurement)
            if on_outcome is not None:
                on_outcome(outcome)
        agent.observe([outcomes[plan] for plan in plans])
    return agent.outcomes
