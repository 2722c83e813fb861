"""One direction of a channel in real time: when a packet has arrived, drawn packet by packet.

The latency models predict the same link from 256 draws in closed formulas. This one shares nothing with them but the
profile: it draws what happens to each packet when that is sent, so that a prediction can be held against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from autosplit.core.profiles import ChannelProfile

__all__ = ["DIRECTIONS", "Direction", "Radio", "Rate"]

Direction = Literal["uplink", "downlink"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_Z95 = 1.6448536269514722  # 95th percentile of the standard normal distribution
_NEVER_S = 86_400.0


class Rate(Protocol):
    """What a rate does over time."""

    def new_transfer(self) -> None:
        """A transfer begins."""

    def end_s(self, start_s: float, kilobits: float) -> float:
        """When so much has been sent, from a given time on, both in seconds."""


@dataclass(frozen=True)
class ConstantRate:
    """A rate that never changes.

    Attributes:
        kbps: Kilobits per second.
    """

    kbps: float

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""

    def end_s(self, start_s: float, kilobits: float) -> float:
        """See `Rate.end_s`."""
        return start_s + kilobits / self.kbps


class TraceRate:
    """Recorded rates in a loop.

    Args:
        kbps: Rates.
        held_s: How long each holds.
        offset_s: Where in the loop time 0 is.
    """

    def __init__(self, kbps: list[float], held_s: list[float], offset_s: float) -> None:
        self._kbps, self._offset_s = kbps, offset_s
        self._ends = np.cumsum(held_s).tolist()

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""

    def end_s(self, start_s: float, kilobits: float) -> float:
        """See `Rate.end_s`."""
        now, lap_s = start_s + self._offset_s, self._ends[-1]
        while now < start_s + _NEVER_S:
            lap = math.floor(now / lap_s) * lap_s
            row = min(int(np.searchsorted(self._ends, now - lap, side="right")), len(self._ends) - 1)
            until = max(lap + self._ends[row], math.nextafter(now, math.inf))
            sendable = self._kbps[row] * (until - now)
            if sendable >= kilobits:
                return now + kilobits / self._kbps[row] - self._offset_s
            kilobits -= sendable
            now = until
        return start_s + _NEVER_S


class FadingRate:
    """Shannon's rate with Rayleigh blocks, with shadowing from transfer to transfer, or with both.

    Args:
        channel: Its blocks `shannon`, `rayleigh` and `shadowing`.
        rng: Draws the fading.
    """

    def __init__(self, channel: ChannelProfile, rng: np.random.Generator) -> None:
        assert channel.shannon is not None
        self._shannon, self._rng = channel.shannon, rng
        self._sigma_db = 0.0 if channel.shadowing is None else channel.shadowing.sigma_db.value
        self._block_s = math.inf if channel.rayleigh is None else channel.rayleigh.coherence_ms.value / 1000.0
        self._block, self._power, self._shadow_db = -1, 1.0, 0.0

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""
        self._shadow_db = self._rng.normal(0.0, self._sigma_db)

    def end_s(self, start_s: float, kilobits: float) -> float:
        """See `Rate.end_s`."""
        if math.isinf(self._block_s):
            return start_s + kilobits / self._kbps()
        now = start_s
        while now < start_s + _NEVER_S:
            block = math.floor(now / self._block_s + 1e-9)
            if block != self._block:
                self._block, self._power = block, self._rng.exponential()
            until, kbps = (block + 1) * self._block_s, self._kbps()
            if kbps * (until - now) >= kilobits:
                return now + kilobits / kbps
            kilobits -= kbps * (until - now)
            now = until
        return start_s + _NEVER_S

    def _kbps(self) -> float:
        shannon = self._shannon
        snr = self._power * 10.0 ** ((shannon.snr_db.value + self._shadow_db) / 10.0)
        bits_per_hz = min(shannon.efficiency.value * math.log2(1.0 + snr), shannon.most)
        return max(1e-9, shannon.bandwidth_khz.value * bits_per_hz)


class Radio:
    """Sends packets in one direction of a channel, one after the other.

    Args:
        channel: The profile.
        direction: Which way.
        seed: Of everything that is drawn.

    Attributes:
        packet_bytes: Largest payload of a packet.
        sent_packets: Transmissions so far, repeated ones too.
        lost_packets: Those of them that were lost.
    """

    def __init__(self, channel: ChannelProfile, direction: Direction, seed: int) -> None:
        self._rng = np.random.default_rng([seed, DIRECTIONS.index(direction)])
        self._channel = channel
        self._rate = _rate_of(channel, direction, self._rng)
        self.packet_bytes = max(1, int(channel.packet_bytes.value))
        self._bad = channel.bursts is not None and self._rng.random() < _share_of_bad(channel)
        self.sent_packets, self.lost_packets = 0, 0

    def start_s(self, now_s: float) -> float:
        """When a transfer that finds the channel idle may begin: after its access delay."""
        self._rate.new_transfer()
        if self._channel.bursts is not None:  # the chain was left alone for long
            self._bad = self._rng.random() < _share_of_bad(self._channel)
        p50_ms, p95_ms = self._channel.access_ms_p50.value, self._channel.access_ms_p95.value
        if p50_ms <= 0:
            return now_s
        return now_s + p50_ms * math.exp(math.log(p95_ms / p50_ms) / _Z95 * self._rng.normal()) / 1000.0

    def arrival_s(self, start_s: float, count: int) -> float:
        """When a packet has got through that is first sent at a given time.

        Args:
            start_s: Seconds.
            count: Its payload, bytes.
        """
        kilobits = (count + self._channel.packet_overhead_bytes.value) * 8.0 / 1000.0
        now = start_s
        while True:
            now = self._rate.end_s(now, kilobits)
            self.sent_packets += 1
            if not self._lost():
                return now
            self.lost_packets += 1
            now += self._channel.retransmit_ms.value / 1000.0

    def _lost(self) -> bool:
        bursts = self._channel.bursts
        if bursts is None:
            return self._rng.random() < self._channel.packet_loss.value
        loss = (bursts.bad_loss if self._bad else bursts.good_loss).value
        lost = self._rng.random() < loss
        if self._rng.random() < 1.0 / (bursts.bad_packets if self._bad else bursts.good_packets).value:
            self._bad = not self._bad
        return lost


def _rate_of(channel: ChannelProfile, direction: Direction, rng: np.random.Generator) -> Rate:
    if direction == "downlink":
        return ConstantRate(channel.downlink_kbps.value)
    if channel.trace is not None:
        samples, factor = channel.trace.samples, channel.trace.factor
        held_s = (samples.held_ms / 1000.0).tolist()
        return TraceRate((samples.rate_kbps * factor).tolist(), held_s, float(rng.uniform(0, sum(held_s))))
    if channel.rayleigh is not None or channel.shadowing is not None:
        return FadingRate(channel, rng)
    return ConstantRate(channel.uplink_kbps.value)


def _share_of_bad(channel: ChannelProfile) -> float:
    assert channel.bursts is not None
    good, bad = channel.bursts.good_packets.value, channel.bursts.bad_packets.value
    return bad / (good + bad)
