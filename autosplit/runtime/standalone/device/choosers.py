"""What decides, picture by picture, at which rate a device encodes, or that it passes one over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..bundle.manifest import Manifest
from ..control.controller import Controller
from ..control.estimates import RECENT, carried_kbps, expected_kbps, long_mean, packed_bits
from ..control.record import ControllerRecord
from ..control.view import FleetView
from ..device.exchange import TIMEOUT, Reply
from ..device.switch import RateSwitch

__all__ = ["BUFFER", "Chooser", "ControllerChooser", "FixedRate", "Seen", "SwitchingTable", "chooser_of"]

BUFFER = 8
"""Pictures that wait at most, where nothing else is said."""

_LEFT = 0.5  # share of an episode's pictures that is left: a device's stream has no end, so the middle
_RECENT_WEIGHT = 0.3  # of the last picture in the mean of computing times
_LEAST_MS = 1.0


@dataclass(frozen=True)
class Seen:
    """What is known of the queue when a picture's turn comes; all times in milliseconds.

    Attributes:
        age_ms: Of the picture in hand.
        waiting: Pictures behind it.
        next_age_ms: Age of the next one; 0 where there is none.
        recent_ms: How long ago the oldest of the last few came (`estimates.RECENT`, fewer at the beginning).
        arrived: How many came in all.
        running_ms: Since the first one came.
    """

    age_ms: float
    waiting: int
    next_age_ms: float
    recent_ms: float
    arrived: int
    running_ms: float


class Chooser(Protocol):
    """Decides what is done with the picture in hand, and learns how it fared."""

    def choose(self, seen: Seen, now_s: float) -> int | None:
        """The rate that it is encoded at; `None` to skip it."""
        ...

    def pinged(self, ms: float, now_s: float) -> None:
        """Take in the time of a PING."""
        ...

    def learn(self, rate: int, payload_bytes: int, reply: Reply, encode_ms: float, now_s: float) -> None:
        """Take in how one image fared; see `RateSwitch.learn`."""
        ...


class FixedRate:
    """Always the same rate.

    Args:
        rate: Its number.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate

    def choose(self, seen: Seen, now_s: float) -> int | None:  # noqa: ARG002
        """See `Chooser.choose`."""
        return self._rate

    def pinged(self, ms: float, now_s: float) -> None:
        """See `Chooser.pinged`."""

    def learn(self, rate: int, payload_bytes: int, reply: Reply, encode_ms: float, now_s: float) -> None:
        """See `Chooser.learn`."""


