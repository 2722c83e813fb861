"""How a channel's rate moves while something is sent, as draws: fading blocks and traces are one thing here.

A rate process is a step function of time. Its rates are relative to the channel's mean rate, so what a transfer needs
is counted in milliseconds at that mean, and scaling a channel leaves its process alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.fading import Rayleigh, Shannon, Trace, bits_per_hz, faded_bits_per_hz, mean_bits_per_hz
from autosplit.core.profiles import ChannelProfile
from autosplit.latency.random import POINTS, normal, quantile, uniform

__all__ = ["BLOCKS", "RateProcess", "rate_process_of", "typical_kbps_and_jitter_ms"]

_Index = NDArray[np.intp]

BLOCKS = 64
"""Fading blocks of a draw that are drawn one by one."""


@dataclass(frozen=True, eq=False)
class RateProcess:
    """Piecewise constant rates, the same for all draws or each its own.

    Work is time at the mean rate: a step that holds t milliseconds at r times the mean does r * t of it.

    Attributes:
        done: Work from the beginning to the beginning of each step, and to the end of the last, shape (1 or POINTS,
            S + 1); never falls.
        began_ms: When each step begins, and when the last one ends, shape (S + 1,).
        start_ms: When a transfer starts, shape (POINTS,).
        mean: Rate beyond the last step, shape (POINTS,). The steps' own mean comes nearer to it with the root of the
            time, as that of further independent steps would; `None` where the steps come again, lap after lap.
    """

    done: Array
    began_ms: Array
    start_ms: Array
    mean: Array | None

    def every(self, step: int) -> RateProcess:
        """The process of every so manieth draw alone."""
        done = self.done[::step] if len(self.done) > 1 else self.done
        return RateProcess(done, self.began_ms, self.start_ms[::step], None if self.mean is None else self.mean[::step])

    def taken_ms(self, work_ms: Array, again: Array | None = None, wait_ms: float = 0.0) -> Array:
        """How long transfers take on the air; neither this nor its sum with the waits falls with more to send.

        Args:
            work_ms: How long they would take at the mean rate, shape (POINTS,).
            again: How many times they wait meanwhile, shape (POINTS,), spread evenly over at most four places, of
                which the first is drawn uniformly.
            wait_ms: For how long each time; the rate moves on.

        Returns:
            Milliseconds without the waits, shape (POINTS,).
        """
        count = len(self.start_ms)
        every = np.arange(count)
        done = self._done_at(every, self.start_ms)
        needed, waited = done + work_ms, np.zeros(count) if again is None else again * wait_ms
        paused = np.flatnonzero(waited)
        if again is not None and len(paused):
            # a further wait leaves the places of those before it alone, so it can only delay the end
            places = (uniform("pause")[:: POINTS // count][paused, None] + np.array([0.0, 0.5, 0.25, 0.75])) % 1.0
            pauses = (again[paused, None] + np.array([3, 2, 1, 0])) // 4 * wait_ms
            order = np.argsort(places, axis=1)
            places, pauses = (np.take_along_axis(v, order, axis=1) for v in (places, pauses))
            work, done, before = work_ms[paused], done[paused], np.zeros(len(paused))
            for place, pause in zip(places.T, pauses.T, strict=True):
                done += (place - before) * work
                before, here = place, np.flatnonzero(pause)
                reached = self._reached_ms(paused[here], done[here])
                done[here] = self._done_at(paused[here], reached + pause[here])
            needed[paused] = done + (1.0 - before) * work
        return np.maximum(self._reached_ms(every, needed) - self.start_ms - waited, 0.0)

    def _done_at(self, draws: _Index, time_ms: Array) -> Array:
        """Work from the beginning until a time, of some draws."""
        lap_ms, rows = self.began_ms[-1], draws if len(self.done) > 1 else np.zeros_like(draws)
        lap_work = self.done[rows, -1]
        laps = np.floor(time_ms / lap_ms) if self.mean is None else np.zeros(1)
        within = np.minimum(time_ms - laps * lap_ms, lap_ms)
        step = np.clip(np.searchsorted(self.began_ms, within, side="right"), 1, len(self.began_ms) - 1)
        low, high = self.done[rows, step - 1], self.done[rows, step]
        share = (within - self.began_ms[step - 1]) / (self.began_ms[step] - self.began_ms[step - 1])
        done: Array = laps * lap_work + low + share * (high - low)
        if self.mean is not None:
            mean, beyond = self.mean[draws], np.maximum(time_ms, lap_ms)
            later = mean * beyond + (lap_work - mean * lap_ms) * np.sqrt(beyond / lap_ms)
            done = np.where(time_ms > lap_ms, later, done)
        return done

    def _reached_ms(self, draws: _Index, work: Array) -> Array:
        """When so much work is done, counted from the beginning, in some draws."""
        lap_ms, rows = self.began_ms[-1], draws if len(self.done) > 1 else np.zeros_like(draws)
        lap_work = self.done[rows, -1]
        laps = np.floor(work / lap_work) if self.mean is None else np.zeros(1)
        within = np.clip(work - laps * lap_work, 0.0, lap_work)
        # the first boundary at which so much is done, by bisection in all draws at once
        step, high = np.ones_like(rows), np.full_like(rows, self.done.shape[1] - 1)
        while (step < high).any():
            middle = (step + high) // 2
            enough = self.done[rows, middle] >= within
            step, high = np.where(enough, step, middle + 1), np.where(enough, middle, high)
        low, after = self.done[rows, step - 1], self.done[rows, step]
        share = np.divide(within - low, after - low, out=np.zeros(len(rows)), where=after > low)
        began = self.began_ms[step - 1]
        reached: Array = laps * lap_ms + began + share * (self.began_ms[step] - began)
        if self.mean is not None:
            # the inverse of what `_done_at` has beyond the last step, in the root of the time
            mean = self.mean[draws]
            half = (lap_work / lap_ms - mean) * lap_ms**0.5 / (2 * mean)
            root = np.sqrt(half**2 + np.maximum(work, lap_work) / mean) - half
            reached = np.where(work > lap_work, root**2, reached)
        return reached


def rate_process_of(channel: ChannelProfile) -> RateProcess | None:
    """How the uplink's rate moves around its mean; `None` where it stands still."""
    if channel.trace is not None:
        # rates are relative to the mean: traces that differ in the factor alone share one process
        return _trace(channel.trace.model_copy(update={"factor": 1.0}))
    if channel.shannon is None or (channel.rayleigh is None and channel.shadowing is None):
        return None
    sigma_db = 0.0 if channel.shadowing is None else channel.shadowing.sigma_db.value
    mean = mean_bits_per_hz(channel.shannon, channel.rayleigh, channel.shadowing)
    # the bandwidth scales the mean alone
    shannon = channel.shannon.scaled(1.0 / channel.shannon.bandwidth_khz.value)
    return _fading(shannon, channel.rayleigh, sigma_db, mean)


