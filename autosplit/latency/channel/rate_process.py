"""How a channel's rate moves while something is sent, as draws: fading blocks and traces are one thing here.

A rate process is a step function of time that is repeated lap after lap. Its rates are relative to the channel's mean
rate, so what a transfer needs is counted in milliseconds at that mean, and scaling a channel leaves its process alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.fading import Trace, bits_per_hz, mean_bits_per_hz
from autosplit.core.profiles import ChannelProfile
from autosplit.latency.random import DRAWS, exponential, normal, quantile, uniform

__all__ = ["BLOCKS", "RateProcess", "rate_process_of", "typical_kbps_and_jitter_ms"]

BLOCKS = 256
"""Fading blocks of a draw, after which they come again."""

_Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class RateProcess:
    """Laps of piecewise constant rates, one for all draws or one for each, laid end to end in these arrays.

    Work is time at the mean rate: a step that holds t milliseconds at r times the mean does r * t of it.

    Attributes:
        rate: Relative rate of each step, shape (S,).
        done: Work from the beginning of the first lap to the end of each step, shape (S,); never falls.
        began_ms: Time from the beginning of its own lap to the beginning of each step, shape (S,).
        ended_ms: The same to the end.
        first: First step of each draw's lap, shape (DRAWS,).
        last: Last step of each draw's lap, shape (DRAWS,).
        start_ms: When a transfer starts in its lap, shape (DRAWS,).
    """

    rate: Array
    done: Array
    began_ms: Array
    ended_ms: Array
    first: _Index
    last: _Index
    start_ms: Array

    @classmethod
    def of(cls, rate: Array, held_ms: Array, start_ms: Array) -> RateProcess:
        """Lay laps end to end.

        Args:
            rate: Relative rates, shape (1, N), one lap for all draws, or (DRAWS, N); not all 0 in any lap.
            held_ms: How long each holds, shape (N,).
            start_ms: When each draw starts, shape (DRAWS,), less than a lap.
        """
        laps, steps = rate.shape
        ended = np.cumsum(held_ms)
        first = np.broadcast_to(np.arange(laps) * steps, DRAWS)
        return cls(rate.ravel(), np.cumsum(rate * held_ms), np.tile(np.append(0.0, ended[:-1]), laps),
                   np.tile(ended, laps), first, first + steps - 1, start_ms)

    def taken_ms(self, work_ms: Array) -> Array:
        """How long transfers take.

        Never falls as there is more to send, to the last bit: every step of the calculation rounds monotonically.

        Args:
            work_ms: How long they would take at the mean rate, shape (N, DRAWS).

        Returns:
            Milliseconds, shape (N, DRAWS).
        """
        before = np.where(self.first > 0, self.done[self.first - 1], 0.0)
        lap_work, lap_ms = self.done[self.last] - before, self.ended_ms[self.last]
        # work of the lap that is over when the transfer starts: from there on, everything is counted from a lap's begin
        lap = self.ended_ms[: self.last[0] + 1]
        step = np.minimum(np.searchsorted(lap, self.start_ms, side="right"), len(lap) - 1) + self.first
        over = np.where(step > 0, self.done[step - 1], 0.0) - before
        work = work_ms + (over + self.rate[step] * (self.start_ms - self.began_ms[step]))
        # whole laps need no look-up; what is left is found in one lap
        laps = np.floor(work / lap_work)
        within = np.clip(work - laps * lap_work, 0.0, lap_work) + before
        # rounding may put it beyond the ends of its lap
        step = np.clip(np.searchsorted(self.done, within), self.first, self.last)
        begun = np.where(step > 0, self.done[step - 1], 0.0)
        rate = self.rate[step]
        more = np.divide(within - begun, rate, out=np.zeros_like(within), where=rate > 0)
        reached = np.clip(self.began_ms[step] + more, self.began_ms[step], self.ended_ms[step])
        taken: Array = np.maximum(laps * lap_ms + reached - self.start_ms, 0.0)
        return taken


def rate_process_of(channel: ChannelProfile) -> RateProcess | None:
    """How the uplink's rate moves around its mean; `None` where it stands still."""
    if channel.trace is not None:
        # rates are relative to the mean: traces that differ in the factor alone share one process
        return _trace(channel.trace.model_copy(update={"factor": 1.0}))
    if channel.shannon is None or (channel.rayleigh is None and channel.shadowing is None):
        return None
    coherence_ms = None if channel.rayleigh is None else channel.rayleigh.coherence_ms.value
    sigma_db = 0.0 if channel.shadowing is None else channel.shadowing.sigma_db.value
    mean = mean_bits_per_hz(channel.shannon, channel.rayleigh, channel.shadowing)
    shannon = channel.shannon
    return _fading(shannon.snr_db.value, shannon.efficiency.value, shannon.most, coherence_ms, sigma_db, mean)


def typical_kbps_and_jitter_ms(channel: ChannelProfile) -> tuple[float, float]:
    """A moving rate in two numbers.

    Returns:
        The rate that half of the transmissions of a full packet reach, kilobits per second, and by how many
        milliseconds the slowest twentieth of them exceed that; the channel's own rate and 0 where it stands still.
    """
    process, mean_kbps = rate_process_of(channel), channel.uplink_kbps.value
    if process is None:
        return mean_kbps, 0.0
    packet_bits = 8.0 * (channel.packet_bytes.value + channel.packet_overhead_bytes.value)
    p50_ms, p95_ms = quantile(process.taken_ms(np.full((1, DRAWS), packet_bits / mean_kbps)), 0.5, 0.95)
    return packet_bits / p50_ms.item(), p95_ms.item() - p50_ms.item()


@lru_cache(maxsize=32)
def _trace(trace: Trace) -> RateProcess:
    samples = trace.samples
    # nobody knows when in the trace a transfer starts
    start_ms = uniform("uplink trace") * samples.held_ms.sum()
    return RateProcess.of(samples.rate_kbps[None, :] / samples.mean_kbps, samples.held_ms, start_ms)


@lru_cache(maxsize=32)
def _fading(snr_db: float, efficiency: float, most: float, coherence_ms: float | None, sigma_db: float,
            mean: float) -> RateProcess:
    """Fading blocks of every draw; without Rayleigh fading one block, as long as it takes."""
    # without Rayleigh fading the ratio holds for the whole transfer, however long that takes
    blocks = 1 if coherence_ms is None else BLOCKS
    held_ms = 1.0 if coherence_ms is None else coherence_ms
    snr = 10.0 ** ((snr_db + sigma_db * normal("uplink shadowing")[:, None]) / 10.0)
    if coherence_ms is not None:
        snr = snr * exponential("uplink fading", blocks)
    rate = bits_per_hz(snr, efficiency, most) / mean
    start_ms = uniform("uplink block") * held_ms
    return RateProcess.of(rate, np.full(blocks, held_ms), start_ms)
