"""A plain function as a latency model: asked about one plan under one set of conditions at a time."""

from __future__ import annotations

import inspect
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
    `downlink_ms` and `energy_mj`; a number counts as `device_ms`.

    Args:
        function: The function; the second parameter may be left out.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        takes = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL}]
        self._alone = len(takes) == 1 and takes[0].kind is not takes[0].VAR_POSITIONAL

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            PluginError: The function gives neither a number nor a mapping of stages to numbers.
        """
        cells = np.array([[self._ask(w, c) for c in conditions] for w in workloads], dtype=np.float64)
        cells = cells.reshape(len(workloads), len(conditions), len(_STAGES))
        stages: dict[str, Array] = {name: cells[:, :, i] for i, name in enumerate(_STAGES)}
        return LatencyBreakdown.deterministic(conditions, **stages)

    def _ask(self, workload: Workload, conditions: Conditions) -> tuple[float, ...]:
        answer = self.function(workload) if self._alone else self.function(workload, conditions)
        given = answer if isinstance(answer, Mapping) else {"device_ms": answer}
        if unknown := set(given) - set(_STAGES):
            raise PluginError(f"it gives {sorted(unknown)[0]!r}; known are {', '.join(_STAGES)}")
        try:
            return tuple(_number(given.get(name, 0.0)) for name in _STAGES)
        except (TypeError, ValueError, RuntimeError) as e:
            raise PluginError(f"it gives {type(answer).__name__} ({one_line(e)[:80]}); give one number of milliseconds "
                              "or a mapping of stages to numbers") from e


def _number(value: Any) -> float:
    """A number as it came, or in an array or a tensor."""
    if isinstance(value, (str, bytes, bool)):  # which Python would make a number of
        raise TypeError(f"{value!r} is no number")
    return float(value)
