"""The `Evaluator` protocol: a list of plans in, a list of measurements out.

Life cycle: built once per search; `workloads` is called freely (latency is known before accuracy),
`measure` only for plans the search decided to spend a measurement on. A batch call, so that one process,
a pool or a cluster can serve it without the search knowing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autosplit.errors import ConfigError
from autosplit.plan import CodecSetting, Measurement, Plan, Workload

if TYPE_CHECKING:
    from autosplit.evaluation.head_cost import HeadCost

__all__ = ["Evaluator", "LayerwiseEvaluator", "PlanSpace", "layerwise"]


@dataclass(frozen=True)
class PlanSpace:
    """The plans of a search space, resolved for one backbone: a choice of split, then sparsity, then codec.

    Attributes:
        splits: Split points, from `input` over the backbone's own to `output`, in the order of execution.
        sparsities: For each split point the sparsity levels it allows, ascending.
        codecs: For each split point the codec settings it allows.
    """

    splits: tuple[str, ...]
    sparsities: dict[str, tuple[float, ...]]
    codecs: dict[str, tuple[CodecSetting, ...]]

    def plans(self) -> list[Plan]:
        """Every plan, ordered by split, sparsity, codec."""
        return [Plan(split=s, sparsity=p, codec=c)
                for s in self.splits for p in self.sparsities[s] for c in self.codecs[s]]

    def __len__(self) -> int:
        return sum(len(self.sparsities[s]) * len(self.codecs[s]) for s in self.splits)


class Evaluator(Protocol):
    """Measures plans of one backbone on one data set."""

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        ...

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Work and predicted payload of plans, without measuring them (fidelity F0, microseconds a plan)."""
        ...

    def measure(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Measure plans, in order. Deterministic: one plan gives one measurement, whenever it is asked for."""
        ...


@runtime_checkable
class LayerwiseEvaluator(Evaluator, Protocol):
    """An evaluator that also measures plans with one sparsity a prunable group."""

    def head(self, split: str) -> HeadCost:
        """The head at a split point: its prunable groups, and the work of each of its pruned versions.

        Raises:
            PruningError: The work of its pruned versions cannot be foretold.
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
