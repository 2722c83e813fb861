"""One direction of a channel in real time: when a packet has arrived, drawn packet by packet.

The latency models predict the same link from quantiles. This one shares nothing with them but the profile: it draws
what happens to each packet when that is sent, so that a prediction can be held against it. It sends over any number of
links at once, each with its own chance: one in a proxy, many thousands where distributions are compared.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.profiles import ChannelProfile

__all__ = ["DIRECTIONS", "Direction", "Radio", "Rate"]

Direction = Literal["uplink", "downlink"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_Z95 = 1.6448536269514722  # 95th percentile of the standard normal distribution
_NEVER_S = 86_400.0


_Index = NDArray[np.intp]


class Rate(Protocol):
    """What a rate does over time, on so many links."""

    def new_transfer(self) -> None:
        """A transfer begins on every link."""

    def end_s(self, links: _Index, start_s: Array, kilobits: float) -> Array:
        """When so much has been sent on some links, from given times on, seconds."""


class ConstantRate:
    """A rate that never changes.

    Args:
        kbps: Kilobits per second.
    """

    def __init__(self, kbps: float) -> None:
        self._kbps = kbps

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""

    def end_s(self, links: _Index, start_s: Array, kilobits: float) -> Array:
        """See `Rate.end_s`."""
        ended: Array = start_s + np.full(len(links), kilobits / self._kbps)
        return ended


class TraceRate:
    """Recorded rates in a loop.

    Args:
        kbps: Rates.
        held_s: How long each holds.
        offset_s: Where in the loop time 0 is, one a link.
    """

    def __init__(self, kbps: Array, held_s: Array, offset_s: Array) -> None:
        self._offset_s = offset_s
        self._ends_s = np.append(0.0, np.cumsum(held_s))
        self._sent = np.append(0.0, np.cumsum(kbps * held_s))

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""

    def end_s(self, links: _Index, start_s: Array, kilobits: float) -> Array:
        """See `Rate.end_s`."""
        lap_s, lap_kb = self._ends_s[-1], self._sent[-1]
        laps, within = np.divmod(start_s + self._offset_s[links], lap_s)
        more, sent = np.divmod(np.interp(within, self._ends_s, self._sent) + kilobits, lap_kb)
        # the first instant at which so much is sent, also where nothing is sent for a while after it
        row = np.clip(np.searchsorted(self._sent, sent), 1, len(self._sent) - 1)
        low, high = self._sent[row - 1], self._sent[row]
        share = np.divide(sent - low, high - low, out=np.zeros(len(links)), where=high > low)
        reached = self._ends_s[row - 1] + share * (self._ends_s[row] - self._ends_s[row - 1])
        ended: Array = (laps + more) * lap_s + reached - self._offset_s[links]
        return ended


class FadingRate:
    """Shannon's rate with Rayleigh blocks, with shadowing from transfer to transfer, or with both.

    Args:
        channel: Its blocks `shannon`, `rayleigh` and `shadowing`.
        links: How many.
        rng: Draws the fading.
    """

    def __init__(self, channel: ChannelProfile, links: int, rng: np.random.Generator) -> None:
        assert channel.shannon is not None
        self._shannon, self._rng = channel.shannon, rng
        self._sigma_db = 0.0 if channel.shadowing is None else channel.shadowing.sigma_db.value
        self._block_s = np.inf if channel.rayleigh is None else channel.rayleigh.coherence_ms.value / 1000.0
        self._block, self._power, self._shadow_db = np.full(links, -1.0), np.ones(links), np.zeros(links)

    def new_transfer(self) -> None:
        """See `Rate.new_transfer`."""
        self._shadow_db = self._sigma_db * self._rng.standard_normal(len(self._shadow_db))

    def end_s(self, links: _Index, start_s: Array, kilobits: float) -> Array:
        """See `Rate.end_s`."""
        if np.isinf(self._block_s):
            return start_s + kilobits / self._kbps(links)
        now, left = start_s.copy(), np.full(len(links), kilobits)
        busy = np.arange(len(links))
        while len(busy):
            link = links[busy]
            block = np.floor(now[busy] / self._block_s + 1e-9)
            fresh = link[block != self._block[link]]
            self._power[fresh] = self._rng.exponential(size=len(fresh))
            self._block[link] = block
            until, kbps = (block + 1) * self._block_s, self._kbps(link)
            sendable = kbps * (until - now[busy])
            ends = (sendable >= left[busy]) | (until > start_s[busy] + _NEVER_S)
            now[busy] = np.where(ends, now[busy] + left[busy] / kbps, until)
            left[busy] -= sendable
            busy = busy[~ends]
        ended: Array = np.minimum(now, start_s + _NEVER_S)
        return ended

    def _kbps(self, links: _Index) -> Array:
        shannon = self._shannon
        snr = self._power[links] * 10.0 ** ((shannon.snr_db.value + self._shadow_db[links]) / 10.0)
        bits_per_hz = np.minimum(shannon.efficiency.value * np.log2(1.0 + snr), shannon.most)
        kbps: Array = np.maximum(1e-9, shannon.bandwidth_khz.value * bits_per_hz)
        return kbps


class Radio:
    """Sends packets in one direction of a channel, one after the other.

    Args:
        channel: The profile.
        direction: Which way.
        seed: Of everything that is drawn.
        links: How many links send at once, independently of each other.

    Attributes:
        packet_bytes: Largest payload of a packet.
        sent_packets: Transmissions so far on all links, repeated ones too.
        lost_packets: Those of them that were lost.
    """

    def __init__(self, channel: ChannelProfile, direction: Direction, seed: int, links: int = 1) -> None:
        self._rng = np.random.default_rng([seed, DIRECTIONS.index(direction)])
        self._channel, self._links = channel, np.arange(links)
        self._rate = _rate_of(channel, direction, links, self._rng)
        self.packet_bytes = max(1, int(channel.packet_bytes.value))
        self._bad = self._rng.random(links) < _share_of_bad(channel)
        self.sent_packets, self.lost_packets = 0, 0

    def start_s(self, now_s: Array | float) -> Array:
        """When transfers that find the channel idle may begin: after its access delay, seconds, shape (links,).

        Args:
            now_s: When they are asked for, seconds, shape (links,) or one number for all.
        """
        self._rate.new_transfer()
        if self._channel.bursts is not None:  # the chain was left alone for long
            self._bad = self._rng.random(len(self._links)) < _share_of_bad(self._channel)
        now = np.full(len(self._links), now_s, dtype=np.float64)
        p50_ms, p95_ms = self._channel.access_ms_p50.value, self._channel.access_ms_p95.value
        if p50_ms > 0:
            now += p50_ms * (p95_ms / p50_ms) ** (self._rng.standard_normal(len(now)) / _Z95) / 1000.0
        return now

    def arrival_s(self, start_s: Array | float, count: int) -> Array:
        """When a packet on each link has got through that is first sent at a given time, seconds, shape (links,).

        Args:
            start_s: Seconds, shape (links,) or one number for all.
            count: Its payload, bytes.
        """
        kilobits = (count + self._channel.packet_overhead_bytes.value) * 8.0 / 1000.0
        now, trying = np.full(len(self._links), start_s, dtype=np.float64), self._links
        while len(trying):
            now[trying] = self._rate.end_s(trying, now[trying], kilobits)
            self.sent_packets += len(trying)
            trying = trying[self._lost(trying)]
            self.lost_packets += len(trying)
            now[trying] += self._channel.retransmit_ms.value / 1000.0
        return now

    def _lost(self, links: _Index) -> NDArray[np.bool_]:
        bursts, drawn = self._channel.bursts, self._rng.random(len(links))
        if bursts is None:
            return drawn < self._channel.packet_loss.value
        bad = self._bad[links]
        lost: NDArray[np.bool_] = drawn < np.where(bad, bursts.bad_loss.value, bursts.good_loss.value)
        lasts = np.where(bad, bursts.bad_packets.value, bursts.good_packets.value)
        self._bad[links] = bad ^ (self._rng.random(len(links)) < 1.0 / lasts)
        return lost


def _rate_of(channel: ChannelProfile, direction: Direction, links: int, rng: np.random.Generator) -> Rate:
    if direction == "downlink":
        return ConstantRate(channel.downlink_kbps.value)
    if channel.trace is not None:
        samples, held_s = channel.trace.samples, channel.trace.samples.held_ms / 1000.0
        return TraceRate(samples.rate_kbps * channel.trace.factor, held_s, rng.uniform(0, held_s.sum(), links))
    if channel.rayleigh is not None or channel.shadowing is not None:
        return FadingRate(channel, links, rng)
    return ConstantRate(channel.uplink_kbps.value)


def _share_of_bad(channel: ChannelProfile) -> float:
    if channel.bursts is None:
        return 0.0
    good, bad = channel.bursts.good_packets.value, channel.bursts.bad_packets.value
    return bad / (good + bad)
