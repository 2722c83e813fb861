"""Watching a network run, operator by operator, however its code is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autosplit.models.inference import device_of, evaluation_mode

__all__ = ["Watch", "name_of", "watched"]

# of what torch runs through references in Python on `meta`, the most frequent: in a DenseNet-121 their batch norms took
# six times as long there as its convolutions
_LIKE_INPUT = {"relu", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "leaky_relu", "elu",
               "mish"}
_BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training"}


class Watch(TorchDispatchMode, ABC):  # type: ignore[no-untyped-call] # (of torch)
    """Sees every operator that torch dispatches while it is entered; those made of others as the others.

    What is known of a tensor is kept as an attribute of it, which lives as long as it does.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)  # type: ignore[no-untyped-call]

    @abstractmethod
    def see(self, func: Any, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]) -> None:
        """Called after each operator.

        Args:
            func: The operator.
            args: Its positional arguments.
            given: The tensors among all of its arguments.
            results: The tensors that it gave, at least one; those that it changed, and what they are views of, last.
        """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and look at it."""
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry and func.has_kernel_for_dispatch_key(
                torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return func.decompose(*args, **kwargs)
        out = _on_meta(func, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if results:
            if func._schema.is_mutable and isinstance(args[0], Tensor):
                results += [t for t in (args[0], args[0]._base) if t is not None]
            self.see(func, args, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)], results)
        return out


def _on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What activations and batch norms give on `meta`, where only shapes matter; `None` for all else."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not x.is_meta or not x.is_floating_point() or "out" in kwargs:
        return None
    name = name_of(func)
    if name in _LIKE_INPUT:
        return x if func._schema.is_mutable else torch.empty_like(x)
    if name in _BATCH_NORMS and (name.endswith("no_training") or not args[5]):
        return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    return None


def name_of(func: Any) -> str:
    """An operator's name, the same whether it works in place or not."""
    name: str = func.overloadpacket.__name__
    return name if name.endswith("__") else name.removesuffix("_")


@contextmanager
def watched(module: nn.Module, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """A state in which a network can be watched, and one black image for it; the network is left as it was.

    Args:
        module: To be run within, in evaluation mode.
        shape: Shape of one input without the batch dimension.
    """
    # in inference mode torch would not take operators apart, nor in its fast path for attention
    fast = torch.backends.mha.get_fastpath_enabled()
    with evaluation_mode(module), torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield torch.zeros(1, *shape, device=device_of(module))
