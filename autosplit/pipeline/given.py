"""What is handed over in Python: objects become names in a scenario, and arguments its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autosplit.core.errors import ConfigError
from autosplit.core.held import hold, object_hash
from autosplit.core.scenario import Scenario
from autosplit.core.trust import trust_typed
from autosplit.models.identity import hold_network

__all__ = ["name_given", "scenario_given"]

_KEYS = {"weights": "weights", "image_size": "image_size", "codecs": "codecs", "device": "conditions.device",
         "edge": "conditions.edge", "channel": "conditions.channel", "budget_ms": "conditions.budget_ms",
         "agent": "search.agent", "granularity": "search.granularity", "policy": "search.policy",
         "evaluations": "search.evaluations", "finalists": "search.finalists", "seed": "search.seed"}


def name_given(
    *, model: Any = None, data: Any = None, latency: Any = None, objective: Any = None, image_size: int | None = None
) -> dict[str, str]:
    """The names of objects that are handed over, by key of a scenario; names stay what they are.

    Args:
        model: A network, a function or class that builds one, or a name.
        data: Whatever `autosplit.data.in_memory.read_data` takes, or a name.
        latency: A latency model or a function `(workload, conditions) -> milliseconds`, or a name.
        objective: An objective or a function `(accuracy, latency, budget_ms) -> reward`, or a name.
        image_size: Side that images are brought to.

    Raises:
        AutosplitError: An object is of no kind that can be used.
    """
    from autosplit.data.in_memory import read_data

    found: dict[str, str] = {}
    if isinstance(model, (str, Path)):
        found["backbone"] = str(model)
    elif callable(model):  # an nn.Module is
        found["backbone"] = hold_network(model)
    elif model is not None:
        raise ConfigError(f"model is a {type(model).__name__}; give an nn.Module, a function that builds one, or a "
                          "name")
    if isinstance(data, (str, Path)):
        found["dataset"] = f"image-folder:{data}" if isinstance(data, Path) else data
    elif data is not None:
        raw = read_data(data, image_size)
        found["dataset"] = hold("data set", raw, raw.digest, type(data).__name__)
    for key, kind, thing in (("latency_model", "latency model", latency), ("objective", "objective", objective)):
        if isinstance(thing, str):
            found[key] = thing
        elif thing is not None:
            label = getattr(thing, "__name__", type(thing).__name__)
            found[key] = hold(kind, thing, object_hash(thing), label)
    return found


def scenario_given(
    scenario: Scenario, *, train: bool | None, settings: Mapping[str, Any], objects: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Scenario:
    """A scenario with what was handed over in Python.

    Args:
        scenario: What is changed.
        train: Whether the network is trained first; `None` = unless it is an `nn.Module`, which is taken as it is.
        settings: Further keys, dotted.
        objects: Arguments of `name_given`.
        arguments: Others, by their names in `autosplit.search`.

    Raises:
        AutosplitError: Something in them is wrong.
    """
    names = name_given(**objects, image_size=arguments.get("image_size"))
    for name in names.values():
        trust_typed([name])
    changes: dict[str, Any] = {_KEYS[name]: str(value) if isinstance(value, Path) else value
                               for name, value in arguments.items() if value is not None}
    if train is None and isinstance(objects.get("model"), nn.Module) and "training.backbone_epochs" not in settings:
        train = False
    if train is False:
        changes["training.backbone_epochs"] = 0
    elif train and scenario.training.backbone_epochs == 0:
        changes["training.backbone_epochs"] = type(scenario.training)().backbone_epochs
    if {"backbone", "dataset"} & names.keys():
        parts = [names[k].split(":", 1)[-1] for k in ("dataset", "backbone") if k in names]
        plain = ("".join(c if c.isalnum() or c in "._-" else "-" for c in Path(part).name) for part in parts)
        changes["name"] = "-".join(p.strip("-.") or "custom" for p in plain)
    changes |= {**names, **settings}
    return scenario.replace(**changes) if changes else scenario
