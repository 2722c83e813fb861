"""The fixed points behind every latency distribution: a lattice instead of random numbers.

A rank-1 lattice (Sloan, Joe 1994) spreads its points far more evenly over a cube than random numbers do, in every
coordinate and in all of them together. Each random quantity is one coordinate. All plans and conditions share the
points, so a plan that sends fewer bytes is never slower by chance, and equal arguments give equal answers.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError

__all__ = ["POINTS", "Z95", "Quantity", "lognormal_ms", "lognormal_sigma", "normal", "quantile", "standard_normal",
           "uniform"]

POINTS = 2**15
"""Points of the lattice."""

Z95 = NormalDist().inv_cdf(0.95)
"""95th percentile of the standard normal distribution."""

Quantity = Literal["uplink retries", "uplink access", "downlink access", "downlink retries", "shadowing", "start",
                   "first block", "pause", "second block", "third block"]
"""The coordinates; the first ascends with the points."""

# Kuo's generating vector lattice-32001, made for 2 ** 10 to 2 ** 20 points; web.maths.unsw.edu.au/~fkuo/lattice
_GENERATOR = dict(zip(get_args(Quantity), (1, 182667, 469891, 498753, 110745, 446247, 250185, 118627,
                                               245333, 283199), strict=True))


@cache
def uniform(quantity: Quantity) -> Array:
    """One coordinate of all points, between 0 and 1: the midpoints of equal intervals, shape (POINTS,)."""
    drawn: Array = (np.arange(POINTS) * _GENERATOR[quantity] % POINTS + 0.5) / POINTS
    return drawn


def standard_normal(probabilities: Array) -> Array:
    """Quantiles of the standard normal distribution, any shape."""
    from scipy.special import ndtri

    found: Array = ndtri(probabilities)
    return found


@cache
def normal(quantity: Quantity) -> Array:
    """Draws of the standard normal distribution, shape (POINTS,)."""
    return standard_normal(uniform(quantity))


def lognormal_ms(quantity: Quantity, p50_ms: float, p95_ms: float, subject: str) -> Array:
    """Draws of the log-normal distribution with this median and 95th percentile, milliseconds, shape (POINTS,).

    Args:
        quantity: The random quantity.
        p50_ms: Median; 0 when there is no delay at all.
        p95_ms: 95th percentile.
        subject: What the percentiles belong to, for messages.

    Raises:
        ConfigError: No log-normal distribution has these percentiles.
    """
    sigma = lognormal_sigma(p50_ms, p95_ms, subject)
    return p50_ms * np.exp(sigma * normal(quantity)) if p50_ms else np.zeros(POINTS)


def lognormal_sigma(p50_ms: float, p95_ms: float, subject: str) -> float:
    """Standard deviation of the delay's logarithm; 0 where there is no delay. Arguments and errors as above."""
    if p95_ms < p50_ms or (p50_ms == 0 and p95_ms > 0):
        raise ConfigError(f"{subject}: no delay has median {p50_ms:g} ms and 95th percentile {p95_ms:g} ms; "
                          "give 0 for both, or 0 < access_ms_p50 <= access_ms_p95")
    # the 95th percentile of a log-normal distribution is p50 * exp(sigma * Z95)
    return math.log(p95_ms / p50_ms) / Z95 if p50_ms else 0.0


def quantile(draws: Array, *levels: float) -> tuple[Array, ...]:
    """Quantiles over the last axis by Hazen's rule, which fits draws at the midpoints of their intervals.

    Args:
        draws: Shape (..., N); put into another order.
        levels: Probabilities, ascending.

    Returns:
        One array of shape (...) for each level.
    """
    results, count = [], draws.shape[-1]
    # each level partitions what the one before left above it: faster than sorting, which orders far more than is asked
    above, passed = draws, 0
    for level in levels:
        position = min(max(level * count - 0.5, 0.0), count - 1.0)
        low = math.floor(position)
        if count - low < 64:
            above.sort(axis=-1)
        else:
            above.partition(low - passed, axis=-1)
        above, passed = above[..., low - passed:], low
        at = above[..., 0]
        after = above[..., 1:].min(axis=-1) if low + 1 < count else at
        results.append(at + (after - at) * (position - low))  # keeps equal draws equal
    return tuple(results)
