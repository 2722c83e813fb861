"""Where the windows of convolutions and poolings lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosplit.compression.int8_layers import Int8Conv2d
from autosplit.compression.lowering.operations import Shape
from autosplit.compression.lowering.values import Integers

__all__ = ["padding_begin", "pair", "windows_of"]


def pair(value: Any) -> tuple[int, int]:
    """Down and right, of one number for both or of two."""
    return (int(value[0]), int(value[1])) if isinstance(value, (tuple, list)) else (int(value), int(value))


def padding_begin(layer: Int8Conv2d) -> tuple[int, int]:
    """Padding above and to the left."""
    if layer.padding == "same":
        down, right = (d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True))
        return down, right
    return (0, 0) if isinstance(layer.padding, str) else pair(layer.padding)


def windows_of(function: Callable[[Tensor], Tensor], shape: Shape, axis: int, kind: torch.dtype) -> Integers | None:
    """First and last row (or column), and one more, of each window of a pooling; `None` if there are gaps in one.

    A pooling is separable: what it makes of a map in which one row is marked tells which windows hold that row.
    """
    side = shape[axis]
    marked = torch.zeros(side, 1, *shape[:2], dtype=kind)
    for i in range(side):
        marked.select(2 + axis, i)[i] = 1
    found = function(marked)
    held = (found.reshape(side, 1, *found.shape[2:]) if found.dim() == 4 else found.reshape(side, 1, 1, 1)) > 0
    held = held.amax(dim=(1, 3 - axis)) if held.dim() == 4 else held
    inside = held.reshape(side, -1).numpy()
    first, last = inside.argmax(axis=0), side - inside[::-1].argmax(axis=0)
    if (inside.sum(axis=0) != last - first).any() or not inside.any(axis=0).all():
        return None
    return np.stack([first, last], axis=1).astype(np.int64)
