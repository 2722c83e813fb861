"""A guard around a latency model: a wrong answer becomes one line that names the model and the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.measurement import Workload
from autosplit.core.plugins import one_line
from autosplit.latency.base import LatencyBreakdown, LatencyModel, coarse_of
from autosplit.latency.exits import mixed
from autosplit.latency.function import FunctionLatency

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["CheckedLatencyModel", "is_slow", "reporting", "require_quick"]

_FIELDS = tuple(f.name for f in fields(LatencyBreakdown))
_SLOW_S = 0.005  # for one plan under one set of conditions
_SLACK = 1e-9  # relative rounding that is forgiven where two numbers of a plugin are compared


def is_slow(model: LatencyModel) -> bool:
    """Whether a function as a model takes so long that it should be asked about nothing that is not needed.

    A search then predicts for its own conditions only: no policy for others, no map, no other deadlines.
    """
    return _answer_s(model) > _SLOW_S


def _answer_s(model: LatencyModel) -> float:
    """Seconds of a function's quickest answer; 0 for other models, and before it was asked."""
    inner = getattr(model, "model", None)
    return inner.answer_s if isinstance(inner, FunctionLatency) else 0.0


def require_quick(model: LatencyModel, what: str) -> None:
    """Refuse what asks a model about each plan under hundreds of conditions.

    Raises:
        ConfigError: The model is slow.
    """
    if is_slow(model):
        raise ConfigError(f"{what} asks latency model {getattr(model, 'name', '')!r} about each plan under hundreds of "
                          f"conditions, and it takes {1e3 * _answer_s(model):.0f} ms for one; make it quicker")


@contextmanager
def reporting(model: LatencyModel, on_answer: Callable[[], None]) -> Iterator[None]:
    """Call something after each answer of a model that is asked about one plan at a time."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, FunctionLatency):
        yield
        return
    before, inner.on_answer = inner.on_answer, on_answer
    try:
        yield
    finally:
        inner.on_answer = before


class CheckedLatencyModel:
    """A latency model whose every answer is validated; it has the same one method.

    A search trusts its latency model blindly: one NaN would win or poison every comparison. So nothing leaves here
    unchecked, and whoever wrote the model reads which plan went wrong instead of a traceback of the search.

    Args:
        model: The model to guard.
        name: What the user called it, for messages.
    """

    def __init__(self, model: LatencyModel, name: str) -> None:
        self.model = model
        self.name = name

    @property
    def coarse(self) -> LatencyModel:
        """The model's own quicker variant, as `coarse_of` gives it; checked like the model itself."""
        quick = coarse_of(self.model)
        return self if quick is self.model else CheckedLatencyModel(quick, self.name)

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            PluginError: The model raised, or its answer is of another type or shape, not finite, negative, has
                percentiles out of order, or a probability outside [0, 1].
        """
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below, in one line and not as a warning too
                answer = self.model.latency(workloads, conditions)
        except Exception as e:
            # the first plan that fails on its own is named; else the first of the call
            for workload in workloads if len(workloads) > 1 else ():
                try:
                    self.model.latency([workload], conditions)
                except Exception as alone:
                    raise self._error(workload, f"raised {one_line(alone)}") from alone
            raise self._error(workloads[0] if workloads else None, f"raised {one_line(e)}") from e
        found = self._validated(answer, workloads, (len(workloads), len(conditions)))
        # a model that knows nothing of exits gives the latency of what is sent
        return found if getattr(self.model, "knows_exits", False) else mixed(found, workloads, conditions)

    def _validated(self, answer: Any, workloads: Sequence[Workload], shape: tuple[int, int]) -> LatencyBreakdown:
        first = workloads[0] if workloads else None
        if not isinstance(answer, LatencyBreakdown):
            raise self._error(first, f"returned a {type(answer).__name__}; return a LatencyBreakdown")
        arrays: dict[str, Array] = {}
        for name in _FIELDS:
            value: Any = getattr(answer, name)
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
                raise self._error(first, f"returned {name} as {type(value).__name__}; return a numpy array of numbers")
            if value.shape != shape:
                raise self._error(first, f"returned {name} of shape {value.shape}; return shape {shape}: "
                                         "a row for each plan, a column for each of the conditions")
            arrays[name] = value.astype(np.float64, copy=False)
        for name, values in arrays.items():
            self._refuse(~np.isfinite(values), name, values, "every value must be finite", workloads)
            self._refuse(values < 0, name, values, "no value may be negative", workloads)
        p50, p95, p99 = arrays["p50_ms"], arrays["p95_ms"], arrays["p99_ms"]
        self._refuse(p50 > p95 * (1 + _SLACK), "p50_ms", p50, "the median may not exceed p95_ms", workloads)
        self._refuse(p95 > p99 * (1 + _SLACK), "p95_ms", p95, "it may not exceed p99_ms", workloads)
        in_time = arrays["in_time"]
        self._refuse(in_time > 1, "in_time", in_time, "a probability lies in [0, 1]", workloads)
        return LatencyBreakdown(**arrays)

    def _refuse(self, bad: np.ndarray[Any, np.dtype[np.bool_]], name: str, values: Array, rule: str,
                workloads: Sequence[Workload]) -> None:
        if bad.any():
            plan, condition = (int(i) for i in np.argwhere(bad)[0])
            raise self._error(workloads[plan], f"returned {name} = {values[plan, condition]:g} under conditions "
                                               f"number {condition}; {rule}")

    def _error(self, workload: Workload | None, what: str) -> PluginError:
        plan = f"on plan {workload.plan.label!r} " if workload is not None else ""
        return PluginError(f"latency model {self.name!r} {plan}{what} (correct the model, or choose another one)")
