"""How many packets of a transfer are sent again: the exact distribution, for losses that are independent or in bursts.

Bursts follow the chain of Gilbert and Elliott, which steps by the matrix T after every transmission. With the diagonal
matrices L of losses and S = 1 - L of successes, a packet is sent again k times, and the chain has gone on to the state
in which the next packet is sent, with the probabilities (L T)^k S T. As a power series in x these are
(1 - x L T)^-1 S T, and n packets have the n-th power of that series, read off by a Fourier transform. Independent
losses are the case of one state: the series is (1 - loss) / (1 - x loss), the distribution negative binomial.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.fading import Chain
from autosplit.latency.random import POINTS

__all__ = ["probabilities", "retransmissions"]

_NEGLIGIBLE = 1e-12


def retransmissions(packets: int, loss: float, chain: Chain | None, step: int = 1) -> Array:
    """Retransmissions of a transfer at `POINTS` equally probable levels, ascending, shape (POINTS / step,).

    No level falls as packets are added.

    Args:
        packets: Number of packets that have to get through.
        loss: Probability in [0, 1) that a transmission is lost.
        chain: How losses come in bursts, from the chain's stationary state; `None` where they are independent.
        step: Every so manieth level is wanted.
    """
    below = np.cumsum(probabilities(packets, loss, chain))
    # the points up to each sum have at most so many: the inverse of the distribution at the midpoints of the levels
    until = np.clip(np.round(below * POINTS), 0, POINTS).astype(np.intp)
    until[-1] = POINTS
    until = -(-until // step)  # of every `step`-th level
    levels: Array = np.repeat(np.arange(len(below), dtype=np.float64), np.diff(until, prepend=0))
    return levels


@lru_cache(maxsize=4096)
def probabilities(packets: int, loss: float, chain: Chain | None) -> Array:
    """P(k retransmissions), shape (K,); arguments as in `retransmissions`."""
    if packets == 0 or loss == 0:
        return np.ones(1)
    mean = packets * loss / (1 - loss)
    if chain is None:
        decay, lasting = loss, 1.0
    else:
        good_loss, bad_loss, good, bad = chain
        step = np.array([[1 - 1 / good, 1 / good], [1 / bad, 1 - 1 / bad]])
        lost = np.array([[good_loss], [bad_loss]]) * step
        decay, lasting = float(np.abs(np.linalg.eigvals(lost)).max()), good + bad
    # as many terms as matter, since what lies beyond them comes back at the beginning: one packet's numbers fall by
    # `decay` from each to the next, and the sum's variance is at most its mean times what follows
    scale = 1.0 / (1.0 - decay)
    terms = 2 ** math.ceil(math.log2(mean + 10 * math.sqrt(2 * mean * (scale + lasting)) + 32 * scale + 32))
    x = np.exp(-2j * np.pi * np.arange(terms // 2 + 1) / terms)
    if chain is None:
        series = ((1 - loss) / (1 - x * loss)) ** packets
    else:
        each = np.linalg.solve(np.eye(2) - x[:, None, None] * lost, step - lost)
        found_in = np.array([good, bad]) / (good + bad)
        series = (found_in @ np.linalg.matrix_power(each, packets)).sum(axis=-1)
    found = np.maximum(np.fft.irfft(series, terms), 0.0)
    kept: Array = found[: int(np.searchsorted(np.cumsum(found), 1 - _NEGLIGIBLE)) + 1]
    return kept
