"""What is known of streams beforehand, as arrays, and what a battery's charge is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.measurement import RESULT_BYTES
from autosplit.envs.stream.stream import Stream
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.latency.random import lognormal_sigma
from autosplit.runtime.standalone.control.estimates import packed_bits

__all__ = ["Known", "dual_price"]

_PRICES = 0.01, 2.0  # of a millijoule, over what it brings where it brings most


@dataclass(frozen=True)
class Known:
    """Numbers of the C streams as arrays: shape (C,), those of levels (C, K)."""

    deadline_ms: Array
    pictures: IntArray
    buffer: IntArray
    charge_mj: Array
    energy_weight: Array
    sees_link: BoolArray
    mean_kbps: Array
    packet_bytes: Array
    overhead_bytes: Array
    access_ms: Array
    access_sigma: Array
    result_ms: Array
    delays_ms: Array
    active_mw: Array
    transmit_mw: Array
    wait_mw: Array
    device_ms: Array
    encode_ms: Array
    edge_ms: Array
    payload_bytes: Array
    payload_sd_bytes: Array
    bits: Array
    sent: Array
    sends: BoolArray
    device_accuracy: Array
    edge_accuracy: Array
    accuracy: Array
    local_mj: Array
    exchange_mj: Array
    prices: Array

    @classmethod
    def of(cls, streams: Sequence[Stream], levels: int) -> Known:
        """Everything that a step looks up.

        Raises:
            ConfigError: No delay has the percentiles of a channel.
        """
        channels = [s.conditions.channel for s in streams]
        devices = [s.conditions.device for s in streams]

        def of_channels(name: str) -> Array:
            return np.array([getattr(c, name).value for c in channels], dtype=np.float64)

        def of_levels(name: str) -> Array:
            return np.array([[getattr(s.levels[min(k, len(s.levels) - 1)], name) for k in range(levels)]
                             for s in streams], dtype=np.float64)

        mean_kbps = np.array([s.assumed_kbps or s.conditions.channel.uplink_kbps.value for s in streams])
        packet, overhead = of_channels("packet_bytes"), of_channels("packet_overhead_bytes")
        median = of_channels("access_ms_p50")
        result_ms = 8.0 * (RESULT_BYTES + overhead) / of_channels("downlink_kbps")
        payload = of_levels("payload_bytes")
        sent = of_levels("sent")
        idle = np.array([d.idle_mw.value for d in devices])
        active_mw = np.array([d.active_mw.value for d in devices])
        transmit_mw, wait_mw = idle + of_channels("transmit_mw"), idle + of_channels("receive_mw")
        delays_ms = 2 * median + result_ms
        bits = packed_bits(payload, packet[:, None], overhead[:, None])
        times = {name: of_levels(name) for name in ("device_ms", "encode_ms", "edge_ms", "accuracy")}
        local_mj = (times["device_ms"] + sent * times["encode_ms"]) * active_mw[:, None] / 1e3
        exchange_mj = sent * (bits / mean_kbps[:, None] * transmit_mw[:, None]
                              + (delays_ms[:, None] + times["edge_ms"]) * wait_mw[:, None]) / 1e3
        most = (times["accuracy"] / np.maximum(local_mj + exchange_mj, 1e-9)).max(axis=1)
        return cls(
            deadline_ms=np.array([s.conditions.budget_ms for s in streams], dtype=np.float64),
            pictures=np.array([s.pictures for s in streams]), buffer=np.array([s.buffer for s in streams]),
            charge_mj=np.array([s.charge_mj for s in streams], dtype=np.float64),
            energy_weight=np.array([s.energy_weight for s in streams], dtype=np.float64),
            sees_link=np.array([s.sees_link for s in streams]), mean_kbps=mean_kbps,
            packet_bytes=packet, overhead_bytes=overhead, access_ms=median,
            access_sigma=np.array([lognormal_sigma(c.access_ms_p50.value, c.access_ms_p95.value, f"channel {c.name!r}")
                                   for c in channels]),
            result_ms=result_ms, delays_ms=delays_ms, active_mw=active_mw, transmit_mw=transmit_mw, wait_mw=wait_mw,
            payload_bytes=payload, payload_sd_bytes=of_levels("payload_sd_bytes"), bits=bits, sent=sent, sends=sent > 0,
            device_accuracy=of_levels("device_accuracy"), edge_accuracy=of_levels("edge_accuracy"),
            local_mj=local_mj, exchange_mj=exchange_mj, prices=most[:, None] * np.array(_PRICES), **times)


def dual_price(energy_mj: Array, accuracy: Array, allowed_mj: Array) -> Array:
    """Price at which the best mixture of levels and skipping takes what is allowed; 0 where the dearest is, shape (n,).

    The dual of a linear program: the price that makes price * allowed + max(0, accuracy - price * energy) least, which
    is piecewise linear in it with corners where two levels are worth the same.

    Args:
        energy_mj: Shape (n, K).
        accuracy: Shape (n, K).
        allowed_mj: Of a picture, shape (n,).
    """
    first, second = np.triu_indices(energy_mj.shape[1] + 1, 1)  # with skipping as a level that takes and brings nothing
    costs = np.concatenate([energy_mj, np.zeros((len(energy_mj), 1))], axis=1)
    values = np.concatenate([accuracy, np.zeros((len(accuracy), 1))], axis=1)
    apart = costs[:, first] - costs[:, second]
    prices = np.divide(values[:, first] - values[:, second], apart, out=np.zeros_like(apart), where=apart != 0)
    prices = np.concatenate([np.zeros((len(prices), 1)), np.maximum(prices, 0.0)], axis=1)
    worth = (values[:, None] - prices[:, :, None] * costs[:, None]).max(axis=2)
    best = (prices * allowed_mj[:, None] + worth).argmin(axis=1)
    found: Array = prices[np.arange(len(best)), best]
    return found
