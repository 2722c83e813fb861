"""Requantisation in integers that equals the one in floating point, for every sum that can occur.

An int8 network's layer ends with `level = round(float32(sum) * scale / step) + zero`, in float32, clipped to 256
levels. As a function of the integer `sum` that is a staircase: it never falls, and is known by the sums at which a
level begins. A microcontroller has `level = (sum * multiplier + offset) >> 32`, another staircase (Jacob et al. 2018,
arXiv 1712.05877, equation 6). The usual way rounds the real factor to a multiplier, and now and then gives the level
beside. Here multiplier and offset are chosen such that both staircases are the same: two numbers, at most 255 pairs of
linear inequalities. Where no such numbers exist, the few sums at which they differ are listed as exceptions. So
equality is by construction, not by test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.core.errors import ConfigError

__all__ = ["SHIFT", "PairStaircase", "Quotient", "Staircase", "fit_pairs", "fit_quotient", "fit_staircase"]

SHIFT = 32
"""Bits that are dropped from a sum times its multiplier: the upper word of a long multiplication is the level."""

_MULTIPLIER_BITS = 31
_MOST_EXCEPTIONS = 1024  # of a channel, or of pairs
_MOST_LISTED = 2**16 - 1  # of a layer: C counts them in 16 bits
_WIDEST = 2**31 - 1  # window, twice of which is a word in C
_FREE = 2**62  # an offset that no level bounds
_NEAR = 3  # sums around an estimate
_LEVELS = 256

Integers = NDArray[np.int64]
Function = Callable[[Integers], Integers]


@dataclass(frozen=True)
class Staircase:
    """`level = clip(((sum << left) * multiplier + offset) >> 32, low, high)` for each channel, but for exceptions.

    Attributes:
        multiplier: int64 below 2**31, (channels,).
        offset: int64, (channels,).
        left: Bits that sums are shifted by first, so that the multiplier fits.
        low: Lowest level.
        high: Highest level.
        exceptions: Channel, sum and level where it is another one, int64 (n, 3).
    """

    multiplier: Integers
    offset: Integers
    left: int
    low: int
    high: int
    exceptions: Integers

    def __call__(self, sums: Integers) -> Integers:
        """Levels of sums (channels, n), exceptions included: what the C code computes."""
        levels = self._plain(sums)
        for channel, total, level in self.exceptions:
            levels[channel][sums[channel] == total] = level
        return levels

    def _plain(self, sums: Integers) -> Integers:
        scaled = (sums << self.left) * self.multiplier[:, None] + self.offset[:, None]
        found: Integers = np.clip(scaled >> SHIFT, self.low, self.high)
        return found

    @property
    def window(self) -> int:
        """The lower word of an exception is at most so far from 0 (modulo 2**32): only there C looks at the list."""
        if not len(self.exceptions):
            return 0
        channel, total, _ = self.exceptions.T
        low = ((total << self.left) * self.multiplier[channel] + self.offset[channel]) & (2**SHIFT - 1)
        return int(np.minimum(low, 2**SHIFT - low).max())


def fit_staircase(
    function: Function, least: Integers, most: Integers, low: int = 0, high: int = 255,
    estimate: NDArray[np.float64] | None = None,
) -> Staircase:
    """The fixed-point form of a staircase.

    Args:
        function: Sums (channels, n) -> levels before clipping, int64; must not fall with the sum.
        least: Smallest sum that can occur, (channels,).
        most: Largest one, (channels,).
        low: Lowest level.
        high: Highest level.
        estimate: About where the levels above the lowest one begin, (channels, high - low): saves looking for them.

    Raises:
        ConfigError: The function cannot be followed: it is no staircase of even steps.
    """
    levels = np.arange(low + 1, high + 1, dtype=np.int64)
    if not len(levels):
        nothing = np.zeros(len(least), dtype=np.int64)
        return Staircase(nothing, nothing, 0, low, high, np.zeros((0, 3), dtype=np.int64))
    begins = _begins(function, least, most, levels, estimate)
    above, below = begins <= most[:, None], begins > least[:, None]
    slope = _slope(begins if estimate is None else estimate, above & below, most - least)
    left = max(0, int(np.ceil(np.log2(max(float(slope.max(initial=0)), 2.0**-40) * 2))) + SHIFT - _MULTIPLIER_BITS)
    reach = max(int(np.abs(least).max(initial=0)), int(np.abs(most).max(initial=0)), 1)
    if reach << left >= 1 << 31:
        raise ConfigError("the sums of a layer are too large for one step of its levels; quantise the network again, "
                          "with calibration images like those that it will see")
    multiplier, offset, fits = _line(begins << left, (begins - 1) << left, levels << SHIFT, above, below,
                                     slope * 2.0 ** (SHIFT - left))
    plain = Staircase(multiplier, offset, left, low, high, np.zeros((0, 3), dtype=np.int64))
    failed = np.flatnonzero(~fits)
    if not len(failed):
        return plain
    found = replace(plain, exceptions=_differences(plain, failed, begins, least, most))
    if found.window > _WIDEST:
        raise _uneven()
    return found


def _line(
    at: Integers, before: Integers, goal: Integers, above: NDArray[np.bool_], below: NDArray[np.bool_],
    guess: NDArray[np.float64],
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Multiplier and offset for which every level begins where it should, each (channels,), and whether there are any.

    Args:
        at: The sum at which a level begins, shifted, (channels, levels).
        before: The sum before, likewise.
        goal: What is reached there, (levels,).
        above: Whether that sum can occur.
        below: Whether the sum before can occur.
        guess: About the multiplier, (channels,).
    """
    def room(multiplier: Integers, rows: Any = slice(None)) -> tuple[Integers, Integers]:
        """Smallest and largest offset."""
        smallest = np.where(above[rows], goal - multiplier[:, None] * at[rows], -_FREE).max(axis=1, initial=-_FREE)
        largest = np.where(below[rows], goal - 1 - multiplier[:, None] * before[rows], _FREE).min(axis=1, initial=_FREE)
        return smallest, largest

    multiplier = np.clip(np.rint(guess), 0, 2**_MULTIPLIER_BITS - 1).astype(np.int64)
    smallest, largest = room(multiplier)
    rows = np.flatnonzero(largest < smallest)
    if len(rows):
        # the room is a concave function of the multiplier: its top is found by thirds
        spread = np.maximum(guess[rows] * 2.0**-3, 4096).astype(np.int64)
        start = np.maximum(multiplier[rows] - spread, 0)
        end = np.minimum(multiplier[rows] + spread, 2**_MULTIPLIER_BITS - 1)
        while (end - start > 2).any():
            third = (end - start) // 3
            one, two = start + third, end - third
            wide_one, wide_two = (high - low for low, high in (room(one, rows), room(two, rows)))
            up = wide_one < wide_two
            start, end = np.where(up, one, start), np.where(up, end, two)
        candidates = [np.minimum(start + d, end) for d in range(3)]
        widths = np.stack([high - low for low, high in (room(c, rows) for c in candidates)])
        multiplier[rows] = np.stack(candidates)[widths.argmax(axis=0), np.arange(len(rows))]
        smallest, largest = room(multiplier)
    # the middle; where both are the same it is that one
    return multiplier, -(-smallest >> 1) + (largest >> 1), smallest <= largest