def typical_kbps_and_jitter_ms(channel: ChannelProfile) -> tuple[float, float]:
    """A moving rate in two numbers.

    Returns:
        The rate that half of the transmissions of a full packet reach, kilobits per second, and by how many
        milliseconds the slowest twentieth of them exceed that; the channel's own rate and 0 where it stands still.
    """
    process, mean_kbps = rate_process_of(channel), channel.uplink_kbps.value
    if process is None:
        return mean_kbps, 0.0
    p50_ms, p95_ms = quantile(process.taken_ms(np.full(POINTS, channel.packet_bits / mean_kbps)), 0.5, 0.95)
    return channel.packet_bits / p50_ms.item(), p95_ms.item() - p50_ms.item()


@lru_cache(maxsize=32)
def _trace(trace: Trace) -> RateProcess:
    samples = trace.samples
    began_ms = np.append(0.0, np.cumsum(samples.held_ms))
    done = np.append(0.0, np.cumsum(samples.rate_kbps / samples.mean_kbps * samples.held_ms))
    # nobody knows when in the trace a transfer starts
    return RateProcess(done[None, :], began_ms, uniform("start") * began_ms[-1], None)


@lru_cache(maxsize=8)
def _fading(shannon: Shannon, rayleigh: Rayleigh | None, sigma_db: float, mean: float) -> RateProcess:
    """Fading blocks of every draw; without Rayleigh fading one block, as long as it takes."""
    shift_db = sigma_db * normal("shadowing")
    snr = 10.0 ** ((shannon.snr_db.value + shift_db) / 10.0)
    if rayleigh is None:
        rate: Array = bits_per_hz(snr, shannon.efficiency.value, shannon.most) / mean
        done: Array = np.stack([np.zeros(POINTS), rate], axis=1)
        return RateProcess(done, np.array([0.0, 1.0]), np.zeros(POINTS), rate)
    # the first blocks decide about most transfers and have coordinates of the lattice; the others are random
    power = np.random.default_rng(0).standard_exponential((POINTS, BLOCKS))
    power[:, :3] = np.stack([-np.log1p(-uniform(q)) for q in ("first block", "second block", "third block")], axis=1)
    held_ms = rayleigh.coherence_ms.value
    rate = bits_per_hz(snr[:, None] * power, shannon.efficiency.value, shannon.most) / mean
    done = np.concatenate([np.zeros((POINTS, 1)), np.cumsum(rate * held_ms, axis=1)], axis=1)
    # the mean over fading of each draw's shadow, interpolated in decibels
    nodes_db = np.linspace(-8.0, 8.0, 401) * sigma_db
    nodes: Array = 10.0 ** ((shannon.snr_db.value + nodes_db) / 10.0)
    means = faded_bits_per_hz(nodes, shannon.efficiency.value, shannon.most) / mean
    long_run = np.interp(shift_db, nodes_db, means)
    began_ms = np.arange(BLOCKS + 1, dtype=np.float64) * held_ms
    return RateProcess(done, began_ms, uniform("start") * held_ms, long_run)
