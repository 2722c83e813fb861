"""From timed operators to the time of operators that were never timed.

A regression for each operator type on the shape of an operator, as in Neurosurgeon (Kang et al., ASPLOS 2017) and
nn-Meter (Zhang et al., MobiSys 2021). Here it is linear in `autosplit.core.operators.TERMS`, with prices that are not
negative (a larger operator is never faster) and squared *relative* errors, since operators differ a thousandfold. Being
linear it needs only sums over a stage. How many of the terms are used is chosen by the error on shapes left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.operators import KINDS, TERMS
from autosplit.core.timings import HeldOut, Timing

__all__ = ["RATE_COUNTS", "fit_prices", "least_relative_squares", "solve_rates"]

# how many of `TERMS` a regression may use: the plain ones, with padded channels, with gathered patches
_CHOICES = (5, 6, 7)

RATE_COUNTS = ("conv_macs", "depthwise_macs", "linear_macs", "elements", "operators")
"""What `solve_rates` prices; the `analytic` model's terms."""


def least_relative_squares(counts: Array, times: Array) -> Array:
    """Prices, none negative, that minimise the sum of squared relative errors.

    Args:
        counts: Shape (N, K).
        times: Shape (N,), above 0.

    Returns:
        Shape (K,), in the unit of `times` over that of the counts.
    """
    from scipy.optimize import nnls

    # counts of macs and of operators differ by orders of magnitude; the solver wants columns of one size
    scale = counts.max(axis=0)
    scale[scale == 0] = 1.0
    prices: Array = nnls(counts / scale / times[:, None], np.ones(len(times)))[0] / scale
    return prices


def fit_prices(timings: Sequence[Timing]) -> tuple[Array, dict[str, HeldOut]]:
    """Fit the regression of every operator type that occurs.

    Args:
        timings: Operators of one machine.

    Returns:
        Milliseconds of each of `TERMS` for each of `KINDS`, shape (4, 7), NaN for a type that was never timed; and
        the error of each other type on held-out shapes (all timings of a shape are left out together).
    """
    prices: Array = np.full((len(KINDS), len(TERMS)), np.nan)
    held_out: dict[str, HeldOut] = {}
    for row, kind in enumerate(KINDS):
        timed = [t for t in timings if t.work.kind == kind]
        if not timed:
            continue
        terms = np.array([t.work.terms for t in timed], dtype=np.float64)
        times = np.array([t.time_ms for t in timed])
        _, shape = np.unique(terms, axis=0, return_inverse=True)
        # more terms fit the timings at hand better, those of other shapes perhaps not: the held-out error chooses
        errors = {size: _left_out(terms[:, :size], times, shape.ravel()) for size in _CHOICES}
        size = min(_CHOICES, key=lambda n: (round(float(errors[n].mean()), 3), n))
        prices[row] = 0.0
        prices[row, :size] = least_relative_squares(terms[:, :size], times)
        median, p90 = (round(100 * float(v), 2) for v in np.percentile(errors[size], (50, 90)))
        held_out[kind] = HeldOut(shapes=int(shape.max()) + 1, median_percent=median, p90_percent=p90)
    return prices, held_out


def _left_out(terms: Array, times: Array, shape: NDArray[np.integer]) -> Array:
    """Relative error of each timing under the regression on all other shapes; of the only shape, on itself."""
    error = np.zeros(len(times))
    for number in range(int(shape.max()) + 1):
        out = shape == number
        known = ~out if not out.all() else out
        error[out] = np.abs(terms[out] @ least_relative_squares(terms[known], times[known]) / times[out] - 1.0)
    return error


def solve_rates(timings: Sequence[Timing]) -> dict[str, float]:
    """What the `analytic` model charges for each of its counts, solved from timings.

    Returns:
        Milliseconds a unit of each of `RATE_COUNTS`; 0 where the timings show no such cost, or no such operator.
    """
    rows = [[*(w.macs if w.kind == kind else 0 for kind in KINDS[:3]), w.weights + w.outputs, 1]
            for w in (t.work for t in timings)]
    counts = np.array(rows, dtype=np.float64)
    prices = least_relative_squares(counts, np.array([t.time_ms for t in timings]))
    return dict(zip(RATE_COUNTS, prices.tolist(), strict=True))
