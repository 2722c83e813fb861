"""What the nodes of an int8 network stand for while it is lowered: levels in a buffer, or values not rounded yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosplit.compression.int8_layers import LEVELS
from autosplit.compression.lowering.operations import Shape
from autosplit.core.errors import ConfigError

__all__ = ["REMEDY", "Floats", "Image", "Integers", "Levels", "Real", "Rounding", "ShapeError", "Value",
           "channels_last", "places_of", "values_of"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

REMEDY = "; leave --target c away, or choose a split point before it"
_FAR = 2.0**40  # beyond any level, and an integer


@dataclass(frozen=True)
class Rounding:
    """Real values to levels: `round(x / step - shift) + zero`, clipped.

    Attributes:
        step: float32, one number or one a channel, (1,) or (channels,).
        zero: Level of zero.
        low: Lowest level.
        high: Highest level.
        shift: What is taken off before rounding: 0.5 where a code has two levels.
    """

    step: Floats
    zero: int
    low: int = 0
    high: int = LEVELS - 1
    shift: float = 0.0

    def __call__(self, values: Floats, channels: bool = True) -> Integers:
        """Levels of values, not clipped; (channels, n), or any shape for a single step."""
        step = self.step[:, None] if channels else self.step[0]
        with np.errstate(over="ignore"):  # what is beyond float32 is beyond any level
            shifted = values / step - np.float32(self.shift) if self.shift else values / step
        return np.clip(np.rint(shifted), -_FAR, _FAR).astype(np.int64) + self.zero

    def clamped(self, limits: tuple[float, float] | None) -> Rounding:
        """The same of values that are clamped first: the staircase does not fall, so its range is."""
        if limits is None:
            return self
        ends = np.array([max(min(v, 1e30), -1e30) for v in limits], dtype=np.float32)
        low, high = (np.clip(self(np.full((len(self.step), 1), v)), self.low, self.high)[:, 0] for v in ends)
        if len(set(low.tolist())) > 1 or len(set(high.tolist())) > 1:
            raise ConfigError("a clamped code with a step of its own for each channel cannot be written as C; choose a "
                              "codec whose encoder ends without a clamp")
        return replace(self, low=int(low[0]), high=int(high[0]))


@dataclass(frozen=True)
class Levels:
    """A tensor in a buffer.

    Attributes:
        buffer: Its number.
        scale: float32, value of one level.
        zero: Level of zero.
        places: Where in the buffer each value lies, and 1 more; 0 = nowhere, it is zero; double, (1, ...).
    """

    buffer: int
    scale: np.float32
    zero: int
    places: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch dimension."""
        return tuple(self.places.shape[1:])


@dataclass(frozen=True)
class Image:
    """The normalised image: value of each pixel level, (channels, 256)."""

    values: Floats


@dataclass(frozen=True)
class Real:
    """Real values that are not computed yet: how they will be rounded decides how.

    Attributes:
        name: Of the operation.
        shape: Without the batch dimension.
        emit: Adds the operation that computes and rounds them; the number of its buffer. `None` = leave them real.
        limits: What they are clamped to first.
        moved: What they were before they were moved, and what moves levels of that; see `Walk._later`.
    """

    name: str
    shape: tuple[int, ...]
    emit: Callable[[Rounding | None, bool], int]
    limits: tuple[float, float] | None = None
    moved: tuple[Real, Callable[[Any], Any]] | None = None

    def clamp(self, low: float, high: float) -> Real:
        """The same, clamped once more."""
        before = self.limits or (-np.inf, np.inf)
        return replace(self, limits=(min(max(before[0], low), high), min(max(before[1], low), high)))


Value = Any
"""What a node stands for: `Levels`, `Real`, `Image`, a tuple of these, or a constant."""


class ShapeError(ConfigError):
    """A tensor that is no feature map and no vector."""


def channels_last(shape: tuple[int, ...]) -> Shape:
    """(C, H, W) or (C,) as (H, W, C)."""
    if len(shape) == 3:
        return (shape[1], shape[2], shape[0])
    if len(shape) == 1:
        return (1, 1, shape[0])
    raise ShapeError(f"a tensor of shape {shape} cannot be written as C, which knows only feature maps and vectors"
                      f"{REMEDY}")


def places_of(shape: tuple[int, ...]) -> Tensor:
    """Places of a tensor that lies channels last, as `Levels` has them."""
    height, width, channels = channels_last(shape)
    found = torch.arange(1, 1 + prod(shape), dtype=torch.float64).view(1, height, width, channels).permute(0, 3, 1, 2)
    return found.reshape(1, *shape)


def values_of(levels: Levels) -> Floats:
    """Value of each level, (256,)."""
    values: Floats = (np.arange(LEVELS, dtype=np.float32) - np.float32(levels.zero)) * levels.scale
    return values
