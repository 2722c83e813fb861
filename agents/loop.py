"""The one search loop, whoever proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from autosplit.evaluation.base import Evaluator
from autosplit.latency.base import LatencyModel
from autosplit.objective import Objective, score
from autosplit.plan import Outcome, Plan
from autosplit.scenario import Conditions

__all__ = ["Proposer", "run_search"]


class Proposer(Protocol):
    """What the loop asks of an agent: `autosplit.agents.base.Agent`, or `autosplit.agents.layerwise.LayerwiseAgent`."""

    @property
    def outcomes(self) -> list[Outcome]:
        """Everything observed, in order."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        ...

    def propose(self, n: int) -> list[Plan]:
        """At most `n` plans to measure next; none where nothing is left."""
        ...

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Take in the outcomes of plans."""
        ...


def run_search(
    agent: Proposer,
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
