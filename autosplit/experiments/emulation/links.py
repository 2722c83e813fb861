"""What can lie between device and edge: the channel of a profile in a proxy, or the kernel's token bucket."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from autosplit.core.errors import LinkError
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile
from autosplit.experiments.emulation.hosts import Hosts, run
from autosplit.experiments.emulation.proxy import ShapingProxy

__all__ = ["KernelLink", "Link", "ProfileLink", "bare_link"]

_MTU_BYTES = 256
_ETHERNET_BYTES, _TCP_IP_BYTES = 14, 52  # with the timestamps that Linux puts into every segment
_SEGMENT_BYTES = _MTU_BYTES - _TCP_IP_BYTES
_PACKET_BYTES = _MTU_BYTES + _ETHERNET_BYTES
_NEXT_TO_NOTHING = 1e-3


class Link(Protocol):
    """A link that can be crossed, and what a latency model is told of it."""

    @property
    def name(self) -> str:
        """For tables and files."""

    @property
    def channel(self) -> ChannelProfile:
        """What the latency model is given."""

    @property
    def least_pause_ms(self) -> float:
        """How long the link must rest between two messages to be as it was."""

    def counted_bytes(self, message_bytes: int) -> float:
        """How much of a message the latency model is told; above 0."""

    def between(self, hosts: Hosts, edge: tuple[str, int], seed: int) -> contextlib.AbstractContextManager[
            tuple[str, int]]:
        """Lay the link; gives the address that the device connects to."""


@dataclass(frozen=True)
class ProfileLink:
    """The channel of a profile, in a proxy.

    Attributes:
        channel: The profile.
    """

    channel: ChannelProfile
    least_pause_ms: float = 0.0

    @property
    def name(self) -> str:
        """See `Link.name`."""
        return self.channel.name

    def counted_bytes(self, message_bytes: int) -> float:
        """See `Link.counted_bytes`."""
        return message_bytes

    @contextlib.contextmanager
    def between(self, hosts: Hosts, edge: tuple[str, int], seed: int) -> Iterator[tuple[str, int]]:
        """See `Link.between`."""
        with ShapingProxy((hosts.proxy_address, 0), edge, self.channel, seed) as proxy:
            yield proxy.address


@contextlib.contextmanager
def bare_link(hosts: Hosts, edge: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """A link that holds nothing up; gives the address that the device connects to."""
    with ShapingProxy((hosts.proxy_address, 0), edge, None, 0) as proxy:
        yield proxy.address


@dataclass(frozen=True)
class KernelLink:
    """A rate that the kernel enforces on both cables (tc's token bucket filter), on TCP/IP packets as they are.

    The bucket holds one packet of 256 bytes: it passes at once, and tokens for the others come at the rate. So the
    first segment of a message costs nothing; packets are small so that this is little.

    Attributes:
        kbps: Kilobits per second in each direction.
    """

    kbps: float

    @property
    def name(self) -> str:
        """See `Link.name`."""
        return f"tbf-{self.kbps:g}k"

    @property
    def least_pause_ms(self) -> float:
        """See `Link.least_pause_ms`: three times what fills the bucket."""
        return 3.0 * _PACKET_BYTES * 8.0 / self.kbps

    @cached_property
    def channel(self) -> ChannelProfile:
        """See `Link.channel`."""
        def told(value: float) -> Parameter:
            return Parameter(value=value, source="tc tbf")

        return ChannelProfile(
            name=self.name, title=f"token bucket of {self.kbps:g} kb/s", uplink_kbps=told(self.kbps),
            downlink_kbps=told(self.kbps), packet_bytes=told(1e9), packet_overhead_bytes=told(0),
            access_ms_p50=told(0), access_ms_p95=told(0), packet_loss=told(0), retransmit_ms=told(0),
            transmit_mw=told(0), receive_mw=told(0))

    def counted_bytes(self, message_bytes: int) -> float:
        """See `Link.counted_bytes`: packets with all headers, less the one that is in the bucket."""
        packets = math.ceil(message_bytes / _SEGMENT_BYTES)
        return max(_NEXT_TO_NOTHING, message_bytes + packets * (_PACKET_BYTES - _SEGMENT_BYTES) - _PACKET_BYTES)

    @contextlib.contextmanager
    def between(self, hosts: Hosts, edge: tuple[str, int], seed: int) -> Iterator[tuple[str, int]]:  # noqa: ARG002
        """See `Link.between`.

        Raises:
            LinkError: There are no namespaces, or the kernel has no such filter.
        """
        if not hosts.namespaces:
            raise LinkError(f"{self.name}: the kernel shapes cables between namespaces; leave --tbf-kbps away here")
        rate = ["root", "tbf", "rate", f"{round(1000 * self.kbps)}bit", "burst",
                str(_PACKET_BYTES), "latency", "60s"]
        for namespace, inside, outside in hosts.cables:
            run("ip", "link", "set", outside, "mtu", str(_MTU_BYTES))
            run("ip", "-n", namespace, "link", "set", inside, "mtu", str(_MTU_BYTES))
            run("tc", "-n", namespace, "qdisc", "replace", "dev", inside, *rate)
        try:
            with bare_link(hosts, edge) as address:
                yield address
        finally:
            for namespace, inside, outside in hosts.cables:
                run("tc", "-n", namespace, "qdisc", "del", "dev", inside, "root")
                run("ip", "-n", namespace, "link", "set", inside, "mtu", "1500")
                run("ip", "link", "set", outside, "mtu", "1500")
