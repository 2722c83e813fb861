"""Mixed precision: training computes in 16 bits where the hardware is quicker in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autosplit.core.accelerator import CPU, Accelerator

__all__ = ["AroundKernels", "autocast", "gradient_scaler"]

_NARROW = 16
_SMALL_KERNEL = 3
_WRONG_WIDTHS, _WRONG_CHANNELS = 4, 64  # widths that this divides; channels with some room
_NO_PADDING = (0, (0, 0), "valid")


@contextlib.contextmanager
def autocast(accelerator: Accelerator = CPU) -> Iterator[None]:
    """16 bits for training where the accelerator computes in them, which halves the time; else float32.

    For training only: what is measured is computed in float32 on every machine.
    """
    kind, half = accelerator.kind, accelerator.half
    mixed = contextlib.nullcontext() if half is None else torch.autocast(kind, dtype=half)
    with mixed, AroundKernels() if kind == "cpu" else contextlib.nullcontext():
        yield


def gradient_scaler(accelerator: Accelerator) -> torch.amp.GradScaler:
    """Keeps small gradients from vanishing in float16; passes them through in every other type."""
    kind = accelerator.kind
    return torch.amp.GradScaler(kind, enabled=accelerator.half is torch.float16)


class AroundKernels(TorchFunctionMode):
    """Keeps out of kernels of oneDNN that fail (seen in torch 2.14 and 2.15).

    - The weight gradient of a strided 1x1 convolution of fewer than 16 input channels is written beyond its memory when
      the batch does not divide by the threads, in bfloat16 with AVX-512 and in float32 with AVX2; so the pixels that
      such a convolution does not read are left out before it instead of in it.
    - In bfloat16 with AMX a convolution of one, two or three dimensions whose kernel's width is a multiple of 4 gives
      *wrong values* for 4 to 24 input channels (relative errors above 1), and so does the gradient of the transposed
      one, which is that convolution; so these are computed in float32.
    - In bfloat16 the gradients of depthwise convolutions with a stride or a 5x5 kernel take up to seven times as long
      as in float32; so these are, too.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and len(args) > 1:
            if func is torch.conv2d and len(args) >= 5:  # as nn.Conv2d calls it
                x, weight, bias, stride, padding, *rest = args
                narrow = weight.shape[2:] == (1, 1) and weight.shape[1] < _NARROW
                if narrow and padding in _NO_PADDING and isinstance(stride, tuple) and stride != (1, 1):
                    args = (x[:, :, :: stride[0], :: stride[1]], weight, bias, (1, 1), padding, *rest)
            if torch.is_autocast_enabled("cpu") and (_is_wrong(args[1]) or _is_slow(func, args, kwargs)):
                with torch.autocast("cpu", enabled=False):
                    return func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)
        return func(*args, **kwargs)


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d,
                 torch.conv_transpose3d)


def _is_wrong(weight: Tensor) -> bool:
    """Whether the convolution with such a weight, or the gradient of the transposed one, may be wrong in bfloat16."""
    return weight.shape[-1] % _WRONG_WIDTHS == 0 and weight.shape[1] < _WRONG_CHANNELS


def _is_slow(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a convolution is a depthwise one whose gradients are slow in bfloat16."""
    x, weight = args[:2]
    stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    depthwise = func is torch.conv2d and weight.shape[1] == 1 and weight.shape[0] == x.shape[1] > 1
    return depthwise and (stride not in (1, (1, 1)) or weight.shape[-1] > _SMALL_KERNEL)
