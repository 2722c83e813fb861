"""A plain function as a latency model: asked about one plan under one set of conditions at a time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import PluginError
from autosplit.core.measurement import Workload
from autosplit.core.plugins import one_line
from autosplit.latency.base import LatencyBreakdown

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["FunctionLatency"]

_STAGES = ("device_ms", "encode_ms", "uplink_ms", "edge_ms", "downlink_ms", "energy_mj")


class FunctionLatency:
    """A latency model of a function `(workload, conditions) -> milliseconds`.

    Instead of a number the function may give a mapping with some of `device_ms`, `encode_ms`, `uplink_ms`, `edge_ms`,
    `downlink_ms` and `energy_mj`; a number counts as `device_ms`. Answers are remembered, so that a function which
    takes long is asked once about each plan; one that answers the same question differently is refused. The deadline is
    no part of the question: milliseconds do not depend on when they are wanted.

    Args:
        function: The function; the second parameter may be left out.

    Attributes:
        on_answer: Called after each answer of the function; for progress.
        answer_s: Seconds of its quickest answer; 0 before the first.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        takes = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL}]
        self._alone = len(takes) == 1 and takes[0].kind is not takes[0].VAR_POSITIONAL
        self._known: dict[tuple[str, str], tuple[float, ...]] = {}
        self._asked_twice = False
        self.on_answer: Callable[[], None] = lambda: None
        self.answer_s = 0.0

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            PluginError: The function answers the same question differently.
        """
        under = ["" if self._alone else c.model_dump_json(exclude={"budget_ms"}) for c in conditions]
        cells = np.array([[self._cell(w, w.model_dump_json(), c, key) for c, key in zip(conditions, under, strict=True)]
                          for w in workloads], dtype=np.float64).reshape(len(workloads), len(conditions), len(_STAGES))
        stages: dict[str, Array] = {name: cells[:, :, i] for i, name in enumerate(_STAGES)}
        return LatencyBreakdown.deterministic(conditions, **stages)

    def _cell(self, workload: Workload, key: str, conditions: Conditions, under: str) -> tuple[float, ...]:
        if (found := self._known.get((key, under))) is None:
            found = self._known[key, under] = self._ask(workload, conditions)
            self.on_answer()
            if not self._asked_twice:
                self._asked_twice = True
                if repr(again := self._ask(workload, conditions)) != repr(found):  # NaN is refused elsewhere
                    raise PluginError(f"it answers the same question differently, {sum(found[:5]):g} and "
                                      f"{sum(again[:5]):g} ms; give the mean or a percentile, which do not vary")
        return found

    def _ask(self, workload: Workload, conditions: Conditions) -> tuple[float, ...]:
        began = time.perf_counter()
        answer = self.function(workload) if self._alone else self.function(workload, conditions)
        took = time.perf_counter() - began
        self.answer_s = min(self.answer_s or took, took)
        given = answer if isinstance(answer, Mapping) else {"device_ms": answer}
        if unknown := set(given) - set(_STAGES):
            raise PluginError(f"it gives {sorted(unknown)[0]!r}; known are {', '.join(_STAGES)}")
        try:
            return tuple(float(given.get(name, 0.0)) for name in _STAGES)
        except (TypeError, ValueError, RuntimeError) as e:
            raise PluginError(f"it gives {type(answer).__name__} ({one_line(e)[:80]}); give one number of milliseconds "
                              "or a mapping of stages to numbers") from e
