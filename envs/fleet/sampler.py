"""Fleets drawn at random: what a shared controller is trained for, and what it is tested in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Measurement
from autosplit.envs.conditions import Distribution
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.stream.levels import Level, worth_having
from autosplit.envs.stream.sampler import KINDS, LEAST_LEVELS, LINKS, LONG_MS, Kind, arrivals_of
from autosplit.envs.stream.stream import Stream
from autosplit.latency.base import LatencyModel
from autosplit.runtime.standalone.control.estimates import packed_bits

__all__ = ["FleetSampler"]

_TRIES = 200
_MOST_BUSY = 1.5  # of a device with itself, if it took its most accurate level for every picture
_APART = 2.0  # rates of devices in one cell, over its profile's and under it, at most
_LOADS = {"quiet": (0.02, 0.1), "busy": (0.7, 1.2), "bursty": (0.3, 0.8)}


@dataclass(frozen=True)
class FleetSampler:
    """Draws a cell and an edge, devices in it, a deadline, and pictures that come to all equally often.

    Arrivals are drawn by the load of the cell, the share of the time that it would be taken if all devices took their
    most accurate level for every picture: `quiet` 0.02 to 0.1, `busy` 0.7 to 1.2, `bursty` 0.3 to 0.8 with bursts of
    twice to four times the mean rate, of each device on its own. No device has more to do than 1.5 times what it can by
    itself. The deadline is 1.5 to 12 times what the quickest level of the slowest device takes. The devices' rates are
    half to twice the profile's; they keep theirs, fade, or lose packets in bursts, a third of the fleets each.

    Attributes:
        measurements: Of plans, to make levels of; of several networks in turn, one for a fleet.
        conditions: Draws the cell with its edge, and each device.
        latency_model: Knows times.
        devices: Of a fleet.
        levels: Levels of a device.
        pictures: Of a device in an episode.
        kinds: What is drawn of.
        announces: Whether the edges announce how long they are taken.
    """

    measurements: tuple[Sequence[Measurement], ...]
    conditions: Distribution
    latency_model: LatencyModel
    devices: int = 8
    levels: int = 6
    pictures: int = 60
    kinds: Sequence[Kind] = KINDS
    announces: bool = False

    def sample(self, rng: np.random.Generator) -> Fleet:
        """Draw a fleet.

        Raises:
            ConfigError: Two hundred draws gave none in which the devices have three levels worth having each, and send.
        """
        for _ in range(_TRIES):
            fleet = self._draw(rng)
            if fleet is not None:
                return fleet
        raise ConfigError(f"none of {_TRIES} fleets had devices with {LEAST_LEVELS} plans worth having each and a "
                          "link to share; give more plans, or other devices and channels")

    def streams(self, count: int, seed: int) -> tuple[Fleet, ...]:
        """Draw some, from a generator of their own."""
        rng = np.random.default_rng(seed)
        return tuple(self.sample(rng) for _ in range(count))

    def _draw(self, rng: np.random.Generator) -> Fleet | None:
        measurements = self.measurements[rng.integers(len(self.measurements))]
        kind, link = self.kinds[int(rng.integers(len(self.kinds)))], list(LINKS)[rng.integers(len(LINKS))]
        cell = self.conditions.sample(rng)
        members = []
        for _ in range(self.devices):
            channel = cell.channel
            rate = channel.uplink_kbps.value * _APART ** rng.uniform(-1, 1)
            channel = channel.model_copy(update={
                "uplink_kbps": channel.uplink_kbps.model_copy(update={"value": rate})})
            members.append(cell.model_copy(update={
                "device": self.conditions.sample(rng).device, "channel": channel, "budget_ms": LONG_MS}))
        quickest = max(worth_having(measurements, each, self.latency_model, 2)[0].latency.p50_ms for each in members)
        deadline = quickest * 1.5 * (12 / 1.5) ** rng.random()
        members = [each.model_copy(update={"budget_ms": deadline}) for each in members]
        fronts = [worth_having(measurements, each, self.latency_model, self.levels) for each in members]
        if min(map(len, fronts)) < LEAST_LEVELS:
            return None
        low, high = _LOADS[kind]
        load = low * (high / low) ** rng.random()
        chosen = [tuple(map(Level.of, front)) for front in fronts]
        air_ms = sum(_air_ms(levels[-1], each) for levels, each in zip(chosen, members, strict=True))
        busiest = max(front[-1].latency.p50_ms for front in fronts)
        if air_ms * _MOST_BUSY < load * busiest:
            return None
        per_s = 1e3 * load / air_ms
        streams = tuple(
            Stream("", each.model_copy(update={"channel": LINKS[link](each.channel, deadline, rng)}), levels,
                   arrivals_of(kind, per_s, deadline, rng), self.pictures)
            for levels, each in zip(chosen, members, strict=True))
        return Fleet(f"{kind}, {cell.channel.name} {link}", streams, announces=self.announces)


def _air_ms(level: Level, conditions: Conditions) -> float:
    """How long a picture takes of the cell, in the mean."""
    channel = conditions.channel
    bits = packed_bits(np.array(level.payload_bytes), np.array(channel.packet_bytes.value),
                       np.array(channel.packet_overhead_bytes.value))
    return float(level.sent * bits / channel.uplink_kbps.value)
