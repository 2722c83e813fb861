"""The clock of a profile: what takes time goes through here, so that a test can say how long things take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from autosplit.core.arrays import Array
from autosplit.latency.profiling.units import Unit, run_once

__all__ = ["Stopwatch", "WallClock", "steady_medians"]

_WARM_UP, _LEAST = 3, 10
_STEADY = 0.01  # standard error of the median of a whole pass, relative, at which a measurement ends

# interquartile range to standard deviation, and that to the standard error of a median, of normal samples
_NORMAL = 1.2533 / 1.349


class Stopwatch(Protocol):
    """Runs things and says how long they took, in seconds."""

    @property
    def processor_share(self) -> float | None:
        """Share of the time of passes and calls that this thread had a processor; `None` = not known."""
        ...

    def units(self, units: Sequence[Unit], image: Tensor) -> list[float]:
        """One pass through a network; seconds of each unit."""
        ...

    def call(self, action: Callable[[], object]) -> float:
        """One call; seconds."""
        ...


class WallClock:
    """Time as it passes, which is what an inference takes.

    Args:
        clock: Seconds; the processor's time of this thread (`time.thread_time`) is steadier where others use the
            machine too, but knows nothing of other threads.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._computed, self._passed = 0.0, 0.0

    @property
    def processor_share(self) -> float | None:
        """See `Stopwatch.processor_share`."""
        return min(1.0, self._computed / self._passed) if self._passed > 0 else None

    def units(self, units: Sequence[Unit], image: Tensor) -> list[float]:
        """See `Stopwatch.units`."""
        computed, passed = time.thread_time(), time.perf_counter()
        seconds = run_once(units, image, self._clock)
        self._count(computed, passed)
        return seconds

    def call(self, action: Callable[[], object]) -> float:
        """See `Stopwatch.call`."""
        computed, passed = time.thread_time(), time.perf_counter()
        begun = self._clock()
        action()
        seconds = self._clock() - begun
        self._count(computed, passed)
        return seconds

    def _count(self, computed: float, passed: float) -> None:
        self._computed += time.thread_time() - computed
        self._passed += time.perf_counter() - passed


def steady_medians(once: Callable[[], Iterable[float]], most: int) -> Array:
    """Medians over repetitions, after a warm-up, until the median of their sum is steady.

    Args:
        once: Seconds of each part, of one repetition.
        most: Repetitions at most.

    Returns:
        Seconds, one median a part.
    """
    for _ in range(_WARM_UP):
        once()
    found: list[list[float]] = []
    while len(found) < most:
        found.append(list(once()))
        totals = np.array([sum(parts) for parts in found])
        lower, middle, upper = np.percentile(totals, (25, 50, 75))
        error = _NORMAL * (upper - lower) / len(found) ** 0.5
        if len(found) >= _LEAST and error <= _STEADY * middle:
            break
    medians: Array = np.median(np.array(found, dtype=np.float64), axis=0)
    return medians
