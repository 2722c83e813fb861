"""A transfer over a packet radio: bytes on the air and retransmissions of a payload, as draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.fading import Chain
from autosplit.core.profiles import ChannelProfile
from autosplit.latency.channel.retransmissions import burst_retries, independent_retries
from autosplit.latency.random import Z95, lognormal_ms, normal

__all__ = ["Framing", "Traffic", "access_ms", "payload_draws"]


def payload_draws(mean_bytes: Array, p95_bytes: Array) -> Array:
    """Payload of N plans over images: a normal distribution with this mean and 95th percentile, cut off at 0.

    Args:
        mean_bytes: Shape (N,).
        p95_bytes: Shape (N,); taken as the mean where it is below it, as in a strongly skewed sample.

    Returns:
        Bytes, shape (N, DRAWS).
    """
    # the 95th percentile of a normal distribution is mean + sigma * Z95
    sigma = np.maximum(p95_bytes - mean_bytes, 0.0) / Z95
    drawn: Array = np.maximum(mean_bytes[:, None] + sigma[:, None] * normal("payload"), 0.0)
    return drawn


def access_ms(direction: str, channel: ChannelProfile) -> Array:
    """Draws of the delay before a transmission may start, milliseconds, shape (DRAWS,).

    Raises:
        ConfigError: The two percentiles contradict each other.
    """
    p50, p95 = channel.access_ms_p50.value, channel.access_ms_p95.value
    return lognormal_ms(f"{direction} access", p50, p95, f"channel {channel.name!r}")


@dataclass(frozen=True)
class Traffic:
    """What a transfer puts on the air, whatever the rate.

    Attributes:
        air_bytes: Payload, overhead and repeated packets, bytes, shape (N, DRAWS).
        retries: Packets sent again, shape (N, DRAWS).
        mean_air_bytes: Mean of `air_bytes` over the draws, shape (N,).
        mean_retries: Mean of `retries` over the draws, shape (N,).
    """

    air_bytes: Array
    retries: Array
    mean_air_bytes: Array
    mean_retries: Array


@dataclass(frozen=True)
class Framing:
    """How a channel cuts payloads into packets and how often it loses one; channels that agree share their draws.

    Attributes:
        packet_bytes: Largest payload of a packet.
        overhead_bytes: Preamble, headers and checksum of a packet.
        loss: Probability that a packet is lost and sent again.
        bursts: How losses come in bursts; `None` where they are independent.
    """

    packet_bytes: float
    overhead_bytes: float
    loss: float
    bursts: Chain | None = None

    @classmethod
    def of(cls, channel: ChannelProfile) -> Framing:
        """The framing of a channel.

        Raises:
            ConfigError: Packets without payload, a rate of zero, or a loss of one: nothing ever arrives.
        """
        for name in ("packet_bytes", "uplink_kbps", "downlink_kbps"):
            if getattr(channel, name).value <= 0:
                raise ConfigError(f"channel {channel.name!r}: {name} must be above 0")
        if channel.packet_loss.value >= 1:
            raise ConfigError(f"channel {channel.name!r}: packet_loss must be below 1, "
                              f"got {channel.packet_loss.value:g}")
        return cls(channel.packet_bytes.value, channel.packet_overhead_bytes.value, channel.packet_loss.value,
                   None if channel.bursts is None else channel.bursts.chain)

    def traffic(self, direction: str, payload_bytes: Array) -> Traffic:
        """Send payloads: all packets are full but the last; a lost packet is sent again, whole.

        Args:
            direction: "uplink" or "downlink"; each has its own uniform draws.
            payload_bytes: Shape (N, DRAWS); an empty payload still takes one packet.
        """
        packets = np.maximum(np.ceil(payload_bytes / self.packet_bytes), 1.0)
        air = payload_bytes + packets * self.overhead_bytes
        if self.loss == 0:
            again = np.zeros_like(air)
        else:
            count = packets.astype(np.intp)
            quantity, bursts = f"{direction} retries", self.bursts
            # only the last packet is not full: its repetitions are those of all packets less those of the full ones
            full_again, again = (independent_retries(quantity, self.loss, packets) if bursts is None
                                 else burst_retries(quantity, bursts, packets) for packets in (count - 1, count))
            last = payload_bytes - (packets - 1.0) * self.packet_bytes
            air += full_again * (self.packet_bytes + self.overhead_bytes)
            air += (again - full_again) * (last + self.overhead_bytes)
        return Traffic(air, again, air.mean(axis=1), again.mean(axis=1))
