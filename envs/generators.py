"""Random numbers for many copies of an environment, each from a random generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from autosplit.core.arrays import Array
from autosplit.envs.tree import IntArray

__all__ = ["Selection", "UniformGenerators", "pick_conditions", "pick_one"]

Selection = slice | IntArray
"""Some of n copies: their numbers, or `slice(None)` for all of them."""

_BLOCK = 64
"""Numbers drawn ahead for a copy; drawing a block at a time is what makes them cheap."""


class UniformGenerators:
    """Uniform numbers in [0, 1), one random generator a copy.

    A generator seeded with s gives what `gymnasium.utils.seeding.np_random(s)` gives to `random()` call after call:
    what the single environment gets from its own `np_random`. Generators that were never seeded are unpredictable.

    Args:
        count: Number n of generators.
    """

    def __init__(self, count: int) -> None:
        self._rngs: list[np.random.Generator | None] = [None] * count
        self._rows = np.arange(count)
        self._blocks = np.empty((count, _BLOCK))
        self._next: IntArray = np.full(count, _BLOCK, dtype=np.int64)

    def seed(self, which: Selection, seeds: Sequence[int | None]) -> IntArray:
        """Seed some generators.

        Args:
            which: The generators.
            seeds: One a generator of `which`; one with `None` goes on as it is.

        Returns:
            Numbers of the generators that were seeded.
        """
        given = [(int(i), s) for i, s in zip(self._rows[which], seeds, strict=True) if s is not None]
        for i, s in given:
            self._rngs[i], _ = seeding.np_random(int(s))
        anew = np.array([i for i, _ in given], dtype=np.int64)
        self._next[anew] = _BLOCK  # what was drawn ahead belongs to the old seed
        return anew

    def draw(self, which: Selection) -> Array:
        """The next number of some generators, one each."""
        rows = self._rows[which]
        for i in rows[self._next[which] == _BLOCK]:
            if self._rngs[i] is None:
                self._rngs[i] = np.random.default_rng()
            self._rngs[i].random(out=self._blocks[i])
            self._next[i] = 0
        drawn: Array = self._blocks[rows, self._next[which]]
        self._next[which] += 1
        return drawn

def pick_conditions(drawn: Array, size: int, first_share: float = 0.0) -> IntArray:
    """Indices into a pool of conditions.

    Args:
        drawn: Uniform numbers in [0, 1), shape (n,).
        size: Number of conditions in the pool.
        first_share: Probability of the first; with the rest, any is drawn, the first included.

    Returns:
        Shape (n,).
    """
    if size == 1 or first_share >= 1.0:
        return np.zeros(len(drawn), dtype=np.int64)
    # the draws at or above `first_share`, stretched to [0, 1) again
    index = ((drawn - first_share) / (1.0 - first_share) * size).astype(np.int64)
    return np.where(drawn < first_share, 0, np.minimum(index, size - 1))


def pick_one(
    rng: np.random.Generator, size: int, options: dict[str, Any] | None = None, key: str = "conditions"
) -> int:
    """Index into a pool of conditions, or of something else, for one episode, by one number of a generator.

    Args:
        rng: The environment's own generator.
        size: Of the pool.
        options: Of `reset`: `{key: i}` takes the i-th instead, though a number is drawn all the same.
        key: What the pool holds.

    Raises:
        IndexError: The pool has no i-th.
    """
    # drawn also where `options` decide, so that the episodes that follow are the same either way
    drawn = int(pick_conditions(np.array([rng.random()]), size)[0])
    if not options or key not in options:
        return drawn
    try:
        return range(size)[int(options[key])]
    except IndexError:
        raise IndexError(f"{key} {options[key]} is not one of {size}") from None