class SwitchingTable:
    """The rate that the bundle's table has for the link, whatever waits.

    Args:
        manifest: Of a bundle with rates.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._switch = RateSwitch(manifest)

    def choose(self, seen: Seen, now_s: float) -> int | None:  # noqa: ARG002
        """See `Chooser.choose`."""
        return self._switch.rate

    def pinged(self, ms: float, now_s: float) -> None:
        """See `Chooser.pinged`."""
        self._switch.pinged(ms, now_s)

    def learn(self, rate: int, payload_bytes: int, reply: Reply, encode_ms: float, now_s: float) -> None:
        """See `Chooser.learn`."""
        self._switch.learn(rate, payload_bytes, reply, encode_ms, now_s)


class ControllerChooser:
    """A controller of a simulated stream, with the figures of this device and this link.

    Times on device and edge are those of the manifest, and by how much they are really longer or shorter (a mean over
    the last pictures). What the link carries is estimated as in the simulation (`..control.estimates`). There is no
    battery: energy costs nothing.

    Args:
        manifest: Of a bundle with rates.
        record: What the controller was made for.
        controller: That decides.

    Attributes:
        kbps: What the link carried in the last exchange.
    """

    def __init__(self, manifest: Manifest, record: ControllerRecord, controller: Controller) -> None:
        self._rates, self._record, self._controller = manifest.rates, record, controller
        self._accuracy = np.array([[rate.accuracy for rate in self._rates]])
        self._compute_ms = np.array([[rate.device_ms + rate.edge_ms for rate in self._rates]])
        self._device_ms = np.array([[rate.device_ms for rate in self._rates]])
        self._bits = np.array([[self._bits_of(rate.payload_bytes) for rate in self._rates]])
        self.kbps, self._usual_log2 = record.uplink_kbps, float(np.log2(record.uplink_kbps))
        self._delays_ms, self._excess_ms = record.delays_ms, 0.0
        self._seen_s: float | None = None

    def choose(self, seen: Seen, now_s: float) -> int | None:
        """See `Chooser.choose`."""
        action = int(self._controller.decide(self.view(seen, now_s))[0])
        return None if action == len(self._rates) else action

    def view(self, seen: Seen, now_s: float) -> FleetView:
        """What the controller is told."""
        record, deadline_ms = self._record, self._record.deadline_ms
        mean = record.uplink_kbps
        since_ms = seen.running_ms if self._seen_s is None else 1000 * (now_s - self._seen_s)
        kbps = float(expected_kbps(self.kbps, self._usual_log2, since_ms, deadline_ms, mean))
        takes = np.maximum(self._compute_ms + self._excess_ms, _LEAST_MS) + self._delays_ms + self._bits / kbps
        left_ms = max(deadline_ms - seen.age_ms, 0.0)
        recent, nothing = min(seen.arrived, RECENT), np.zeros((1, len(self._rates)))

        def one(value: float) -> Any:
            return np.array([value])

        told = {
            "sharing": np.array([record.sharing]), "deadline_ms": one(deadline_ms), "age_ms": one(seen.age_ms),
            "waiting": np.array([seen.waiting]), "buffer": np.array([record.buffer]),
            "next_age_ms": one(seen.next_age_ms),
            "arrivals_per_s": one(1e3 * recent / max(seen.recent_ms, _LEAST_MS)),
            "usual_per_s": one(1e3 * seen.arrived / max(seen.running_ms, deadline_ms)), "rate": one(kbps / mean),
            "usual_rate": one(2.0**self._usual_log2 / mean), "since_ms": one(since_ms), "left": one(_LEFT),
            "charge": one(1.0), "price": one(0.0), "accuracy": self._accuracy, "sent": nothing + 1.0,
            "takes_ms": takes, "busy_ms": np.maximum(np.minimum(takes, left_ms), self._device_ms),
            "air_ms": self._bits / mean, "energy_mj": nothing}
        return FleetView(**told, cell_ahead_ms=one(0.0), edge_ahead_ms=one(0.0))

    def pinged(self, ms: float, now_s: float) -> None:  # noqa: ARG002
        """See `Chooser.pinged`; but for its few bytes it takes the delays and nothing else."""
        self._delays_ms = max(0.0, ms - 8.0 * self._record.overhead_bytes / self.kbps)

    def learn(self, rate: int, payload_bytes: int, reply: Reply, encode_ms: float, now_s: float) -> None:
        """See `Chooser.learn`."""
        found = reply.answer
        if not found and reply.reason != TIMEOUT:  # which says nothing about the link
            return
        # one that was too late to be sent tells nothing new: the link carries what it was thought to
        edge_ms = found.edge_ms if found else 0.0
        sending_ms = reply.waited_ms - edge_ms - self._delays_ms
        self.kbps = float(carried_kbps(self._bits_of(payload_bytes), sending_ms, bool(found), self.kbps))
        self._usual_log2 = float(long_mean(self._usual_log2, np.log2(self.kbps)))
        self._seen_s = now_s
        if found:
            excess_ms = encode_ms + edge_ms - float(self._compute_ms[0, rate])
            self._excess_ms += _RECENT_WEIGHT * (excess_ms - self._excess_ms)

    def _bits_of(self, payload_bytes: float) -> float:
        return float(packed_bits(payload_bytes, self._record.packet_bytes, self._record.overhead_bytes))


def chooser_of(manifest: Manifest, controller: Controller | None) -> tuple[Chooser, float, int]:
    """What a bundle has for streams: its controller, or else its switching table; with deadline and buffer.

    Args:
        manifest: Of the bundle.
        controller: Of the bundle, if it holds one (`DevicePart.controller`).

    Returns:
        What decides, the deadline in milliseconds, and how many pictures wait at most.

    Raises:
        ConfigError: The bundle has no rates.
    """
    if manifest.controller is not None and controller is not None:
        record = manifest.controller
        return ControllerChooser(manifest, record, controller), record.deadline_ms, record.buffer
    table = SwitchingTable(manifest)
    assert manifest.switching is not None
    return table, manifest.switching.budget_ms, BUFFER
