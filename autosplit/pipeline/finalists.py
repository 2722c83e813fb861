"""Which measured plans are fine-tuned: the best ones, one for each pruned head, with an exit where one brings more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autosplit.core.measurement import Outcome
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.context import SearchContext

__all__ = ["fine_tune_best", "ranked_heads", "uncut"]

_MOST_TRIES = 3  # finalists tried, in multiples of those asked for, while fine-tuned payloads miss the budget


def fine_tune_best(
    context: SearchContext, scorer: Scorer, outcomes: Sequence[Outcome], wanted: int, *,
    on_outcome: Callable[[Outcome], None] | None = None, title: str = "finalist",
) -> list[Outcome]:
    """Fine-tune the best plans; go on to the next ones as long as every payload so far grew beyond the budget.

    Args:
        context: Fine-tunes and measures.
        scorer: Joins measurements with latency and reward.
        outcomes: What was measured at F1.
        wanted: Plans to fine-tune; those that need none come on top.
        on_outcome: Called with each new outcome as soon as it is there.
        title: For the progress bar; a number follows.

    Returns:
        Outcomes of fidelity F3 on validation images, in the order of `ranked_heads`.
    """
    found: list[Outcome] = []
    trained = 0
    for plan in ranked_heads(scorer.with_best_exits(outcomes)):
        if trained >= _MOST_TRIES * wanted or (trained >= wanted and any(o.feasible for o in found)):
            break
        trained += not uncut(plan)
        # an exit changes nothing else: with the plan comes, for nothing, what it is without one
        for each in (plan, plan.without_exit) if plan.exit is not None else (plan,):
            measured = context.measure(each, scorer.conditions.device.arithmetic, title=f"{title} {trained}")
            found.append(scorer.outcome(measured))
            if on_outcome is not None:
                on_outcome(found[-1])
    return found


def uncut(plan: Plan) -> bool:
    """Whether a plan runs the backbone whole and as it is, on one side, so that there is nothing to fine-tune."""
    return plan.lossless and plan.split in (INPUT, OUTPUT)


def ranked_heads(outcomes: Sequence[Outcome]) -> list[Plan]:
    """Feasible plans, best first, one for each pruned head: fine-tuning changes what a head can do, not its cost.

    Where none is feasible, the least infeasible one alone.
    """
    feasible = [o for o in outcomes if o.feasible]
    if not feasible:
        return [best_outcome(outcomes).plan]
    chosen: dict[tuple[object, ...], Plan] = {}
    for outcome in sorted(feasible, key=lambda o: -o.reward):
        chosen.setdefault((outcome.plan.split, outcome.plan.sparsity), outcome.plan)
    return list(chosen.values())
