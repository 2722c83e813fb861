"""`RateSwitch`: which rate a device encodes at, from what it sees of the link and of the time it takes itself."""

from __future__ import annotations

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.rates import Rate, Switching
from ..device.estimate import LinkEstimate
from ..device.exchange import TIMEOUT, Reply
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
        # a computing time above the predicted one moves every delay to a longer column of the table
        columns = np.searchsorted(delays, delays + self._excess_ms - 1e-9).clip(0, len(delays) - 1)
        share = np.bincount(self._picked[:, columns].ravel(), self.link.probability.ravel(), len(self._rates))
        at_least = np.cumsum(share[::-1])[::-1]  # probability that the table has this rate or a larger one
        return int(np.flatnonzero(at_least >= min(_CONFIDENCE, at_least[0]))[-1])

    def pinged(self, ms: float, now_s: float) -> None:
        """Take in the time of a PING."""
        self.link.observe(_PING_BYTES, ms, now_s)

    def learn(self, rate: int, payload_bytes: int, reply: Reply, encode_ms: float, now_s: float) -> None:
        """Take in how one image fared, whatever became of it.

        Args:
            rate: Of its payload.
            payload_bytes: Length of that.
            reply: The answer, or why there is none.
            encode_ms: What the device took for head and encoder.
            now_s: When (`time.monotonic`).
        """
        found = reply.answer
        if found:
            edge_ms = found.queue_ms + found.edge_ms
            logits_bytes = 0 if found.logits is None else found.logits.nbytes
            self.link.observe(payload_bytes + logits_bytes, reply.waited_ms - edge_ms, now_s)
            # the table was made for the latency model's device and edge; what they really take more is as bad as delay
            predicted_ms = self._rates[rate].device_ms + self._rates[rate].edge_ms
            self._excess_ms += _RECENT * (encode_ms + edge_ms - predicted_ms - self._excess_ms)
        elif reply.reason == TIMEOUT and reply.waited_ms > 0:  # other reasons say nothing about the link
            self.link.missed(payload_bytes, reply.waited_ms, now_s)
