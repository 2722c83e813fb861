"""An evaluator that never measures a plan twice and reports each new measurement as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from autosplit.core.plan import Measurement, Plan, Workload
from autosplit.core.space import PlanSpace
from autosplit.evaluation.base import Evaluator, layerwise

if TYPE_CHECKING:
    from autosplit.models.head_costs import HeadCost

__all__ = ["MemoEvaluator"]


class MemoEvaluator:
    """Wraps an evaluator with a memory.

    A resumed search is the same search over a `MemoEvaluator` that knows the recorded measurements: the agent runs
    through the same proposals and is answered from memory until it comes to a plan that nobody measured.

    New plans go to the inner evaluator `chunk` at a time, so that `on_measured` (the ledger) has each chunk before the
    next begins and a killed process loses at most the one in hand.

    Args:
        inner: Who measures what is not known yet.
        known: Measurements of an earlier run. Nothing is reported for them.
        on_measured: Called with each new measurement as soon as it is there. What it raises ends the batch; the
            measurement stays remembered.
        chunk: Plans in one call of the inner evaluator: 1 for a single process, the number of workers for a pool.

    Attributes:
        new_measurements: How many plans the inner evaluator has measured.
    """

    def __init__(
        self,
        inner: Evaluator,
        known: Iterable[Measurement] = (),
        on_measured: Callable[[Measurement], None] | None = None,
        *,
        chunk: int = 1,
    ) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self._inner = inner
        self._known = {m.plan: m for m in known}
        self._on_measured = on_measured
        self._chunk = chunk
        self.new_measurements = 0

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        return self._inner.space

    @property
    def measurements(self) -> list[Measurement]:
        """Everything known, the given ones first, then in the order of measuring."""
        return list(self._known.values())

    def head(self, split: str) -> HeadCost:
        """The head at a split point, as the inner evaluator has it.

        Raises:
            ConfigError: The inner evaluator measures no plans that are pruned layer by layer.
        """
        return layerwise(self._inner).head(split)

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Predicted work and payload, as the inner evaluator has them; what was measured does not change them."""
        return self._inner.workloads(plans)

    def unmeasured(self, plans: Sequence[Plan]) -> list[Plan]:
        """Those of the plans that `measure` would have to measure."""
        return [plan for plan in plans if plan not in self._known]

    def measure(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Measure plans, in order, each at most once in the life of this object.

        New plans with one head are measured one after the other, since evaluators keep a head's features at hand.
        """
        new = list(dict.fromkeys(p for p in plans if p not in self._known))
        new.sort(key=lambda p: (p.split, str(p.sparsity)))
        for start in range(0, len(new), self._chunk):
            for measurement in self._inner.measure(new[start:start + self._chunk]):
                self._remember(measurement)
        return [self._known[plan] for plan in plans]

    def _remember(self, measurement: Measurement) -> None:
        self._known[measurement.plan] = measurement
        self.new_measurements += 1
        if self._on_measured is not None:
            self._on_measured(measurement)