def _slope(begins: NDArray[Any], seen: NDArray[np.bool_], reach: Integers) -> NDArray[np.float64]:
    """Levels that a sum adds, between the first and the last level that begins in the range, (channels,)."""
    count = seen.sum(axis=1)
    first = seen.argmax(axis=1)
    last = seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    rows = np.arange(len(begins))
    between = begins[rows, last] - begins[rows, first]
    # more than all levels at one sum are not needed
    found: NDArray[np.float64] = np.where(count > 1, np.minimum((last - first) / np.maximum(between, 1e-9), _LEVELS),
                                          count / np.maximum(reach, 1))
    return found


def _begins(
    function: Function, least: Integers, most: Integers, levels: Integers, estimate: NDArray[np.float64] | None
) -> Integers:
    """The first sum at which each level, or a higher one, is reached, (channels, levels); one beyond `most` if none."""
    start = np.repeat(least[:, None], len(levels), axis=1)
    end = np.repeat(most[:, None] + 1, len(levels), axis=1)
    if estimate is not None:
        # a bracket around the estimate, where it holds what is looked for
        near = np.clip(estimate, start, end).astype(np.int64)
        before, behind = np.maximum(near - _NEAR, start), np.minimum(near + _NEAR, end)
        reached = function(np.minimum(behind, most[:, None])) >= levels
        missed = function(np.maximum(before - 1, least[:, None])) < levels
        end = np.where(reached, behind, end)
        start = np.where(missed | (before == start), before, start)
    while (start < end).any():
        middle = (start + end) >> 1
        reached = function(np.minimum(middle, most[:, None])) >= levels
        start, end = np.where(reached | (start >= end), start, middle + 1), np.where(reached, middle, end)
    return end


