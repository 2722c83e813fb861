"""The clock of a bundle's profile, which also times networks of torch unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from autosplit.latency.profiling.units import Unit, run_once
from autosplit.runtime.standalone.profiling import clock

__all__ = ["Stopwatch", "WallClock"]


class Stopwatch(clock.Clock, Protocol):
    """Runs things and says how long they took, in seconds."""

    def units(self, units: Sequence[Unit], image: Tensor) -> list[float]:
        """One pass through a network; seconds of each unit."""
        ...


class WallClock(clock.WallClock):
    """See `autosplit.runtime.standalone.profiling.clock.WallClock`."""

    def units(self, units: Sequence[Unit], image: Tensor) -> list[float]:
        """See `Stopwatch.units`."""
        return self.watched(lambda: run_once(units, image, self.clock))
