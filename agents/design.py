"""The initial design: the plans that every search method measures first, taken from what is known before measuring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.envs.features import PLAN_FEATURES
from autosplit.envs.tree import IntArray

__all__ = ["InitialDesign", "plan_points", "spread"]


@dataclass(frozen=True)
class InitialDesign:
    """How many plans are measured before a method proposes its own.

    Attributes:
        size: All of them.
        guesses: So many of them are the best plans by the prior; the others are spread over the space.
    """

    size: int = 10
    guesses: int = 5


def plan_points(features: Array) -> Array:
    """Plans as points whose distances mean something: the features that differ, each scaled to [0, 1], shape (P, D).

    The one-hot of the split point is left out: position and work tell split points apart in fewer dimensions.

    Args:
        features: `autosplit.envs.features.plan_features`, shape (P, F).
    """
    columns = features[:, :len(PLAN_FEATURES)]
    low, span = columns.min(axis=0), np.ptp(columns, axis=0)
    points: Array = (columns[:, span > 0] - low[span > 0]) / span[span > 0]
    return points


def spread(points: Array, size: int, rng: np.random.Generator) -> IntArray:
    """Points far from each other: the probability of each grows with its squared distance to those drawn before.

    The seeding of k-means++ (Arthur and Vassilvitskii, SODA 2007); unlike a maximin design it does not sit on the
    corners of the space only.

    Args:
        points: Shape (n, D).
        size: How many are wanted.
        rng: Draws them.

    Returns:
        Indices of min(`size`, n) distinct points.
    """
    distance, chosen = np.ones(len(points)), list[int]()
    for _ in range(min(size, len(points))):
        # where all that are left equal chosen ones in every feature, any of them will do
        weight = distance if distance.sum() > 0 else ~np.isin(np.arange(len(points)), chosen)
        chosen.append(int(rng.choice(len(points), p=weight / weight.sum())))
        squared = ((points - points[chosen[-1]]) ** 2).sum(axis=1)
        distance = np.minimum(distance, squared) if len(chosen) > 1 else squared
    return np.array(chosen, dtype=np.int64)
