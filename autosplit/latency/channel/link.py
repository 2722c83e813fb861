"""What a transfer and its answer take on a channel, as a distribution that depends on the payload alone.

In two steps, because a search asks for thousands of payloads on one channel:

1. **Once per channel**, `Link` works out `POINTS` draws of the time for a series of payloads, its *nodes*: the ends of
   packets, and sizes in between while packets are few. The draws are a lattice over access delays, retransmissions and
   fading, so their quantiles are right to a few hundredths of a percent of probability; `LEVELS` of them are kept.
   Time that the payload takes for certain is left out and added later, so that it is exact.
2. **Once per plan**, the payload's distribution over images is cut into `SIZES` equally probable sizes. Each is paired
   with `LEVELS / SIZES` quantiles, interpolated linearly between the nodes around it: quantile and size of pair i are
   those of a lattice in the plane.

Draws, quantiles and interpolation keep the order of payloads, so a larger one is nowhere predicted faster.

Policies are trained under hundreds of channels that are asked once each. For them there is a coarse resolution, with
every sixteenth point of the lattice and an eighth of the quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.profiles import ChannelProfile
from autosplit.latency.channel.rate_process import rate_process_of
from autosplit.latency.channel.retransmissions import retransmissions
from autosplit.latency.random import POINTS, Z95, lognormal_ms, quantile, standard_normal, uniform

__all__ = ["COARSE", "FINE", "LEVELS", "SIZES", "Link", "Resolution", "link_of", "sizes_bytes"]

LEVELS = 1024
"""Quantiles that are kept of a node; probabilities have this resolution."""

SIZES = 128
"""Different sizes of a plan's payload."""



@dataclass(frozen=True)
class Resolution:
    """How finely distributions are worked out.

    Attributes:
        step: Every so manieth point of the lattice is used.
        levels: Quantiles of a node.
        sizes: Sizes of a plan's payload.
        uplink_sizes: The first of those that the uplink alone is computed for, and the step to the next: fewer are
            enough for medians and means.
        uplink_levels: Quantiles of the uplink alone.
    """

    step: int
    levels: int
    sizes: int
    uplink_sizes: tuple[int, int]
    uplink_levels: int


FINE = Resolution(1, LEVELS, SIZES, (1, 5), 208)  # 26 of the sizes, as many small as large ones
COARSE = Resolution(16, 128, 16, (0, 1), 128)

_FEW = 16  # packets up to which the last one's size matters where it is sent again
_MANY = 4096  # packets up to which every number of them has a node
_Index = NDArray[np.intp]


def sizes_bytes(mean_bytes: Array, p95_bytes: Array, resolution: Resolution = FINE) -> Array:
    """Payload of N plans over images: a normal distribution with this mean and 95th percentile, cut off at 0.

    Args:
        mean_bytes: Shape (N,).
        p95_bytes: Shape (N,); at least the mean.
        resolution: How many sizes.

    Returns:
        Equally probable sizes, bytes, ascending, shape (N, resolution.sizes).
    """
    # the 95th percentile of a normal distribution is mean + sigma * Z95
    sigma = (p95_bytes - mean_bytes) / Z95
    sizes: Array = np.maximum(mean_bytes[:, None] + sigma[:, None] * _normal_sizes(resolution.sizes), 0.0)
    return sizes


@lru_cache(maxsize=512)  # a policy is trained under some hundred channels, asked again and again
def link_of(channel: ChannelProfile, result_bytes: float, resolution: Resolution = FINE) -> Link:
    """The link of a channel; equal channels share one, and what has been worked out for it."""
    return Link(channel, result_bytes, resolution)


