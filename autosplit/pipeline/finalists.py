"""Which measured plans are fine-tuned: the best ones, one for each pruned head, with an exit where one brings more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autosplit.core.measurement import Outcome
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.choice import cheapest_within_a_point
from autosplit.pipeline.context import SearchContext

__all__ = ["fine_tune_best", "likely_finalists", "ranked_heads", "search_finalists", "uncut"]

_MOST_TRIES = 3  # finalists tried, in multiples of those asked for, while fine-tuned payloads miss the budget


def search_finalists(
    context: SearchContext, scorer: Scorer, outcomes: Sequence[Outcome], wanted: int,
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    """A search's finalists: the best plans, and where a split is in time, a split and a cheap one.

    So it is known what a split would bring; and of what cannot be told apart the cheapest will be taken, which the best
    ones hardly are: the split that costs least of those within a point of the best one.

    Args:
        context: As for `fine_tune_best`, like all else.
        scorer: Joins measurements with latency and reward.
        outcomes: What was measured at F1.
        wanted: Plans to fine-tune; the splits come on top.
        on_outcome: Called with each new outcome as soon as it is there.
    """
    splits = [o for o in outcomes if o.plan.is_split and o.feasible]
    cheap = cheapest_within_a_point(splits, scorer) if splits else None
    # all that is foreseen at once: workers do them side by side
    first = likely_finalists(scorer, outcomes, wanted)
    if splits and not any(plan.is_split for plan in first):
        first += likely_finalists(scorer, splits, 1)
    context.begin([*first, *([cheap.plan] if cheap else [])], scorer.conditions.device.arithmetic)

    found = fine_tune_best(context, scorer, outcomes, wanted, on_outcome=on_outcome)
    if splits and not any(o.plan.is_split for o in found):
        found += fine_tune_best(context, scorer, splits, 1, on_outcome=on_outcome)
    if cheap is not None and cheap.plan not in [o.plan.without_exit for o in found]:
        found += fine_tune_best(context, scorer, [cheap], 1, on_outcome=on_outcome)
    return found


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
    ranked = ranked_heads(scorer.with_best_exits(outcomes))
    context.begin(_trained(ranked)[:wanted], scorer.conditions.device.arithmetic)
    for plan in ranked:
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


def likely_finalists(scorer: Scorer, outcomes: Sequence[Outcome], wanted: int) -> list[Plan]:
    """The plans that `fine_tune_best` fine-tunes in any case; it goes on to others where their payloads grow."""
    return _trained(ranked_heads(scorer.with_best_exits(outcomes)))[:wanted]


def _trained(plans: Sequence[Plan]) -> list[Plan]:
    return [plan for plan in plans if not uncut(plan)]


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
        chosen.setdefault((outcome.plan.place, outcome.plan.sparsity), outcome.plan)
    return list(chosen.values())
