"""Codes that the tests of tables and payloads are made of."""

from __future__ import annotations

import numpy as np
from hypothesis import settings

QUICK = settings(derandomize=True, deadline=None, max_examples=80)


def codes_of(shape, bits, spread, count=60, seed=0):
    """Codes with a peak, another one in each channel; spread 0 gives a single symbol, a large one all alike."""
    rng = np.random.default_rng(seed)
    top = 2**bits - 1
    centre = rng.integers(0, top + 1, (shape[0], 1, 1))
    if spread > 10:
        return rng.integers(0, top + 1, (count, *shape))
    return np.clip(np.round(rng.laplace(size=(count, *shape)) * spread * top / 8 + centre), 0, top).astype(np.int64)


def smooth_codes(shape, bits, count=80, seed=0):
    """Codes whose neighbours are alike, as those of features are."""
    channels, height, width = shape
    noise = np.random.default_rng(seed).normal(size=(count, channels, height + 4, width + 4))
    near = sum(noise[:, :, a : a + height, b : b + width] for a in range(5) for b in range(5)) / 5
    top = 2**bits - 1
    return np.clip(np.round(near * top / 4 + top / 2), 0, top).astype(np.int64)
