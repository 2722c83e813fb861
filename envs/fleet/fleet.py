"""`Fleet`: devices with streams of their own, one cell, one edge."""

from __future__ import annotations

from dataclasses import dataclass

from autosplit.envs.stream.stream import Stream

__all__ = ["Fleet"]


@dataclass(frozen=True)
class Fleet:
    """What is known of a fleet before it begins.

    Attributes:
        name: For tables.
        devices: The stream of each: its pictures, its levels, and what the link carries while it is the one that sends.
        edge_slots: Requests that the edge computes at a time.
        announces: Whether the edge tells how long cell and edge are taken; otherwise a device knows what its own
            exchanges took.
        withdraws: Whether a payload that its device has given up leaves the cell at once. Over TCP it does not: it is
            delivered anyhow, and those behind it wait.
    """

    name: str
    devices: tuple[Stream, ...]
    edge_slots: int = 1
    announces: bool = False
    withdraws: bool = True

    def __post_init__(self) -> None:
        if not self.devices or self.edge_slots < 1:
            raise ValueError(f"fleet {self.name!r} needs at least one device and one slot of the edge, got "
                             f"{len(self.devices)} and {self.edge_slots}")
