"""An accelerator that is not there: tensors say that they are on it, and are computed with on the processor.

A graphics card is absent on most machines that run these tests. Under `simulated()` torch's device `lazy` plays one: as
on a card, an operator takes tensors that are all there (or of no dimension), a generator of random numbers has to be
there too, and numpy gets nothing that was not brought back. Unlike torch's fake tensors these have values, so that
whole searches can run, and be compared with the processor's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autosplit.core.accelerator import Accelerator

__all__ = ["ELSEWHERE", "AroundKernels", "Moved", "simulated"]

ELSEWHERE = Accelerator("lazy")  # torch computes gradients for this kind in the caller's thread, where the mode is
HERE = torch.device("cpu")
ATEN = torch.ops.aten
# between devices by nature; indices of the processor are moved by torch itself
ACROSS = {ATEN.copy_.default, ATEN._to_copy.default, ATEN.index.Tensor, ATEN.index_put_.default,
          ATEN.index_put.default}


class Moved(torch.Tensor):
    """A tensor that says it is elsewhere."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        found = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device("lazy", 0))
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self):
        return f"Moved({self.held})"


class AroundKernels(TorchDispatchMode):
    """Leaves oneDNN out of the gradients that `autosplit.training.precision.AroundKernels` keeps from it.

    That one rewrites what is called on the processor alone; this one sees the operators of both, forward and back.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch.backends.mkldnn.flags(enabled=False) if _is_written_beyond(func, args) else nullcontext():
            return func(*args, **(kwargs or {}))


def _is_written_beyond(func, args):
    if func is not ATEN.convolution_backward.default:
        return False
    weight, stride = args[2], args[4]
    return all(size == 1 for size in weight.shape[2:]) and any(step > 1 for step in stride)


class Simulation(TorchDispatchMode):
    """Sees what is made elsewhere, or taken there, out of tensors of the processor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    moved = [leaf for leaf in leaves if isinstance(leaf, Moved)]
    if moved and func not in ACROSS and wanted is None:
        stayed = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Moved)]
        if any(tensor.dim() for tensor in stayed):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found lazy:0 and cpu")
    there = bool(moved) if wanted is None else wanted.type == ELSEWHERE.kind
    if there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: expected a 'lazy' device type for the generator, but found 'cpu'")
    args, kwargs = tree_map(_held, (args, kwargs))
    out = func(*args, **kwargs)
    known = {id(tensor.held): tensor for tensor in moved}

    def back(result):
        if not isinstance(result, torch.Tensor):
            return result
        if there:
            return known[id(result)] if id(result) in known else Moved(result)
        return result.clone() if id(result) in known else result

    return tree_map(back, out)


def _held(value):
    if isinstance(value, torch.device):
        return HERE
    return value.held if isinstance(value, Moved) else value


@contextmanager
def simulated() -> Iterator[Accelerator]:
    """`find_accelerator` gives one that is not there, within this block."""
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a card
    # in inference mode, views of such tensors cannot be made
    without = {"new": lambda mode=True: torch.no_grad() if mode else nullcontext()}
    try:
        with ExitStack() as stack:
            for module in ("training.prepare", "pipeline.search"):
                stack.enter_context(mock.patch(f"autosplit.{module}.find_accelerator", return_value=ELSEWHERE))
            stack.enter_context(mock.patch("torch.inference_mode", **without))
            stack.enter_context(Simulation())
            yield ELSEWHERE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapping)
