"""The fixed draws behind every latency distribution: common random numbers, so that comparisons are smooth.

A Latin hypercube (McKay, Beckman, Conover 1979): each random quantity takes the midpoints of `DRAWS` equally
probable intervals, in its own seeded order. All plans and conditions share the draws: a plan that sends fewer bytes
is then never slower by chance, and equal arguments give equal answers on every machine.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError

__all__ = ["DRAWS", "Z95", "exponential", "lognormal_ms", "normal", "quantile", "spread_uniforms", "uniform",
           "uniforms"]

DRAWS = 256
"""Draws of every distribution; probabilities have this resolution."""

Z95 = NormalDist().inv_cdf(0.95)
"""95th percentile of the standard normal distribution."""


@cache
def uniforms(quantity: str, rows: int) -> Array:
    """Stratified uniform numbers, shape (rows, DRAWS); each quantity is independent of the others."""
    # seeded by the name, so that a further quantity changes none of the others
    rng = np.random.default_rng(list(quantity.encode()))
    # one draw in each interval, in random order: the tails are covered evenly, which 256 free draws would not do
    order = np.argsort(rng.random((rows, DRAWS)), axis=1)
    return (order + 0.5) / DRAWS


def spread_uniforms(quantity: str, rows: int) -> Array:
    """As `uniforms`, but anywhere within the intervals: what is rarer than 1 / DRAWS comes up as often as it should."""
    rng = np.random.default_rng(list(f"{quantity} spread".encode()))
    drawn: Array = uniforms(quantity, rows) + (rng.random((rows, DRAWS)) - 0.5) / DRAWS
    return drawn


def uniform(quantity: str) -> Array:
    """Draws between 0 and 1, shape (DRAWS,)."""
    drawn: Array = uniforms(quantity, 1)[0]
    return drawn


@cache
def exponential(quantity: str, columns: int) -> Array:
    """Draws of the exponential distribution of mean 1, shape (DRAWS, columns); each column is stratified."""
    drawn: Array = -np.log1p(-uniforms(quantity, columns).T)
    return drawn


@cache
def normal(quantity: str) -> Array:
    """Draws of the standard normal distribution, shape (DRAWS,)."""
    inverse = NormalDist().inv_cdf
    # through the inverse distribution, so that the draws stay stratified
    return np.array([inverse(u) for u in uniforms(quantity, 1)[0]])


def lognormal_ms(quantity: str, p50_ms: float, p95_ms: float, subject: str) -> Array:
    """Draws of the log-normal distribution with this median and 95th percentile, milliseconds, shape (DRAWS,).

    Args:
        quantity: Name of the random quantity.
        p50_ms: Median; 0 when there is no delay at all.
        p95_ms: 95th percentile.
        subject: What the percentiles belong to, for messages.

    Raises:
        ConfigError: No log-normal distribution has these percentiles.
    """
    if p95_ms < p50_ms or (p50_ms == 0 and p95_ms > 0):
        raise ConfigError(f"{subject}: no delay has median {p50_ms:g} ms and 95th percentile {p95_ms:g} ms; "
                          "give 0 for both, or 0 < access_ms_p50 <= access_ms_p95")
    if p50_ms == 0:
        return np.zeros(DRAWS)
    # the 95th percentile of a log-normal distribution is p50 * exp(sigma * Z95)
    sigma = math.log(p95_ms / p50_ms) / Z95
    delay: Array = p50_ms * np.exp(sigma * normal(quantity))
    return delay


def quantile(draws: Array, *levels: float) -> tuple[Array, ...]:
    """Quantiles over the last axis by Hazen's rule, which fits draws at the midpoints of their intervals.

    Args:
        draws: Shape (..., DRAWS).
        levels: Probabilities.

    Returns:
        One array of shape (...) for each level.
    """
    ordered = np.sort(draws, axis=-1)  # where numpy has vector instructions, several times as fast as a partition
    results = []
    for level in levels:
        position = min(max(level * DRAWS - 0.5, 0.0), DRAWS - 1.0)
        low, high = ordered[..., math.floor(position)], ordered[..., math.ceil(position)]
        results.append(low + (high - low) * (position - math.floor(position)))  # keeps equal draws equal
    return tuple(results)
