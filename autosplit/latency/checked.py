"""A guard around a latency model: a wrong answer becomes one line that names the model and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.measurement import Workload
from autosplit.core.plugins import one_line
from autosplit.core.progress import Advance
from autosplit.latency.answers import Answers
from autosplit.latency.base import FIELDS, LatencyBreakdown, LatencyModel, coarse_of
from autosplit.latency.exits import mixed

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["CheckedLatencyModel", "is_slow", "reporting", "require_quick"]

_QUICK = {f"autosplit.latency.{name}" for name in ("analytic", "instructions", "profiled")}  # modules of our own models
_ROWS = "a row for each plan, a column for each of the conditions"
_SLACK = 1e-9  # relative rounding that is forgiven where two numbers of a plugin are compared


def is_slow(model: LatencyModel) -> bool:
    """Whether a model takes so long, as far as it was asked, that it should be asked about nothing that is not needed.

    A search then predicts for its own conditions only: no policy for others, no map, no other deadlines.
    """
    return isinstance(model, CheckedLatencyModel) and model.answers.slow


def require_quick(model: LatencyModel, what: str, workload: Workload, conditions: Conditions) -> None:
    """Refuse what asks a model about each plan under hundreds of conditions.

    Args:
        model: The model; it is asked one question if it never was.
        what: What asks, such as `the map`.
        workload: A question that it can answer.
        conditions: As before.

    Raises:
        ConfigError: The model is slow.
    """
    model.latency([workload], [conditions])
    if isinstance(model, CheckedLatencyModel) and model.answers.slow:
        raise ConfigError(f"{what} asks latency model {model.name!r} about each plan under hundreds of conditions, and "
                          f"it takes {1e3 * model.answers.seconds:.0f} ms for one; make it quicker")


@contextmanager
def reporting(model: LatencyModel, advance: Advance) -> Iterator[None]:
    """Report each answer of a model, as the number of plans that it is about."""
    if not isinstance(model, CheckedLatencyModel):
        yield
        return
    before, model.answers.advance = model.answers.advance, advance
    try:
        yield
    finally:
        model.answers.advance = before


class CheckedLatencyModel:
    """A latency model whose every answer is validated; it has the same one method.

    A search trusts its latency model blindly: one NaN would win or poison every comparison. So nothing leaves here
    unchecked, and whoever wrote the model reads which plan went wrong instead of a traceback of the search. Numbers may
    come as lists or tensors, and as milliseconds alone instead of a breakdown.

    Args:
        model: The model to guard.
        name: What the user called it, for messages.

    Attributes:
        answers: Whether the model is slow, and what it said if it is.
    """

    def __init__(self, model: LatencyModel, name: str) -> None:
        self.model = model
        self.name = name
        self.answers = Answers(self._asked, self._error, name, known_quick=type(model).__module__ in _QUICK)

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
        found = self.answers.latency(workloads, conditions)
        # a model that knows nothing of exits gives the latency of what is sent
        return found if getattr(self.model, "knows_exits", False) else mixed(found, workloads, conditions)

    def _asked(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """What the model answers, validated."""
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
        return self._validated(answer, workloads, conditions)

    def _validated(self, answer: Any, workloads: Sequence[Workload], conditions: Sequence[Conditions]
                   ) -> LatencyBreakdown:
        if not isinstance(answer, LatencyBreakdown):
            total = self._array(answer, "milliseconds", workloads, conditions)
            if total is None:
                raise self._error(workloads[0] if workloads else None, (
                    f"returned a {type(answer).__name__}; return a LatencyBreakdown, or milliseconds as an array with "
                    f"{_ROWS}"))
            none = np.zeros(total.shape)
            answer = LatencyBreakdown.deterministic(conditions, device_ms=total, encode_ms=none, uplink_ms=none,
                                                    edge_ms=none, downlink_ms=none)
        arrays: dict[str, Array] = {}
        for name in FIELDS:
            value = getattr(answer, name)
            numbers = self._array(value, name, workloads, conditions)
            if numbers is None:
                raise self._error(workloads[0] if workloads else None,
                                  f"returned {name} as {type(value).__name__}; return an array of numbers")
            arrays[name] = numbers
        for name, values in arrays.items():
            self._refuse(~np.isfinite(values), name, values, "every value must be finite", workloads)
            self._refuse(values < 0, name, values, "no value may be negative", workloads)
        p50, p95, p99 = arrays["p50_ms"], arrays["p95_ms"], arrays["p99_ms"]
        self._refuse(p50 > p95 * (1 + _SLACK), "p50_ms", p50, "the median may not exceed p95_ms", workloads)
        self._refuse(p95 > p99 * (1 + _SLACK), "p95_ms", p95, "it may not exceed p99_ms", workloads)
        in_time = arrays["in_time"]
        self._refuse(in_time > 1, "in_time", in_time, "a probability lies in [0, 1]", workloads)
        return LatencyBreakdown(**arrays)

    def _array(
        self, value: Any, name: str, workloads: Sequence[Workload], conditions: Sequence[Conditions]
    ) -> Array | None:
        """Numbers of the right shape; `None` where they are none."""
        found, shape = _numbers(value), (len(workloads), len(conditions))
        if found is not None and found.shape != shape:
            raise self._error(workloads[0] if workloads else None,
                              f"returned {name} of shape {found.shape}; return shape {shape}: {_ROWS}")
        return found

    def _refuse(self, bad: np.ndarray[Any, np.dtype[np.bool_]], name: str, values: Array, rule: str,
                workloads: Sequence[Workload]) -> None:
        if bad.any():
            plan, condition = (int(i) for i in np.argwhere(bad)[0])
            raise self._error(workloads[plan], f"returned {name} = {values[plan, condition]:g} under conditions "
                                               f"number {condition}; {rule}")

    def _error(self, workload: Workload | None, what: str) -> PluginError:
        plan = f"on plan {workload.plan.label!r} " if workload is not None else ""
        return PluginError(f"latency model {self.name!r} {plan}{what} (correct the model, or choose another one)")


def _numbers(value: Any) -> Array | None:
    """An array, a nested list or a tensor of numbers as float64; `None` for anything else."""
    try:
        found = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return found.astype(np.float64, copy=False) if found.dtype.kind in "fiub" else None
    except (TypeError, ValueError, RuntimeError):
        return None
