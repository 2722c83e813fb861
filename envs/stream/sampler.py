"""Streams drawn at random: what a controller is trained for, and what it is tested in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.fading import Bursts, Rayleigh, Shannon, mean_bits_per_hz
from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.parameters import Decibels, Parameter
from autosplit.core.profiles import ChannelProfile
from autosplit.envs.conditions import Distribution
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.levels import Level, worth_having
from autosplit.envs.stream.stream import Stream
from autosplit.latency.base import LatencyModel

__all__ = ["KINDS", "LEAST_LEVELS", "LINKS", "LONG_MS", "Kind", "StreamSampler", "arrivals_of"]

Kind = Literal["quiet", "busy", "bursty"]
KINDS: tuple[Kind, ...] = ("quiet", "busy", "bursty")

LEAST_LEVELS = 3
"""Of a device, that are worth having."""

LONG_MS = 1e7
"""A deadline that excludes nothing."""

_TRIES = 50
_SHARE = 0.25  # of the time that is in bursts
_SOURCE = "drawn by StreamSampler"


@dataclass(frozen=True)
class StreamSampler:
    """Draws conditions, and for them the levels that are worth having, a deadline, arrivals, and what the link does.

    Arrivals are drawn by their load, the share of the time that the device would be busy if it took its most accurate
    level for every picture: `quiet` 0.02 to 0.1, `busy` 0.7 to 2, `bursty` 0.3 to 1.2 with bursts of twice to four
    times the mean rate. The deadline is 1.5 to 12 times what the quickest level takes. A third of the links keep
    their rate, a third fade, a third lose packets in bursts; a quarter of the devices have a battery that allows 0.3 to
    0.9 of what the most accurate level would take.

    Attributes:
        measurements: Of plans, to make levels of; of several networks in turn.
        conditions: Draws device, edge and channel.
        latency_model: Knows times.
        levels: Levels of a stream.
        pictures: Of an episode.
        kinds: What is drawn of.
    """

    measurements: tuple[Sequence[Measurement], ...]
    conditions: Distribution
    latency_model: LatencyModel
    levels: int = 6
    pictures: int = 200
    kinds: Sequence[Kind] = KINDS

    def sample(self, rng: np.random.Generator) -> Stream:
        """Draw a stream.

        Raises:
            ConfigError: Under fifty draws of conditions no three levels were worth having.
        """
        for _ in range(_TRIES):
            measurements = self.measurements[rng.integers(len(self.measurements))]
            conditions = self.conditions.sample(rng).model_copy(update={"budget_ms": LONG_MS})
            front = worth_having(measurements, conditions, self.latency_model, 2)
            deadline = front[0].latency.p50_ms * 1.5 * (12 / 1.5) ** rng.random()
            conditions = conditions.model_copy(update={"budget_ms": deadline})
            chosen = worth_having(measurements, conditions, self.latency_model, self.levels)
            if len(chosen) >= LEAST_LEVELS:
                return self._stream(conditions, chosen, rng)
        raise ConfigError(f"under none of {_TRIES} conditions {LEAST_LEVELS} of the plans were worth having; give "
                          "more plans, or other devices and channels")

    def streams(self, count: int, seed: int) -> tuple[Stream, ...]:
        """Draw some, from a generator of their own."""
        rng = np.random.default_rng(seed)
        return tuple(self.sample(rng) for _ in range(count))

    def _stream(self, conditions: Conditions, chosen: Sequence[Outcome], rng: np.random.Generator) -> Stream:
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        low, high = {"quiet": (0.02, 0.1), "busy": (0.7, 2.0), "bursty": (0.3, 1.2)}[kind]
        best = chosen[-1].latency
        per_s = 1000.0 / best.p50_ms * low * (high / low) ** rng.random()
        arrivals = arrivals_of(kind, per_s, conditions.budget_ms, rng)
        link = list(LINKS)[rng.integers(len(LINKS))]
        channel = LINKS[link](conditions.channel, conditions.budget_ms, rng)
        charge = np.inf
        if rng.random() < 0.25:
            charge = self.pictures * best.energy_mj * rng.uniform(0.3, 0.9)
        name = f"{kind}, {conditions.device.name}, {conditions.channel.name} {link}"
        return Stream(name, conditions.model_copy(update={"channel": channel}), tuple(map(Level.of, chosen)), arrivals,
                      self.pictures, charge_mj=charge)


def arrivals_of(kind: Kind, per_s: float, deadline_ms: float, rng: np.random.Generator) -> Arrivals:
    """Arrivals at random, or in bursts of 5 to 50 deadlines in the mean."""
    if kind != "bursty":
        return Arrivals(per_s)
    peak = rng.uniform(2.0, 1 / _SHARE)
    return Arrivals(per_s, peak=peak, peak_share=_SHARE, peak_s=deadline_ms / 1000.0 * 5 * 10 ** rng.random())


def _steady(channel: ChannelProfile, deadline_ms: float, rng: np.random.Generator) -> ChannelProfile:  # noqa: ARG001
    """The channel as it is."""
    return channel


def _fading(channel: ChannelProfile, deadline_ms: float, rng: np.random.Generator) -> ChannelProfile:
    """The channel with Rayleigh fading around its mean, in blocks of half a deadline to twenty."""
    coherence = Rayleigh(coherence_ms=_value(deadline_ms * 0.5 * 40 ** rng.random()))
    snr_db = Decibels(value=float(rng.uniform(5, 15)), source=_SOURCE, assumption=True)
    shannon = Shannon(bandwidth_khz=_value(1.0), snr_db=snr_db, efficiency=_value(0.7))
    bits = mean_bits_per_hz(shannon, coherence, None)
    shannon = shannon.scaled(channel.uplink_kbps.value / bits)
    return channel.model_copy(update={"shannon": shannon, "rayleigh": coherence, "shadowing": None, "trace": None})


def _losing(channel: ChannelProfile, deadline_ms: float, rng: np.random.Generator) -> ChannelProfile:
    """The channel with times, one in five, in which most packets are lost; they last half a deadline to twenty."""
    packet_ms = channel.packet_bits / channel.uplink_kbps.value
    bad = float(np.clip(deadline_ms * 0.5 * 40 ** rng.random() / packet_ms, 1.0, 200.0))
    bursts = Bursts(good_loss=_value(0.01), bad_loss=_value(rng.uniform(0.7, 0.95)), good_packets=_value(4 * bad),
                    bad_packets=_value(bad))
    return channel.model_copy(update={"bursts": bursts, "packet_loss": _value(bursts.loss)})


LINKS = {"steady": _steady, "fading": _fading, "losing": _losing}
"""What a link does over time."""


def _value(number: float) -> Parameter:
    return Parameter(value=float(number), source=_SOURCE, assumption=True)
