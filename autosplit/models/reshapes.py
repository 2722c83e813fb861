"""Which dimensions of a tensor become which when it is reshaped."""

from __future__ import annotations

import numpy as np

from autosplit.models.unions import Ids

__all__ = ["apart", "blocks_of"]


def blocks_of(one: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of two shapes that hold equally many elements, side by side."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(one) or j < len(other):
        ins, outs = [], []
        a = b = 1
        if i < len(one):
            a, ins, i = one[i], [i], i + 1
        if j < len(other):
            b, outs, j = other[j], [j], j + 1
        while a != b:
            if a < b:
                a *= one[i]
                ins.append(i)
                i += 1
            else:
                b *= other[j]
                outs.append(j)
                j += 1
        # ones belong to the block before them
        while i < len(one) and one[i] == 1 and not (j < len(other) and other[j] == 1):
            ins.append(i)
            i += 1
        while j < len(other) and other[j] == 1 and not (i < len(one) and one[i] == 1):
            outs.append(j)
            j += 1
        blocks.append((ins, outs))
    return blocks


def apart(ids: Ids, sizes: list[int]) -> tuple[int, Ids] | None:
    """The one of several dimensions that channels vary along, when a dimension is divided; `None` if there is none."""
    grid = ids.reshape(sizes)
    for axis in range(len(sizes)):
        first = np.moveaxis(grid, axis, -1).reshape(-1, sizes[axis])
        if (first == first[0]).all():
            return axis, first[0].copy()
    return None
