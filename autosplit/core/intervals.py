"""How sure an accuracy is, and the difference of two: 95 % intervals, over sources where images are not independent.

One accuracy has Wilson's interval (1927). Two deployments are compared on the same images, so that only the images on
which they disagree count, as in McNemar's test; the interval of their difference is that of Bonett and Price (2012,
"Adjusted Wald confidence interval for a difference of binomial proportions based on paired data"), which stays honest
where they hardly ever disagree. Where several images were made from one source, the number of images is divided by the
design effect (Kish 1965): how many times larger the variance over sources is than that over independent images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Z95", "Interval", "accuracy_interval", "difference_interval", "share_interval"]

Z95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % on either side."""


class Interval(NamedTuple):
    """A 95 % interval, both ends included."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2


def accuracy_interval(right: ArrayLike, sources: ArrayLike | None = None) -> Interval:
    """The 95 % interval of an accuracy (Wilson), in [0, 1].

    Args:
        right: Whether each image was classified right, shape (N,), N at least 1.
        sources: What each image was made from, shape (N,); every image stands for itself when left out.
    """
    hits = np.asarray(right, dtype=np.float64)
    return share_interval(float(hits.mean()), len(hits) / _design_effect(hits, sources))


def share_interval(share: float, images: float) -> Interval:
    """The 95 % interval of a share of so many independent images (Wilson), in [0, 1].

    Args:
        share: In [0, 1].
        images: How many, above 0.
    """
    z2 = Z95**2 / images
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def difference_interval(right: ArrayLike, other: ArrayLike, sources: ArrayLike | None = None) -> Interval:
    """The 95 % interval of one accuracy minus another, on the same images (Bonett and Price).

    Args:
        right: Whether each image was classified right by the first, shape (N,), N at least 1.
        other: The same of the second, in the same order.
        sources: What each image was made from, shape (N,); every image stands for itself when left out.

    Returns:
        In [-1, 1].
    """
    difference = np.asarray(right, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    effect = _design_effect(difference, sources)
    images = len(difference) / effect
    # one disagreement more on either side keeps the interval from vanishing where there was none
    better = (float((difference > 0).sum()) / effect + 1) / (images + 2)
    worse = (float((difference < 0).sum()) / effect + 1) / (images + 2)
    half = Z95 * math.sqrt((better + worse - (better - worse) ** 2) / (images + 2))
    return Interval(max(-1.0, better - worse - half), min(1.0, better - worse + half))


def _design_effect(values: NDArray[np.float64], sources: ArrayLike | None) -> float:
    """Variance of the mean over sources as a multiple of that over independent images; at least 1.

    Where the values are all equal nothing can be estimated: then images of one source count as one image.
    """
    if sources is None:
        return 1.0
    _, source, counts = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    groups, images = len(counts), len(values)
    if groups == images:
        return 1.0
    centred = values - values.mean()
    independent = float((centred**2).sum())
    if independent == 0 or groups == 1:
        return images / groups
    sums = np.bincount(source, weights=centred)
    return max(1.0, float((sums**2).sum()) / independent * groups / (groups - 1))

