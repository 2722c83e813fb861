"""The `Evaluator` protocol: a list of plans in, a list of measurements out.

Life cycle: built once per search; `workloads` is called freely (latency is known before accuracy),
`measure` only for plans the search decided to spend a measurement on. A batch call, so that one process,
a pool or a cluster can serve it without the search knowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Measurement, Workload
from autosplit.core.plan import Plan
from autosplit.core.space import PlanSpace

if TYPE_CHECKING:
    from autosplit.models.head_costs import HeadCost

__all__ = ["Evaluator", "LayerwiseEvaluator", "layerwise"]


class Evaluator(Protocol):
    """Measures plans of one backbone on one data set."""

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        ...

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Work and predicted payload of plans, without measuring them (fidelity F0, microseconds a plan)."""
        ...

    def measure(self, plans: Sequence[Plan]) -> Iterable[Measurement]:
        """Measure plans, in order. Deterministic: one plan gives one measurement, whenever it is asked for.

        An iterator gives each measurement as soon as it is taken, so that a killed search loses only the one in hand;
        nothing is measured before it is asked for the next.
        """
        ...


@runtime_checkable
class LayerwiseEvaluator(Evaluator, Protocol):
    """An evaluator that also measures plans with one sparsity a prunable group."""

    def head(self, split: str) -> HeadCost:
        """The head at a split point: its prunable groups, and the work of each of its pruned versions.

        Raises:
            PruningError: The work of its pruned versions cannot be predicted.
        """
        ...


def layerwise(evaluator: Evaluator) -> LayerwiseEvaluator:
    """An evaluator as one that measures plans pruned layer by layer.

    Raises:
        ConfigError: It does not.
    """
    if not isinstance(evaluator, LayerwiseEvaluator):
        raise ConfigError(f"{type(evaluator).__name__} measures no plans that are pruned layer by layer; "
                          "leave search.granularity at uniform")
    return evaluator
