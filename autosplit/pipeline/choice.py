"""Which of several fine-tuned deployments is taken: the cheapest of those that cannot be told apart from the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from autosplit.core.intervals import Interval, difference_interval
from autosplit.core.measurement import Measurement, Outcome
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer

__all__ = ["Pick", "accuracy_difference", "cheapest_of_equals", "cheapest_within_a_point"]

_MOST_GIVEN_UP = 0.01  # accuracy that may be lost to save energy, however little the images show
_CLOSE = 0.01  # energies, bytes or latencies that differ by less are equal

_COSTS: tuple[Callable[[Outcome], float], ...] = (
    lambda o: o.latency.energy_mj,
    lambda o: o.measurement.workload.sent * o.measurement.workload.payload_bytes_mean,
    lambda o: o.latency.p95_ms)
"""What a deployment costs, in the order in which equals are compared."""


@dataclass(frozen=True)
class Pick:
    """What was taken, and why.

    Attributes:
        taken: The deployment.
        best: The one of the highest reward.
        equals: Those in time that cannot be told apart from the best, nor are more than a point below it, itself among
            them; empty where none is in time.
        half_width: Half of the widest 95 % interval of an accuracy difference to the best one, among the equals; what
            smaller differences the validation images cannot show.
    """

    taken: Outcome
    best: Outcome
    equals: tuple[Outcome, ...]
    half_width: float


def accuracy_difference(one: Measurement, other: Measurement, sources: ArrayLike | None = None) -> Interval | None:
    """The 95 % interval of one accuracy minus the other, where both answered the same images.

    Args:
        one: On some images.
        other: On the same.
        sources: What each image was made from.

    Returns:
        `None` where it is not known which images they got right.
    """
    if one.answers is None or other.answers is None or one.answers.images != other.answers.images:
        return None
    return difference_interval(one.answers.hits, other.answers.hits, sources)


def cheapest_of_equals(candidates: Sequence[Outcome], scorer: Scorer, sources: ArrayLike | None = None) -> Pick:
    """The cheapest deployment in time whose reward could be that of the best: energy, then bytes, then latency.

    A deployment is equal to the best one if its reward would be as high at the upper end of the 95 % interval of its
    accuracy, taken against the best one's on the same images; but of what the interval allows no more than one point is
    believed, since few images would give away many. Where none is in time, the least late one is taken.

    Args:
        candidates: Fine-tuned, measured on the same validation images; at least one.
        scorer: Gives rewards.
        sources: What each validation image was made from.
    """
    best = best_outcome(candidates)
    if not best.feasible:
        return Pick(best, best, (), 0.0)
    equals, half_width = [best], 0.0
    for outcome in candidates:
        difference = accuracy_difference(outcome.measurement, best.measurement, sources)
        if outcome is best or not outcome.feasible or difference is None:
            continue
        at_best = min(best.measurement.accuracy + difference.high, outcome.measurement.accuracy + _MOST_GIVEN_UP)
        if _reward_at(at_best, outcome, scorer) >= best.reward:
            equals.append(outcome)
            half_width = max(half_width, difference.half_width)
    return Pick(_cheapest(equals), best, tuple(equals), half_width)


def cheapest_within_a_point(candidates: Sequence[Outcome], scorer: Scorer) -> Outcome:
    """The cheapest deployment in time whose reward would be that of the best with a point of accuracy more.

    Args:
        candidates: At least one that is in time; proxy accuracies will do.
        scorer: Gives rewards.
    """
    feasible = [outcome for outcome in candidates if outcome.feasible]
    best = best_outcome(feasible)
    return _cheapest([o for o in feasible
                      if _reward_at(o.measurement.accuracy + _MOST_GIVEN_UP, o, scorer) >= best.reward])


def _reward_at(accuracy: float, outcome: Outcome, scorer: Scorer) -> float:
    """What a deployment's reward would be at another accuracy."""
    moved = outcome.measurement.model_copy(update={"accuracy": min(max(0.0, accuracy), 1.0)})
    return scorer.outcome(moved).reward


def _cheapest(candidates: Sequence[Outcome]) -> Outcome:
    """Energy, then bytes, then latency."""
    left = list(candidates)
    for cost in _COSTS:
        limit = min(map(cost, left)) * (1 + _CLOSE)
        left = [outcome for outcome in left if cost(outcome) <= limit]
    return best_outcome(left)
