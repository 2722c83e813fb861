"""Streams around one deployment: what its controller is trained for, and what it is tested in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.levels import Level
from autosplit.envs.stream.stream import Stream

__all__ = ["StreamsAround"]

_ARRIVALS, _RATE, _DELAY, _COMPUTING = 2.0, 4.0, 2.0, 1.5  # factors up to which each differs


@dataclass(frozen=True)
class StreamsAround:
    """Draws fleets of equal devices that are like one, but not just so; of one device or of several.

    Pictures come up to twice as often or as seldom as was said, the link carries up to four times more or less than
    its profile says (which the devices do not know), its delays are up to twice as long or short, and device and edge
    compute up to 1.5 times as long or short: each by a factor that is drawn evenly on a logarithmic scale. What is sent
    cannot be withdrawn, as over TCP: the payload of a picture that was given up keeps others waiting.

    Attributes:
        levels: Of the deployment, what a device can do with a picture.
        conditions: What it is for, with the deadline.
        arrivals: When pictures are thought to arrive at a device.
        devices: That share link and edge.
        pictures: Of an episode, a device.
        buffer: Pictures that wait at most.
    """

    levels: tuple[Level, ...]
    conditions: Conditions
    arrivals: Arrivals
    devices: int
    pictures: int
    buffer: int

    def draw(self, count: int, seed: int) -> tuple[Fleet, ...]:
        """Some of them; the arguments settle which."""
        rng = np.random.default_rng(seed)
        return tuple(self._fleet(self._stream(number, rng)) for number in range(count))

    def as_told(self) -> Fleet:
        """Just as was said."""
        return self._fleet(Stream("as told", self.conditions, self.levels, self.arrivals, self.pictures, self.buffer))

    def _fleet(self, stream: Stream) -> Fleet:
        return Fleet(stream.name, (stream,) * self.devices, withdraws=False)

    def _stream(self, number: int, rng: np.random.Generator) -> Stream:
        arriving, rate, delay, computing = (factor ** rng.uniform(-1, 1)
                                            for factor in (_ARRIVALS, _RATE, _DELAY, _COMPUTING))
        channel = self.conditions.channel
        levels = tuple(dataclasses.replace(level, device_ms=level.device_ms * computing,
                                           edge_ms=level.edge_ms * computing) for level in self.levels)
        return Stream(
            f"stream {number}", self.conditions.model_copy(update={"channel": channel.scaled(rate, delay)}), levels,
            dataclasses.replace(self.arrivals, per_s=self.arrivals.per_s * arriving), self.pictures, self.buffer,
            assumed_kbps=channel.uplink_kbps.value)
