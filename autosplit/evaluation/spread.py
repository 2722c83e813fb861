"""`SpreadEvaluator`: measures plans by workers, each with the networks at hand, as `LiveEvaluator` would here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from autosplit.core.measurement import Measurement, Workload
from autosplit.core.plan import Plan
from autosplit.core.space import PlanSpace
from autosplit.core.workers import Workers
from autosplit.evaluation.live import LiveEvaluator
from autosplit.models.head_costs import HeadCost
from autosplit.training.prepare import Networks

__all__ = ["SpreadEvaluator"]

_PIECES_EACH = 4  # for a worker, at least, so that none waits long for the last


class SpreadEvaluator:
    """Measures plans of one supernet; what is known without measuring is found here.

    Args:
        networks: Data, backbone and trained supernet.
        workers: Who measures.
    """

    def __init__(self, networks: Networks, workers: Workers) -> None:
        self._networks, self._workers = networks, workers
        self._here = LiveEvaluator(networks)

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        return self._here.space

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """See `LiveEvaluator.workloads`."""
        return self._here.workloads(plans)

    def head(self, place: str) -> HeadCost:
        """See `LiveEvaluator.head`."""
        return self._here.head(place)

    def measure(self, plans: Sequence[Plan]) -> Iterator[Measurement]:
        """Measure plans, in order; a few more are measured than were asked for, as workers go ahead."""
        for found in self._workers.map(_measured, self._networks, _pieces(plans, self._workers.number), _named):
            yield from found


def _pieces(plans: Sequence[Plan], workers: int) -> list[list[Plan]]:
    """Plans in groups that follow one another and have one head, whose features are computed once a group."""
    most = max(1, -(-len(plans) // (workers * _PIECES_EACH)))
    found = []
    for _, members in groupby(plans, key=lambda plan: (plan.place, plan.sparsity)):
        group = list(members)
        parts = -(-len(group) // most)
        size = -(-len(group) // parts)  # of about one size
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def _named(plans: Sequence[Plan]) -> str:
    more = f" or one of {len(plans) - 1} with that head" if len(plans) > 1 else ""
    return f"plan {plans[0].label!r}{more}"


@lru_cache(maxsize=2)
def _evaluator(networks: Networks) -> LiveEvaluator:
    """Of a worker, with its features from one piece to the next."""
    return LiveEvaluator(networks)


def _measured(networks: Networks, plans: Sequence[Plan]) -> list[Measurement]:
    return list(_evaluator(networks).measure(plans))
