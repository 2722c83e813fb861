"""When pictures arrive: regularly, at random, or in bursts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array

__all__ = ["Arrivals"]


@dataclass(frozen=True)
class Arrivals:
    """A process of arrivals.

    Without bursts a Poisson process, or one of equal distances. With them a Poisson process whose rate changes between
    two values (a Markov-modulated one; Fischer, Meier-Hellstern, Performance Evaluation 18, 1993): a motion sensor that
    sees an animal.

    Attributes:
        per_s: Pictures a second in the long run.
        regular: Whether they come at equal distances.
        peak: Rate within a burst, in multiples of the mean one; 1 for no bursts.
        peak_share: Share of the time that is in bursts.
        peak_s: Mean length of a burst, seconds.
    """

    per_s: float
    regular: bool = False
    peak: float = 1.0
    peak_share: float = 0.25
    peak_s: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.per_s < math.inf and 0 < self.peak_s < math.inf):
            raise ValueError(f"pictures a second and the length of bursts must be above 0, got {self.per_s:g} and "
                             f"{self.peak_s:g}")
        if not 0 < self.peak_share < 1 or not 1 <= self.peak <= 1 / self.peak_share:
            raise ValueError(f"bursts of {self.peak:g} times the mean rate cannot fill {self.peak_share:g} of the "
                             "time; peak must lie between 1 and 1 / peak_share")
        if self.regular and self.peak > 1:
            raise ValueError("regular arrivals have no bursts; leave one of them out")

    def draw(self, rows: int, pictures: int, rng: np.random.Generator) -> Array:
        """Times of arrival, milliseconds, ascending, shape (rows, pictures); the first one at 0."""
        if self.regular:
            return np.tile(np.arange(pictures) * 1000.0 / self.per_s, (rows, 1))
        gaps = rng.standard_exponential((rows, pictures))
        if self.peak == 1:
            times = np.cumsum(gaps, axis=1) * 1000.0 / self.per_s
        else:
            times = np.stack([self._bursty(row, rng) for row in gaps])
        first: Array = times - times[:, :1]
        return first

    def _bursty(self, gaps: Array, rng: np.random.Generator) -> Array:
        """Unit-rate arrivals on the clock of the changing rate: with a rate of r a second of it lasts 1 / r seconds."""
        between = (1 - self.peak_share * self.peak) / (1 - self.peak_share)
        rates = self.per_s * np.array([between, self.peak])
        means_s = np.array([self.peak_s * (1 - self.peak_share) / self.peak_share, self.peak_s])
        work, held = np.cumsum(gaps), list[float]()
        first = state = int(rng.random() < self.peak_share)
        done = 0.0
        while done < work[-1]:
            held.append(rng.exponential(means_s[state]))
            done += rates[state] * held[-1]
            state = 1 - state
        rate = rates[(first + np.arange(len(held))) % 2]
        clock, at = np.append(0.0, np.cumsum(rate * held)), np.append(0.0, np.cumsum(held))
        # no arrival falls into a time of rate 0: there the clock stands still
        index = np.searchsorted(clock, work, side="left") - 1
        times: Array = (at[index] + (work - clock[index]) / rate[index]) * 1000.0
        return times
