"""A channel's rate over minutes, as random series: what a queue of transfers sees, one after the other.

A latency model asks how long *one* transfer takes that starts at a random instant (`rate_process`); a stream of
pictures meets the same fade again and again, so here time goes on. Lost packets take their share of the rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.fading import bits_per_hz
from autosplit.core.profiles import ChannelProfile

__all__ = ["RateSeries", "draw_rates"]

_Index = NDArray[np.int64]

_SHADOW_MS = 10_000.0
"""How long a shadow holds; profiles do not say. Gudmundson (Electronics Letters 27, 1991) found it half forgotten after
5 m in a city and after 200 m or so in a suburb; at walking pace 10 s are 14 m."""


class RateSeries:
    """R series of rates, each of S slots, which come again from the beginning, lap after lap.

    Args:
        kbps: Rate of each slot, kilobits per second, shape (R, S); not 0 throughout in any row.
        slot_ms: Length of the slots of each row, milliseconds, shape (R,).

    Raises:
        ValueError: Shapes or values are others.
    """

    def __init__(self, kbps: Array, slot_ms: Array) -> None:
        if kbps.ndim != 2 or slot_ms.shape != kbps.shape[:1]:
            raise ValueError(f"rates have shape {kbps.shape}, lengths of slots {slot_ms.shape}; wanted are (R, S) and "
                             "(R,)")
        if not ((kbps >= 0).all() and kbps.any(axis=1).all() and (slot_ms > 0).all()):
            raise ValueError("rates must be at least 0 and not 0 in a whole row, slots longer than 0 ms")
        self.kbps, self.slot_ms = kbps, slot_ms
        bits = kbps * slot_ms[:, None]
        self._before = np.concatenate([np.zeros((len(bits), 1)), np.cumsum(bits, axis=1)], axis=1)
        self._lap = self._before[:, -1]
        # all rows on one ascending line, so that one search finds a place in any of them
        self._start = np.append(0.0, np.cumsum(self._lap))[:-1]
        self._line = (self._before[:, 1:] + self._start[:, None]).ravel()

    def __len__(self) -> int:
        return len(self.kbps)

    def rate_kbps(self, rows: _Index, time_ms: Array) -> Array:
        """Rates at some instants, kilobits per second, shape (N,).

        Args:
            rows: Which series, shape (N,).
            time_ms: When, at least 0, shape (N,).
        """
        found: Array = self.kbps[rows, self._slot(rows, time_ms)]
        return found

    def done_ms(self, rows: _Index, start_ms: Array, bits: Array) -> Array:
        """When transfers end, milliseconds, shape (N,).

        Args:
            rows: Which series, shape (N,).
            start_ms: When they start, shape (N,).
            bits: What is sent, shape (N,).
        """
        slots, slot_ms, lap = self.kbps.shape[1], self.slot_ms[rows], self._lap[rows]
        lap_ms = slots * slot_ms
        laps = np.floor(start_ms / lap_ms)
        slot = self._slot(rows, start_ms)
        sent = self._before[rows, slot] + self.kbps[rows, slot] * (start_ms - laps * lap_ms - slot * slot_ms)
        wanted = np.maximum(sent, 0.0) + bits
        more = np.floor(wanted / lap)
        wanted -= more * lap
        end = np.searchsorted(self._line, self._start[rows] + wanted) - rows * slots
        end = np.clip(end, 0, slots - 1)  # a rounding error of the line may point beyond the row
        rate = self.kbps[rows, end]
        into = np.divide(wanted - self._before[rows, end], rate, out=np.zeros(len(rows)), where=rate > 0)
        found: Array = (laps + more) * lap_ms + end * slot_ms + np.clip(into, 0.0, slot_ms)
        return np.maximum(found, start_ms)

    def _slot(self, rows: _Index, time_ms: Array) -> _Index:
        found: _Index = (time_ms / self.slot_ms[rows]).astype(np.int64) % self.kbps.shape[1]
        return found


def draw_rates(channel: ChannelProfile, rows: int, slots: int, slot_ms: float, rng: np.random.Generator) -> Array:
    """Draw what the uplink carries over time.

    Fading is drawn anew from block to block, shadowing every ten seconds; a trace starts at a random instant; bursts of
    losses last as long as so many full packets at the mean rate. Of the rate on the air lost packets, and the waits
    before they are sent again, take their share.

    Args:
        channel: The channel.
        rows: Number of series R.
        slots: Length of each, S slots.
        slot_ms: Length of a slot, milliseconds.
        rng: Draws.

    Returns:
        Kilobits per second, shape (R, S).
    """
    length_ms = slots * slot_ms
    mean = channel.uplink_kbps.value
    kbps = np.full((rows, slots), mean)
    if channel.trace is not None:
        samples = channel.trace.samples
        ends = np.cumsum(samples.held_ms)
        laps = int(np.ceil(length_ms / ends[-1])) + 1
        held, rates = np.tile(samples.held_ms, laps), np.tile(samples.rate_kbps * channel.trace.factor, laps)
        kbps = np.stack([_on_slots(held, rates, slots, slot_ms, start) for start in rng.random(rows) * ends[-1]])
    elif channel.shannon is not None and not (channel.rayleigh is None and channel.shadowing is None):
        shannon, block_ms = channel.shannon, slot_ms
        if channel.rayleigh is not None:
            block_ms = channel.rayleigh.coherence_ms.value
        blocks = int(np.ceil(length_ms / block_ms)) + 1
        db = np.full((rows, blocks), shannon.snr_db.value)
        if channel.shadowing is not None:
            shadow = channel.shadowing.sigma_db.value * rng.standard_normal((rows, int(length_ms // _SHADOW_MS) + 2))
            db += shadow[:, (np.arange(blocks) * block_ms // _SHADOW_MS).astype(np.int64)]
        power = rng.standard_exponential((rows, blocks)) if channel.rayleigh is not None else 1.0
        rates = shannon.bandwidth_khz.value * bits_per_hz(
            10.0 ** (db / 10.0) * power, shannon.efficiency.value, shannon.most)
        kbps = np.stack([_on_slots(np.full(blocks, block_ms), row, slots, slot_ms, start)
                         for row, start in zip(rates, rng.random(rows) * block_ms, strict=True)])
    packet_ms = channel.packet_bits / mean
    if channel.bursts is None:
        return kbps * _goodput(channel.packet_loss.value, packet_ms, channel)
    good, bad, good_packets, bad_packets = channel.bursts.chain
    shares = np.array([_goodput(loss, packet_ms, channel) for loss in (good, bad)])
    means_ms = np.array([good_packets, bad_packets]) * packet_ms
    return kbps * np.stack([_two_states(shares, means_ms, slots, slot_ms, rng) for _ in range(rows)])


def _goodput(loss: float, packet_ms: float, channel: ChannelProfile) -> float:
    """Share of the rate that is left beside packets sent again and the waits before that."""
    return (1.0 - loss) * packet_ms / (packet_ms + loss * channel.retransmit_ms.value)


def _two_states(values: Array, means_ms: Array, slots: int, slot_ms: float, rng: np.random.Generator) -> Array:
    """A series that holds two values in turn, each for an exponential time, shape (S,)."""
    length_ms, held, state = slots * slot_ms, list[float](), int(rng.random() < means_ms[1] / means_ms.sum())
    first = state
    while sum(held) < length_ms:
        held.append(rng.exponential(means_ms[state]))
        state = 1 - state
    return _on_slots(np.array(held), values[(first + np.arange(len(held))) % 2], slots, slot_ms, 0.0)


def _on_slots(held_ms: Array, values: Array, slots: int, slot_ms: float, start_ms: float) -> Array:
    """Means over slots of what is piecewise constant, shape (S,)."""
    ends, sums = np.append(0.0, np.cumsum(held_ms)), np.append(0.0, np.cumsum(held_ms * values))
    means: Array = np.diff(np.interp(start_ms + np.arange(slots + 1) * slot_ms, ends, sums)) / slot_ms
    return means
