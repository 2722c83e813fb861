"""The links that a device may meet: a grid of uplink rates and access delays around the one of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import RESULT_BYTES, Measurement
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile
from autosplit.latency.base import LatencyModel
from autosplit.latency.exits import in_time_accuracy

__all__ = ["LinkGrid"]

_REACH = 32.0  # times slower and faster than the run's link
_RATES = 49  # each 15 % faster than the one before
_DELAYS = 16
_LEAST_MS = 1.0


@dataclass(frozen=True)
class LinkGrid:
    """Rates and delays with the conditions that they make, rate by rate.

    Attributes:
        rates_kbps: Of the uplink, ascending.
        delays_ms: Of both ways together, ascending.
        conditions: One a pair, those of the first rate first.
        overhead_bytes: What an exchange puts on the link beside its payload, in bytes of the uplink.
    """

    rates_kbps: tuple[float, ...]
    delays_ms: tuple[float, ...]
    conditions: tuple[Conditions, ...]
    overhead_bytes: float

    @classmethod
    def around(cls, base: Conditions) -> LinkGrid:
        """Rates up to 32 times slower and faster than a link's, delays from 1 ms to the budget.

        Both directions change in proportion, and so do median and tail of the access delay.
        """
        channel = base.channel
        rates = _spaced(channel.uplink_kbps.value / _REACH, channel.uplink_kbps.value * _REACH, _RATES)
        delays = _spaced(min(_LEAST_MS, base.budget_ms / 2), base.budget_ms, _DELAYS)
        conditions = tuple(base.model_copy(update={"channel": _link(channel, rate, delay)})
                           for rate in rates for delay in delays)
        back = (RESULT_BYTES + channel.packet_overhead_bytes.value) / channel.downlink_kbps.value
        return cls(rates, delays, conditions,
                   channel.packet_overhead_bytes.value + back * channel.uplink_kbps.value)

    def in_time_accuracy(self, measurements: Sequence[Measurement], latency_model: LatencyModel) -> Array:
        """Accuracy x share in time of plans under each of the conditions, shape (plans, conditions)."""
        breakdown = latency_model.latency([m.workload for m in measurements], self.conditions)
        return in_time_accuracy(measurements, breakdown.in_time)

    def rows(self, numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """What belongs to each of the conditions as a row for each rate."""
        return tuple(tuple(row) for row in np.reshape(numbers, (len(self.rates_kbps), -1)).tolist())


def _spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in np.geomspace(low, high, count))


def _link(channel: ChannelProfile, rate_kbps: float, delay_ms: float) -> ChannelProfile:
    """A channel of another rate and delay; where it has no access delay, one without a tail."""
    scaled = channel.scaled(rate_kbps / channel.uplink_kbps.value, 1.0)
    p50, p95 = (getattr(channel, f"access_ms_{name}").value for name in ("p50", "p95"))
    tail = p95 / p50 if p50 > 0 else 1.0
    access = {name: Parameter(value=value, source="a delay that a device may meet", assumption=True) for name, value in
              (("access_ms_p50", delay_ms / 2), ("access_ms_p95", delay_ms / 2 * tail))}
    return scaled.model_copy(update=access)
