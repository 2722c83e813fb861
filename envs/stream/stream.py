"""`Stream`: one device, its link and the pictures that arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autosplit.core.conditions import Conditions
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.levels import Level

__all__ = ["Stream"]


@dataclass(frozen=True)
class Stream:
    """What is known of a stream before it begins.

    Attributes:
        name: For tables.
        conditions: Device, edge and link; `budget_ms` is the deadline of every picture, from its arrival.
        levels: What the device can do with one.
        arrivals: When pictures arrive.
        pictures: Length of an episode.
        buffer: Pictures that wait at most, the newest ones; one that is being answered does not wait.
        charge_mj: What the battery holds at the beginning, millijoules; infinite for none. An empty one ends the
            episode.
        energy_weight: Reward that a millijoule costs.
        sees_link: Whether the device's modem tells the present rate; otherwise the device knows what its last exchanges
            took.
        assumed_kbps: What the device takes for the link's mean rate; that of the profile where left out.
    """

    name: str
    conditions: Conditions
    levels: tuple[Level, ...]
    arrivals: Arrivals
    pictures: int = 200
    buffer: int = 8
    charge_mj: float = math.inf
    energy_weight: float = 0.0
    sees_link: bool = False
    assumed_kbps: float | None = None

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError(f"stream {self.name!r} has no level, so nothing can be done with a picture")
        if self.pictures < 1 or self.buffer < 1:
            raise ValueError(f"stream {self.name!r}: pictures and buffer must be at least 1, got {self.pictures} and "
                             f"{self.buffer}")
        if self.assumed_kbps is not None and not 0 < self.assumed_kbps < math.inf:
            raise ValueError(f"stream {self.name!r}: the assumed rate must be above 0, got {self.assumed_kbps:g}")
        if not (self.charge_mj > 0 and 0 <= self.energy_weight < math.inf):
            raise ValueError(f"stream {self.name!r}: the charge must be above 0 and the weight of energy at least 0, "
                             f"got {self.charge_mj:g} and {self.energy_weight:g}")