class Link:
    """A channel, with the nodes that have been worked out so far.

    Args:
        channel: The profile.
        result_bytes: Size of the answer; a plan without one does not wait for it.
        resolution: How finely distributions are worked out.

    Attributes:
        down_median_ms: Median time of the answer.
        waits_ms: Mean access delay of the uplink and mean time of the answer, together.

    Raises:
        ConfigError: Packets without payload, a rate of zero, or a loss of one: nothing ever arrives; or percentiles of
            the access delay that contradict each other.
    """

    def __init__(self, channel: ChannelProfile, result_bytes: float, resolution: Resolution = FINE) -> None:
        for name in ("packet_bytes", "uplink_kbps", "downlink_kbps"):
            if getattr(channel, name).value <= 0:
                raise ConfigError(f"channel {channel.name!r}: {name} must be above 0")
        if channel.packet_loss.value >= 1:
            raise ConfigError(f"channel {channel.name!r}: packet_loss must be below 1, "
                              f"got {channel.packet_loss.value:g}")
        self._resolution, step = resolution, resolution.step
        process = rate_process_of(channel)
        self._channel, self._process = channel, process and process.every(step)
        self._packet_bytes, self._overhead_bytes = channel.packet_bytes.value, channel.packet_overhead_bytes.value
        access = (channel.access_ms_p50.value, channel.access_ms_p95.value, f"channel {channel.name!r}")
        self._access_ms = lognormal_ms("uplink access", *access)[::step]
        self._down_ms = np.zeros(POINTS // step)
        if result_bytes > 0:
            packets = max(1, int(np.ceil(result_bytes / self._packet_bytes)))
            air_bytes, again = self._sent(packets, result_bytes - (packets - 1) * self._packet_bytes)
            down_ms = air_bytes * 8.0 / channel.downlink_kbps.value + again * channel.retransmit_ms.value
            # retransmissions come in ascending order, which is the uplink's: here they take that of their coordinate
            order = (uniform("downlink retries")[::step] * len(down_ms)).astype(np.intp)
            self._down_ms = lognormal_ms("downlink access", *access)[::step] + down_ms[order]
        self.down_median_ms = quantile(self._down_ms.copy(), 0.5)[0].item()
        self.waits_ms = float(self._access_ms.mean() + self._down_ms.mean())
        self._packets, self._bytes = _nodes(self._packet_bytes, self._overhead_bytes)
        # nodes that are enough where no sharp step of the distribution has to be met: every thirtieth part of a size
        spaced = np.unique(np.searchsorted(self._packets, np.geomspace(_FEW, self._packets[-1], 400)))
        self._spaced = np.union1d(np.flatnonzero(self._packets <= _FEW), spaced)
        count = len(self._bytes)
        self._every = np.arange(count)
        self._known = np.zeros(count, dtype=np.bool_)
        # single precision: thousands of plans are a matter of memory
        self._total_ms, self._uplink_ms = (np.empty((count, n), dtype=np.float32)
                                           for n in (resolution.levels, resolution.uplink_levels))
        self._air_ms, self._wait_ms = np.empty(count), np.empty(count)

    def sent(self, payload_bytes: Array, before_ms: Array) -> tuple[Array, Array, Array, Array]:
        """Send payloads.

        Args:
            payload_bytes: Sizes of N plans, ascending, shape (N, SIZES), or (N, 1) of plans whose payload has one size;
                an empty payload still takes one packet.

            before_ms: What is added to the whole time, shape (N,).

        Returns:
            Draws of the whole time, shape (N, LEVELS), and of the uplink alone, shape (N, fewer); mean time on the air
            and mean wait before retransmissions, shape (N,). Milliseconds.
        """
        # a payload of one size has the very number of packets, whose retransmissions are steps that stay sharp
        sharp = payload_bytes.shape[1] == 1 and self._process is None
        nodes = self._every if sharp else self._spaced
        ends = self._bytes[nodes]
        position = np.clip(np.searchsorted(ends, payload_bytes), 1, len(nodes) - 1)
        below, above = nodes[position - 1], nodes[position]
        share = (payload_bytes - ends[position - 1]) / (ends[position] - ends[position - 1])
        if sharp:
            packets = self._packets[above]
            share[(packets > _FEW) & (packets <= _MANY)] = 1.0
        for met in (below, above):
            if not self._known[met].all():
                for node in np.unique(met[~self._known[met]]).tolist():
                    self._work_out(node)
        certain_ms = self._certain_ms(payload_bytes)
        total_ms = _paired(self._total_ms, below, above, share, certain_ms + before_ms[:, None])
        if payload_bytes.shape[1] > 1:
            some = slice(self._resolution.uplink_sizes[0], None, self._resolution.uplink_sizes[1])
            below, above, share, certain_ms = below[:, some], above[:, some], share[:, some], certain_ms[:, some]
        uplink_ms = _paired(self._uplink_ms, below, above, share, certain_ms)
        air_ms, wait_ms = (v[below] + share * (v[above] - v[below]) for v in (self._air_ms, self._wait_ms))
        return total_ms, uplink_ms, (certain_ms + air_ms).mean(axis=1), wait_ms.mean(axis=1)

    def _certain_ms(self, payload_bytes: Array) -> Array:
        """Time on the air without retransmissions, any shape; nothing is certain where the rate moves."""
        if self._process is not None:
            return np.zeros(payload_bytes.shape)
        packets = np.maximum(np.ceil(payload_bytes / self._packet_bytes), 1.0)
        return (payload_bytes + packets * self._overhead_bytes) * (8.0 / self._channel.uplink_kbps.value)

    def _work_out(self, node: int) -> None:
        """Fill in one node."""
        packets = int(self._packets[node])
        last_bytes = self._bytes[node] - (packets - 1) * self._packet_bytes
        air_bytes, again = self._sent(packets, last_bytes)
        per_byte, wait_ms = 8.0 / self._channel.uplink_kbps.value, again * self._channel.retransmit_ms.value
        if self._process is None:
            air_ms = (air_bytes - self._bytes[node] - packets * self._overhead_bytes) * per_byte
        else:
            air_ms = self._process.taken_ms(air_bytes * per_byte, again, self._channel.retransmit_ms.value)
        uplink_ms = self._access_ms + air_ms + wait_ms
        for table, draws in ((self._total_ms, uplink_ms + self._down_ms),
                             (self._uplink_ms, uplink_ms[::8 if self._resolution is FINE else 1])):
            draws = np.sort(draws)
            table[node] = draws[((_order(table.shape[1]) + 0.5) * (len(draws) / table.shape[1])).astype(np.intp)]
        self._air_ms[node], self._wait_ms[node] = air_ms.mean(), wait_ms.mean()
        self._known[node] = True

    def _sent(self, packets: int, last_bytes: float) -> tuple[Array, Array]:
        """Bytes on the air, and packets sent again, whole, in ascending order, each of shape (POINTS / step,)."""
        bursts = self._channel.bursts
        chain = None if bursts is None else bursts.chain
        # counts of all packets and of the full ones are taken at the same level: the last packet has the difference
        full_again, again = (retransmissions(n, self._channel.packet_loss.value, chain, self._resolution.step)
                             for n in (packets - 1, packets))
        full, last = self._packet_bytes + self._overhead_bytes, last_bytes + self._overhead_bytes
        air_bytes: Array = (packets - 1 + full_again) * full + (1 + again - full_again) * last
        return air_bytes, again


@lru_cache(maxsize=64)
def _nodes(packet_bytes: float, overhead_bytes: float) -> tuple[Array, Array]:
    """Number of packets and payload, bytes, of all nodes, ascending.

    While packets are few, the end of one is also a node as the beginning of the next.
    """
    smallest = max(overhead_bytes, packet_bytes / 64)
    steps = 2 + int(np.log1p(packet_bytes / smallest) / np.log(1.3))
    first = (np.geomspace(smallest, smallest + packet_bytes, steps) - smallest) / packet_bytes
    first[0], first[-1] = 0.0, 1.0
    shares = np.concatenate([first, *[np.array([0.0, 0.5, 1.0])] * (_FEW - 1)])
    few = np.repeat(np.arange(1.0, _FEW + 1), [steps, *[3] * (_FEW - 1)])
    more = np.append(np.arange(_FEW + 1.0, _MANY + 1), np.unique(np.round(np.geomspace(_MANY, 2**24, 421)))[1:])
    return np.append(few, more), np.append(few - 1 + shares, more) * packet_bytes


def _paired(table: NDArray[np.float32], below: _Index, above: _Index, share: Array, certain_ms: Array) -> Array:
    """Quantiles of each size, from the nodes below and above, shape (N, columns of the table)."""
    sizes = share.shape[1]
    by_size = table.reshape(-1, table.shape[1] // sizes)
    share, certain_ms = share.astype(table.dtype), certain_ms.astype(table.dtype)
    drawn = by_size.take(below * sizes + np.arange(sizes), axis=0)
    step = by_size.take(above * sizes + np.arange(sizes), axis=0)
    step -= drawn
    step *= share[:, :, None]
    drawn += step
    drawn += certain_ms[:, :, None]
    draws: NDArray[Any] = drawn.reshape(len(above), -1)
    return draws


@cache
def _order(count: int) -> _Index:
    """Ranks of the quantiles that are paired with ascending sizes, shape (count,)."""
    # of the lattices of 1,024 points, this generator's has the most even sums of a normal and some other coordinate
    return np.arange(count) * {FINE.levels: 173, FINE.uplink_levels: 83, COARSE.levels: 47}[count] % count


@cache
def _normal_sizes(count: int) -> Array:
    return standard_normal((np.arange(count) + 0.5) / count)