def _differences(plain: Staircase, rows: Integers, begins: Integers, least: Integers, most: Integers) -> Integers:
    """Sums of some channels at which the fixed-point form gives another level, (n, 3)."""
    goal = np.arange(plain.low + 1, plain.high + 1, dtype=np.int64) << SHIFT
    step, distance = (plain.multiplier[rows] << plain.left)[:, None], goal - plain.offset[rows][:, None]
    # where the fixed-point form begins each level: a level differs between there and where it should begin
    own = np.where(step > 0, -(-distance // np.maximum(step, 1)), np.where(distance > 0, most.max() + 1, least.min()))
    ends = least[rows][:, None], most[rows][:, None] + 1
    first, end = np.clip(np.minimum(own, begins[rows]), *ends), np.clip(np.maximum(own, begins[rows]), *ends)
    count = end - first
    if count.sum() > _LEVELS * _MOST_LISTED:
        raise _uneven()
    many = count[count > 0]
    sums = np.repeat(first[count > 0], many) + np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    row, total = np.divmod(np.unique(np.repeat(np.nonzero(count)[0], many) * 2**33 + sums + 2**32), 2**33)
    total -= 2**32
    if np.bincount(row).max() > _MOST_EXCEPTIONS or len(row) > _MOST_LISTED:
        raise _uneven()
    level = plain.low + (begins[rows[row]] <= total[:, None]).sum(axis=1)
    return np.stack([rows[row], total, level], axis=1)


def _uneven() -> ConfigError:
    return ConfigError("a layer's levels follow no even steps; quantise the network again, with calibration images "
                       "like those that it will see")


@dataclass(frozen=True)
class PairStaircase:
    """A level for each pair of levels, from one integer: of a sum or a product of two tensors.

    `(a * multipliers[0] + b * multipliers[1] + offset) >> shift` for a sum, and for a product
    `((a - zero) * (b - zero') * multipliers[0] + offset) >> shift`; clipped to `low` and `high`; but for the pairs in
    `exceptions`.

    Attributes:
        multipliers: Of the two levels.
        offset: What is added.
        shift: Bits dropped.
        low: Lowest level.
        high: Highest level.
        exceptions: Both levels and the result, int64 (n, 3).
        window: The dropped bits of an exception are at most so far from 0 (modulo 2**shift).
    """

    multipliers: tuple[int, int]
    offset: int
    shift: int
    low: int
    high: int
    exceptions: Integers
    window: int


def fit_pairs(
    wanted: Integers, terms: tuple[Integers, Integers], slopes: tuple[float, float], constant: float, shift: int,
    low: int, high: int,
) -> PairStaircase:
    """The fixed-point form of a function of two levels, compared for all 65,536 pairs.

    Args:
        wanted: Level of each pair, clipped, (256, 256).
        terms: What the multipliers multiply, for each pair, (256, 256).
        slopes: Levels that a unit of each term adds.
        constant: Level where both terms are 0, and half a one more.
        shift: Bits dropped.
        low: Lowest level.
        high: Highest level.

    Raises:
        ConfigError: Far too many pairs differ.
    """
    first, second, offset = (round(s * 2.0**shift) for s in (*slopes, constant))
    scaled = first * terms[0] + second * terms[1] + offset
    a, b = np.nonzero(np.clip(scaled >> shift, low, high) != wanted)
    if len(a) > _MOST_EXCEPTIONS:
        raise ConfigError(f"a sum or product of two tensors follows no even steps ({len(a)} of {_LEVELS**2:,} pairs of "
                          "levels differ); quantise the network again")
    rest = scaled[a, b] & ((1 << shift) - 1)
    window = int(np.minimum(rest, (1 << shift) - rest).max(initial=0))
    exceptions = np.stack([a, b, wanted[a, b]], axis=1).astype(np.int64)
    return PairStaircase((first, second), offset, shift, low, high, exceptions, window)


@dataclass(frozen=True)
class Quotient:
    """A sum of levels over one divisor: `((sum << left) * multiplier + offset) >> 32`.

    A mean of float32 numbers depends on how each of them was rounded, and so on more than their levels' sum: where the
    lower word is within `window` of 0 (modulo 2**32) the mean has to be computed as the network does.

    Attributes:
        divisor: Values of a window.
        multiplier: Below 2**31.
        offset: What is added.
        left: Bits that sums are shifted by first.
        window: See above.
    """

    divisor: int
    multiplier: int
    offset: int
    left: int
    window: int


def fit_quotient(divisor: int, scale: float, step: float, zero: float, count: int) -> Quotient:
    """The fixed-point form of a mean.

    Args:
        divisor: What sums are divided by.
        scale: Value of one level that is summed.
        step: Value of one level of the mean.
        zero: Level of the mean that stands for zero, less what is taken off before rounding.
        count: Most values in a sum.

    Raises:
        ConfigError: Sums are too large for so small a step.
    """
    ratio = scale / step / divisor
    left = max(0, int(np.ceil(np.log2(ratio))) + 1 + SHIFT - _MULTIPLIER_BITS)
    multiplier, offset = round(ratio * 2.0 ** (SHIFT - left)), round((zero + 0.5) * 2.0**SHIFT)
    reach = (_LEVELS - 1) * count
    # three roundings to float32 of values up to 255 levels, and what the multiplier lacks
    window = (_LEVELS - 1) * scale / step * count / divisor * 2.0**-21 * 2.0**SHIFT + (reach << left) + 2
    if reach << left >= 1 << 31 or window > _WIDEST:
        raise ConfigError("its mean has far finer levels than what it is a mean of")
    return Quotient(divisor, multiplier, offset, left, int(window))
