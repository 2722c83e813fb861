"""`View`: what a device knows when it decides, and the observation that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOUND", "FLEET_FEATURES", "LEVEL_FEATURES", "STREAM_FEATURES", "Array", "BoolArray", "FleetView",
           "FloatArray", "IntArray", "View"]

Array = NDArray[np.float64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

V = TypeVar("V", bound="View")

BOUND = 5.0
"""Of all features."""

STREAM_FEATURES = ("age", "waiting", "next_age", "arriving", "usually_arriving", "rate", "usual_rate", "since", "left",
                   "charge")
"""An observation begins with: age of the picture in hand, pictures behind it in buffers, age of the next one, arrivals
in a deadline as of the last eight and as of all (log2 of one more), the link's rate as it is thought to be and as it
usually is (log2, over the profile's mean), time since the last exchange, shares of the pictures and of the charge that
are left. Times are in deadlines."""

FLEET_FEATURES = ("sharing", "cell_ahead", "edge_ahead")
"""What an observation has after `STREAM_FEATURES`: devices that share (log2), and for how long cell and edge are taken
beforehand, in deadlines, where the edge announces it."""

LEVEL_FEATURES = ("accuracy", "takes", "spare", "arriving", "sent", "cost")
"""Then of each level: accuracy, time to an answer, what would be left of the deadline then, pictures that arrive while
the device is busy, share that is sent, energy at its price. Times are in deadlines."""


@dataclass(frozen=True)
class View:
    """What n devices know; K levels.

    Attributes:
        sharing: Devices that share the link and the edge with it, itself among them, shape (n,).
        deadline_ms: Of every picture, shape (n,).
        age_ms: Of the picture in hand, shape (n,).
        waiting: Pictures behind it, shape (n,).
        buffer: How many wait at most, shape (n,).
        next_age_ms: Age of the next one; 0 where there is none, shape (n,).
        arrivals_per_s: Of the last eight, shape (n,).
        usual_per_s: Of all so far, shape (n,).
        rate: What the link is thought to carry, over its profile's mean, shape (n,).
        usual_rate: The same in the long run, shape (n,).
        since_ms: Since the last exchange, shape (n,).
        left: Share of the pictures that are not settled, shape (n,).
        charge: Share of the battery's charge that is left; 1 without one, shape (n,).
        price: Reward that a millijoule is worth, shape (n,).
        accuracy: Shape (n, K), as all that follow.
        sent: Share of the pictures that are sent.
        takes_ms: Time to an answer, if the picture is sent.
        busy_ms: The same in the mean over pictures, and not beyond the deadline: how long the device is busy.
        air_ms: How long it sends, in the mean over pictures and at the profile's mean rate.
        energy_mj: What it takes, in the mean.
    """

    sharing: IntArray
    deadline_ms: Array
    age_ms: Array
    waiting: IntArray
    buffer: IntArray
    next_age_ms: Array
    arrivals_per_s: Array
    usual_per_s: Array
    rate: Array
    usual_rate: Array
    since_ms: Array
    left: Array
    charge: Array
    price: Array
    accuracy: Array
    sent: Array
    takes_ms: Array
    busy_ms: Array
    air_ms: Array
    energy_mj: Array

    @property
    def levels(self) -> int:
        """K, and the number of the action that skips a picture."""
        return len(self.accuracy[0])

    @property
    def left_ms(self) -> Array:
        """What is left of the deadline of the picture in hand, shape (n,)."""
        found: Array = self.deadline_ms - self.age_ms
        return found

    def observation(self) -> FloatArray:
        """`STREAM_FEATURES`, then `LEVEL_FEATURES` of each level, float32 in [-5, 5], shape (n, 10 + 6 * K)."""
        deadline, general = self.deadline_ms, np.stack(self.general(), axis=1)
        each = np.stack([
            self.accuracy, self.takes_ms / deadline[:, None],
            (self.left_ms[:, None] - self.takes_ms) / deadline[:, None],
            self.busy_ms * self.arrivals_per_s[:, None] / 1e3, self.sent, self.energy_mj * self.price[:, None]], axis=2)
        whole = np.concatenate([general, each.reshape(len(deadline), -1)], axis=1)
        found: FloatArray = np.clip(whole, -BOUND, BOUND).astype(np.float32)
        return found

    def rows(self: V, which: BoolArray) -> V:
        """What some of them know."""
        return type(self)(**{name: values[which] for name, values in vars(self).items()})

    def general(self) -> list[Array]:
        """What an observation begins with, before it is clipped: `STREAM_FEATURES`, each of shape (n,)."""
        deadline = self.deadline_ms
        return [self.age_ms / deadline, self.waiting / self.buffer, self.next_age_ms / deadline,
                np.log2(1 + self.arrivals_per_s * deadline / 1e3), np.log2(1 + self.usual_per_s * deadline / 1e3),
                np.log2(self.rate), np.log2(self.usual_rate),
                self.since_ms / deadline, self.left, self.charge]


@dataclass(frozen=True)
class FleetView(View):
    """What devices of fleets know.

    Attributes:
        cell_ahead_ms: For how long the cell is taken; 0 where nobody says so, shape (n,).
        edge_ahead_ms: The same of the edge.
    """

    cell_ahead_ms: Array
    edge_ahead_ms: Array

    def general(self) -> list[Array]:
        """`STREAM_FEATURES` and `FLEET_FEATURES`, before they are clipped."""
        return [*super().general(), np.log2(self.sharing), self.cell_ahead_ms / self.deadline_ms,
                self.edge_ahead_ms / self.deadline_ms]
