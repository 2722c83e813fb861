"""What a network is, for caches: its graph, and those of its weights that were not drawn when it was built."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from autosplit.core.errors import ConfigError
from autosplit.core.hashing import content_hash
from autosplit.core.held import hold, object_hash
from autosplit.models.calls import Apply

__all__ = ["graph_hash", "hold_network", "module_hash", "settled_tensors", "tensors_hash"]


def graph_hash(graph: fx.GraphModule) -> str:
    """Hash of what a traced network computes, whatever its weights are: first 16 hex digits of a SHA-256.

    Operations with their arguments, layers with their settings, the source of modules that are kept whole, constants
    and the shapes of parameters. Two files that build the same network have the same hash; a factory that builds
    another one from a changed settings file has another.

    Args:
        graph: As `trace` gives it.
    """
    modules = dict(graph.named_modules(remove_duplicate=False))
    nodes = []
    for node in graph.graph.nodes:
        target: Any = node.target
        if node.op == "call_module":
            layer = modules[str(target)]
            target = [str(target), *_identity(layer)]
        elif not isinstance(target, str):
            target = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
        nodes.append([node.op, node.name, target, repr(node.args), repr(node.kwargs)])
    shapes = [(name, list(t.shape), str(t.dtype)) for name, t in _tensors(graph).items()]
    constants = {name: t for name, t in graph.named_buffers() if name.startswith("_constant_")}
    return content_hash([nodes, shapes, tensors_hash(constants)])


def module_hash(module: nn.Module) -> str:
    """Hash of a network as it is, before it is traced: its layers, the source of its classes, and all its weights."""
    return content_hash([_identity(module), tensors_hash(_tensors(module))])


def hold_network(model: nn.Module | Callable[..., nn.Module]) -> str:
    """Keep a network, or what builds one, for this process; gives the name that it has in scenarios.

    Args:
        model: The network itself is kept, not a copy.

    Raises:
        ConfigError: It has lazy layers that never ran.
    """
    if isinstance(model, nn.Module):
        if lazy := [path for path, p in model.named_parameters() if is_lazy(p)]:
            raise ConfigError(f"model: {type(model).__name__} has no values yet in {lazy[0]!r}, a lazy layer's; run it "
                              "once on a batch of images before you hand it over")
        return hold("backbone", model, module_hash(model), type(model).__name__)
    return hold("backbone", model, object_hash(model), getattr(model, "__name__", "network"))


def _identity(module: nn.Module) -> list[str]:
    """Types and settings of a layer and of what it holds; of types that are not torch's the source too."""
    kinds: set[type] = {type(m) for m in module.modules() if not type(m).__module__.startswith("torch.")}
    kinds |= {m.function for m in module.modules() if isinstance(m, Apply)}
    return [repr(module), *sorted(map(_source, kinds))]


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a prompt
        return f"{kind.__module__}.{kind.__qualname__}"


def settled_tensors(one: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that are equal in two networks of one factory, built from different seeds.

    What differs was drawn when the network was built, and follows from the seed. What is equal is part of what the
    factory says: pretrained weights, or constants.

    Args:
        one: Built from one seed.
        other: Built from another; may be the same object.
    """
    others = _tensors(other)
    return {name: t for name, t in _tensors(one).items()
            if name in others and t.shape == others[name].shape and torch.equal(t, others[name])}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values: first 16 hex digits of a SHA-256."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
