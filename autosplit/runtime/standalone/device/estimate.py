"""What a device knows of its link: a probability for each rate and delay, from exchanges as they happen.

An exchange of b bytes takes delay + b / rate. Exchanges of one size thus tell only a line of (rate, delay) pairs;
payloads of other sizes, and PINGs, tell them apart, and so does that delays change less often than rates. All of this
is in a Bayesian filter over a grid of pairs (the forward recursion of a hidden Markov model: Bayes' rule after each
exchange, and between two a little chance that the link has become another one):

- that chance makes it quick: one exchange that fits no likely pair moves the probability to pairs that it fits;
- a share of exchanges may be late by accident, so that one straggler is not believed as firmly as a second;
- what an exchange cannot tell stays open, and grows with the time in which nothing was heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinkEstimate"]

Floats = NDArray[np.float64]

_JUMP, _ANYWHERE = 0.1, 0.1  # chance of another rate from one exchange to the next; and then of another delay too
_DRIFT_RATE, _DRIFT_DELAY = 0.2, 0.04  # chance of a step to a neighbour on the grid
_MEMORY_S = 10.0  # of silence, after which two thirds of what was known are forgotten
_LATE, _LATE_MS = 0.02, 100.0  # share of exchanges that are late by accident, and by how much on average
_LOST = 0.002  # share of those that get no answer, whatever the link
_NOISE_MS = 1.5  # standard deviation of an exchange, beside half a step of the grid in rate and in delay
_LEAST = 1e-12


class LinkEstimate:
    """Rate and delay of a link, estimated from exchanges over it.

    Args:
        rates_kbps: Rates of the uplink that are thought possible, ascending.
        delays_ms: Delays of both ways together, likewise.
        overhead_bytes: What an exchange puts on the link beside its payload, in bytes of the uplink.

    Attributes:
        probability: Of each rate (rows) and delay (columns); sums to 1.
        exchanges: How many were seen.
    """

    def __init__(self, rates_kbps: Sequence[float], delays_ms: Sequence[float], overhead_bytes: float) -> None:
        self._rates, self._delays = np.asarray(rates_kbps, dtype=float), np.asarray(delays_ms, dtype=float)
        self._overhead = overhead_bytes
        # by which share the truth may differ from the nearest value of a logarithmic grid: half a step
        self._rate_noise, self._delay_noise = (float(np.log(grid[-1] / grid[0]) / (len(grid) - 1) / 2)
                                               for grid in (self._rates, self._delays))
        self.probability: Floats = np.full((len(self._rates), len(self._delays)), 1.0)
        self.probability /= self.probability.size
        self.exchanges = 0
        self._seen_s = -math.inf

    @property
    def rate_kbps(self) -> float:
        """Median of the uplink's rate."""
        return float(self._rates[_median(self.probability.sum(axis=1))])

    @property
    def delay_ms(self) -> float:
        """Median of the delay of both ways together."""
        return float(self._delays[_median(self.probability.sum(axis=0))])

    def observe(self, payload_bytes: float, link_ms: float, now_s: float) -> None:
        """Take in an exchange.

        Args:
            payload_bytes: Length of what was sent; below 0 for exchanges smaller than one of an empty payload.
            link_ms: From sending it to the answer, without what the edge waited and computed.
            now_s: When (`time.monotonic`).
        """
        expected, deviation = self._expected(payload_bytes)
        late = link_ms - expected
        core = np.exp(-0.5 * (late / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
        straggler = np.where(late > 0, np.exp(-np.maximum(late, 0.0) / _LATE_MS) / _LATE_MS, 0.0)
        self._learn((1 - _LATE) * core + _LATE * straggler, now_s)

    def missed(self, payload_bytes: float, waited_ms: float, now_s: float) -> None:
        """Take in an exchange without an answer: it would have taken longer than was waited, or got lost."""
        expected, deviation = self._expected(payload_bytes)
        late = waited_ms - expected
        slow = 1 / (1 + np.exp(np.clip(late / deviation, -50, 50)))
        self._learn(slow + _LATE * np.exp(-np.maximum(late, 0.0) / _LATE_MS) + _LOST, now_s)

    def _expected(self, payload_bytes: float) -> tuple[Floats, Floats]:
        """Milliseconds of an exchange for each pair, and their standard deviation."""
        sending = 8 * max(0.0, payload_bytes + self._overhead) / self._rates[:, None]
        delay = self._delays[None, :]
        deviation: Floats = np.sqrt(_NOISE_MS**2 + (self._rate_noise * sending) ** 2 + (self._delay_noise * delay) ** 2)
        return sending + delay, deviation

    def _learn(self, likelihood: Floats, now_s: float) -> None:
        # first the prediction: what the link may have become since the last exchange
        known = _drifted(_drifted(self.probability, _DRIFT_RATE, 0), _DRIFT_DELAY, 1)
        silent_s = max(0.0, now_s - self._seen_s)
        jump = 1 - (1 - _JUMP) * math.exp(-silent_s / _MEMORY_S)
        another_rate = np.broadcast_to(known.sum(axis=0) / len(self._rates), known.shape)
        prior = (1 - jump) * known + jump * ((1 - _ANYWHERE) * another_rate + _ANYWHERE / known.size)
        # then Bayes' rule
        posterior = prior * np.maximum(likelihood, _LEAST)
        self.probability = posterior / posterior.sum()
        self.exchanges += 1
        self._seen_s = now_s


def _drifted(probability: Floats, share: float, axis: int) -> Floats:
    """A share of each cell's probability moved to its two neighbours; what would leave the grid stays."""
    moved = np.swapaxes(probability, 0, axis)
    padded = np.concatenate([moved[:1], moved, moved[-1:]])
    spread: Floats = (1 - share) * moved + share / 2 * (padded[:-2] + padded[2:])
    return np.swapaxes(spread, 0, axis)


def _median(probability: NDArray[Any]) -> int:
    return int(np.searchsorted(np.cumsum(probability), 0.5 * probability.sum()).clip(0, len(probability) - 1))
