"""Latency models: milliseconds and energy of plans under conditions; built-in, installed, or the user's own file.

Imports `core` and `models` (the latter to profile a machine). Begin with `base`, the protocol, then `analytic`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from autosplit.core.errors import PluginError
from autosplit.core.held import hold, is_held, look_up, object_hash
from autosplit.core.plugins import Registry, one_line
from autosplit.latency.base import LatencyBreakdown, LatencyModel
from autosplit.latency.checked import CheckedLatencyModel
from autosplit.latency.function import FunctionLatency

__all__ = ["CheckedLatencyModel", "FunctionLatency", "LatencyBreakdown", "LatencyModel", "list_latency_models",
           "load_latency_model"]

_MODELS = Registry(
    kind="latency model",
    group="autosplit.latency_models",
    builtin={"analytic": "autosplit.latency.analytic:AnalyticLatencyModel",
             "instructions": "autosplit.latency.instructions:InstructionsLatencyModel",
             "profiled": "autosplit.latency.profiled:ProfiledLatencyModel"},
)


def list_latency_models() -> list[str]:
    """Names of the built-in latency models and of those that installed packages register, sorted."""
    return _MODELS.names()


def load_latency_model(name: str | LatencyModel | Callable[..., Any]) -> CheckedLatencyModel:
    """Load a latency model and wrap it so that every answer is checked.

    Args:
        name: A name of `list_latency_models()`, `package.module:Name`, or `path/to/file.py:Name`; or the object itself,
            which is a class or a factory that takes no argument, a ready instance, or a plain function `(workload,
            conditions) -> milliseconds` (`FunctionLatency`).

    Raises:
        UnknownNameError: Nothing has this name.
        ConfigError: The file does not exist.
        PluginError: Import or construction raised, or the object is no latency model.
    """
    if not isinstance(name, str):
        name = hold("latency model", name, object_hash(name), getattr(name, "__name__", type(name).__name__))
    model: Any = look_up("latency model", name, "latency") if is_held(name) else _MODELS.load(name)
    if inspect.isfunction(model) and _takes_workloads(model):
        model = FunctionLatency(model)
    if isinstance(model, type) or not hasattr(model, "latency"):
        if not callable(model):
            raise PluginError(f"latency model {name!r} is a {type(model).__name__}; it must be a class, a factory "
                              "without arguments, or an object with a method latency(workloads, conditions)")
        try:
            model = model()
        except Exception as e:
            raise PluginError(f"latency model {name!r}: building it without arguments raised {one_line(e)}") from e
    if not isinstance(model, LatencyModel):
        raise PluginError(f"latency model {name!r} gave a {type(model).__name__} without a method "
                          "latency(workloads, conditions)")
    return CheckedLatencyModel(model, name)


def _takes_workloads(function: Any) -> bool:
    """Whether a function is the model itself and not a factory of one: it has a parameter without a default."""
    return any(p.default is p.empty and p.kind not in {p.VAR_KEYWORD, p.KEYWORD_ONLY}
               for p in inspect.signature(function).parameters.values())
