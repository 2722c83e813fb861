"""Channels that are one: the forest of a union-find over numbered channels, in which some cannot go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["STAYS", "Ids", "Unions", "staying"]

Ids = NDArray[np.int64]
"""Channels, by number."""

STAYS = 0
"""The channel that all are joined with which cannot go."""


def staying(count: int) -> Ids:
    """Channels of which none can go."""
    return np.full(count, STAYS, dtype=np.int64)


class Unions:
    """Which channels are one."""

    def __init__(self) -> None:
        self._parent: list[int] = [STAYS]
        self._why: dict[int, str] = {}

    def new(self, count: int) -> Ids:
        """Channels that nothing is known of yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, channel: int) -> int:
        """The lowest of the channels that are one with this."""
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def resolved(self, channels: Ids) -> Ids:
        """`find` of each channel."""
        return np.array([self.find(c) for c in channels.tolist()], dtype=np.int64)

    def join(self, one: Ids, other: Ids, why: str) -> None:
        """Channels are one with others, pair by pair.

        Args:
            one: N channels.
            other: N channels.
            why: The operation that says so.
        """
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            if a != b:
                a, b = self.find(a), self.find(b)
                if a != b:
                    low, high = min(a, b), max(a, b)
                    self._parent[high] = low
                    if low == STAYS:
                        self._why[high] = self._why.get(high) or why

    def keep(self, channels: Ids, why: str) -> None:
        """Channels cannot go."""
        self.join(channels, staying(len(channels)), why)

    def stay(self, channels: Ids) -> bool:
        """Whether none of the channels can go."""
        return all(self.find(c) == STAYS for c in channels.tolist())

    def reason(self, channel: int) -> str:
        """The operation because of which a channel stays; empty where none was named."""
        while self._parent[channel] != channel:
            if found := self._why.get(channel, ""):
                return found
            channel = self._parent[channel]
        return self._why.get(channel, "")
