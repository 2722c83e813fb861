"""`RateSwitch`: which rate a device encodes at, from what it sees of the link and of the time it takes itself."""

from __future__ import annotations

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.rates import Rate, Switching
from ..device.estimate import LinkEstimate
from ..errors import ConfigError
from ..protocol.wire import ANSWER_BYTES

__all__ = ["RateSwitch"]

_CONFIDENCE = 0.6  # that the table has this rate or a larger one for the link
_RECENT = 0.3  # weight of the last answer in the mean of computing times
_PING_BYTES = -float(ANSWER_BYTES)  # beside an exchange with an empty payload: its reply holds no answer


class RateSwitch:
    """Looks up rates in a bundle's switching table.

    The table knows a deadline, and how long device and edge compute by the latency model. Where they take longer or
    shorter than that, the difference is counted as delay.

    Args:
        manifest: Of a bundle with rates.

    Attributes:
        link: What is known of the link.

    Raises:
        ConfigError: The bundle has no rates.
    """

    def __init__(self, manifest: Manifest) -> None:
        if manifest.switching is None:
            raise ConfigError("this bundle has one rate alone, so there is nothing to adapt; `autosplit adapt` makes "
                              "one with several")
        self._table: Switching = manifest.switching
        self._rates: tuple[Rate, ...] = manifest.rates
        self._picked = np.array(self._table.picks)
        self.link = LinkEstimate(self._table.uplink_kbps, self._table.delays_ms, self._table.overhead_bytes)
        self._excess_ms = 0.0

    @property
    def rate(self) -> int:
        """The largest rate that the table has, with some confidence, for the link as it is thought to be."""
        if not self.link.exchanges:
            return self._table.start
        delays = np.asarray(self._table.delays_ms)
        columns = np.searchsorted(delays, delays + self._excess_ms - 1e-9).clip(0, len(delays) - 1)
        share = np.bincount(self._picked[:, columns].ravel(), self.link.probability.ravel(), len(self._rates))
        at_least = np.cumsum(share[::-1])[::-1]
        return int(np.flatnonzero(at_least >= min(_CONFIDENCE, at_least[0]))[-1])

    def pinged(self, ms: float, now_s: float) -> None:
        """Take in the time of a PING."""
        self.link.observe(_PING_BYTES, ms, now_s)

    def answered(self, rate: int, bytes_sent: float, link_ms: float, compute_ms: float, now_s: float) -> None:
        """Take in an answer.

        Args:
            rate: Of the payload.
            bytes_sent: Its length, and that of logits that came back.
            link_ms: Both ways.
            compute_ms: Of device and edge, with the wait at the edge.
            now_s: When (`time.monotonic`).
        """
        self.link.observe(bytes_sent, link_ms, now_s)
        predicted_ms = self._rates[rate].device_ms + self._rates[rate].edge_ms
        self._excess_ms += _RECENT * (compute_ms - predicted_ms - self._excess_ms)

    def missed(self, bytes_sent: float, waited_ms: float, now_s: float) -> None:
        """Take in that there was no answer."""
        self.link.missed(bytes_sent, waited_ms, now_s)
