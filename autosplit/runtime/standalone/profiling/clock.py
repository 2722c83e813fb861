"""The clock of a profile: what takes time goes through here, so that a test can say how long things take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDS", "Clock", "Timer", "WallClock", "disturbance", "steady_medians", "undisturbed"]

ROUNDS = 3
"""How often everything is timed in turn."""

_WARM_UP, _LEAST = 3, 10
_STEADY = 0.01  # standard error of the median of a whole pass, relative, at which a measurement ends
_UNDISTURBED = 0.95  # share of the time with a processor that a quiet machine gives

# interquartile range to standard deviation, and that to the standard error of a median, of normal samples
_NORMAL = 1.2533 / 1.349

T = TypeVar("T")
Seconds = NDArray[np.float64]

Timer = Callable[[int], Seconds]
"""Times something over so many passes at most; gives median seconds."""


class Clock(Protocol):
    """Runs things and says how long they took, in seconds."""

    @property
    def processor_share(self) -> float | None:
        """Share of the time of all calls that this thread had a processor; `None` = not known."""
        ...

    def call(self, action: Callable[[], object]) -> float:
        """One call; seconds."""
        ...


class WallClock:
    """Time as it passes, which is what an inference takes.

    Args:
        clock: Seconds; the processor's time of this thread (`time.thread_time`) is steadier where others use the
            machine too, but knows nothing of other threads.

    Attributes:
        clock: See there.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._computed, self._passed = 0.0, 0.0

    @property
    def processor_share(self) -> float | None:
        """See `Clock.processor_share`."""
        return min(1.0, self._computed / self._passed) if self._passed > 0 else None

    def call(self, action: Callable[[], object]) -> float:
        """See `Clock.call`."""
        return self.watched(lambda: self._seconds(action))

    def _seconds(self, action: Callable[[], object]) -> float:
        begun = self.clock()
        action()
        return self.clock() - begun

    def watched(self, action: Callable[[], T]) -> T:
        """What an action gives; its time with and without a processor is noted."""
        computed, passed = time.thread_time(), time.perf_counter()
        found = action()
        self._computed += time.thread_time() - computed
        self._passed += time.perf_counter() - passed
        return found


def disturbance(share: float | None) -> str | None:
    """What to say where other programs took the processor meanwhile; `None` where they did not.

    Args:
        share: See `Clock.processor_share`.
    """
    if share is None or share >= _UNDISTURBED:
        return None
    return (f"the timing thread had a processor only {share:.0%} of the time, so the timings are too long; profile "
            "again when the machine is quiet")


def steady_medians(once: Callable[[], Iterable[float]], most: int) -> Seconds:
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
    medians: Seconds = np.median(np.array(found, dtype=np.float64), axis=0)
    return medians


def undisturbed(timers: Sequence[Timer], most: int,
                advance: Callable[[int], None] = lambda _: None) -> list[Seconds]:
    """Time several things in turn, several times over, and keep the shortest median of each.

    What disturbs a machine for seconds (its neighbours, its clock) only ever adds time.

    Args:
        timers: What is timed.
        most: Passes of a timer at most, each time.
        advance: Called after each.
    """
    best: list[Seconds] = []
    for i in range(ROUNDS):
        for k, timer in enumerate(timers):
            found = timer(most)
            best[k:k + 1] = [np.minimum(best[k], found) if i else found]
            advance(1)
    return best
