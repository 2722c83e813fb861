"""What the entropy coder knows of a symbol before it is coded: its neighbours in the same channel.

Features are smooth, and so are their codes: what lies around a cell says much about it. Cells are coded in passes, as
in interlaced pictures: first one cell, then those in the middle of ever smaller squares and of their sides, so that
nearly every cell has four neighbours that are known. A known symbol is *above*, *below* or in the *middle* of its
channel's values, and how many of the four are above and how many below is the cell's **context**, one of 15. All cells
of a pass are coded at once: none depends on another one of the same pass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTEXTS", "Pass", "coding_passes", "contexts_of", "sides", "symbol_contexts"]

_NEIGHBOURS = 4
_ABOVE, _BELOW = 5, 1  # what a neighbour adds; the sum of four tells how many are above and how many below

CONTEXTS = (_NEIGHBOURS + 1) * (_NEIGHBOURS + 2) // 2
"""Contexts that a symbol can have."""

_STRAIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _numbers() -> NDArray[np.intp]:
    """Number of a context by the sum of its neighbours: ordered by those above, then by those below."""
    found = np.zeros(_NEIGHBOURS * _ABOVE + 1, dtype=np.intp)
    pairs = [(above, below) for above in range(_NEIGHBOURS + 1) for below in range(_NEIGHBOURS + 1 - above)]
    for number, (above, below) in enumerate(pairs):
        found[_ABOVE * above + _BELOW * below] = number
    return found


_NUMBERS = _numbers()


class Pass(NamedTuple):
    """Cells that are coded together.

    Attributes:
        cells: Their places in a flattened grid, ascending, (n,).
        neighbours: Places of the known cells around each, (n, 4); one beyond the last cell stands for outside.
    """

    cells: NDArray[np.intp]
    neighbours: NDArray[np.intp]


@lru_cache(maxsize=64)
def coding_passes(height: int, width: int) -> tuple[Pass, ...]:
    """The passes of a grid, in coding order.

    Args:
        height: Of the grid, in cells.
        width: Of the grid.
    """
    y, x = (side.ravel() for side in np.mgrid[:height, :width])
    step = 1
    while step < max(height, width):
        step *= 2
    nothing = np.full((1, _NEIGHBOURS), height * width)
    found = [Pass(np.zeros(1, dtype=np.intp), nothing)]
    while step > 1:
        half = step // 2
        middles = (y % step == half) & (x % step == half)
        between = (y % half == 0) & (x % half == 0) & ((y + x) // half % 2 == 1)
        for chosen, offsets in ((middles, _DIAGONAL), (between, _STRAIGHT)):
            cells = np.flatnonzero(chosen)
            if len(cells):
                around = [_places(y[cells] + half * dy, x[cells] + half * dx, height, width) for dy, dx in offsets]
                found.append(Pass(cells, np.stack(around, axis=1)))
        step = half
    return tuple(found)


def _places(y: NDArray[np.intp], x: NDArray[np.intp], height: int, width: int) -> NDArray[np.intp]:
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(inside, y * width + x, height * width)


def sides(symbols: NDArray[Any], middle: NDArray[Any]) -> NDArray[np.uint8]:
    """What symbols add to the contexts of their neighbours.

    Args:
        symbols: Integers of shape (..., K, cells).
        middle: First and last symbol of each channel's middle, (K, 2).
    """
    low, high = middle[:, :1], middle[:, 1:]
    return (_ABOVE * (symbols > high) + _BELOW * (symbols < low)).astype(np.uint8)


def contexts_of(known: NDArray[np.uint8], neighbours: NDArray[np.intp]) -> NDArray[np.intp]:
    """Contexts of the cells of a pass.

    Args:
        known: `sides` of all cells so far, with 0 behind the last cell for what lies outside: (..., K, cells + 1).
        neighbours: Of the pass.

    Returns:
        Numbers below `CONTEXTS`, shape (..., K, n).
    """
    total = known[..., neighbours[:, 0]]
    for column in range(1, _NEIGHBOURS):
        total = total + known[..., neighbours[:, column]]
    return _NUMBERS[total]


def symbol_contexts(symbols: NDArray[Any], middle: NDArray[Any]) -> NDArray[np.uint8]:
    """The context of every symbol of whole codes.

    Args:
        symbols: Integers of shape (N, K, gh, gw).
        middle: As in `sides`.

    Returns:
        Numbers below `CONTEXTS`, shape (N, K, gh * gw).
    """
    images, channels, height, width = symbols.shape
    known = np.zeros((images, channels, height * width + 1), dtype=np.uint8)
    known[..., :-1] = sides(symbols.reshape(images, channels, -1), middle)
    found = np.empty((images, channels, height * width), dtype=np.uint8)
    for part in coding_passes(height, width):
        found[..., part.cells] = contexts_of(known, part.neighbours)
    return found
