"""Mixed precision: training computes in 16 bits where the hardware is quicker in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from autosplit.core.accelerator import CPU, Accelerator

__all__ = ["AroundKernels", "autocast", "gradient_scaler"]

_NARROW = 16
_SMALL_KERNEL = 3
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
    """Keeps out of two kernels of oneDNN (seen in torch 2.14 and 2.15).

    The one for the weight gradient of a strided 1x1 convolution of fewer than 16 input channels writes beyond its
    memory when the batch does not divide by the threads, in bfloat16 with AVX-512 and in float32 with AVX2; so the
    pixels that such a convolution does not read are left out before it instead of in it. The bfloat16 ones for the
    gradients of depthwise convolutions with a stride or a 5x5 kernel take up to seven times as long as in float32; so
    these are computed in float32.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and len(args) >= 5:  # as nn.Conv2d calls it
            x, weight, bias, stride, padding, *rest = args
            narrow = weight.shape[2:] == (1, 1) and weight.shape[1] < _NARROW
            if narrow and padding in _NO_PADDING and isinstance(stride, tuple) and stride != (1, 1):
                args = (x[:, :, :: stride[0], :: stride[1]], weight, bias, (1, 1), padding, *rest)
            elif torch.is_autocast_enabled("cpu"):
                depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1] > 1
                if depthwise and (tuple(stride) != (1, 1) or weight.shape[-1] > _SMALL_KERNEL):
                    with torch.autocast("cpu", enabled=False):
                        return func(x.float(), weight.float(), bias, stride, padding, *rest, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
