"""Accuracies as log-odds, the scale on which models of them work, and back."""

from __future__ import annotations

import numpy as np

from autosplit.core.arrays import Array

__all__ = ["accuracy_of", "logit"]

_EDGE = 0.002
"""Accuracies are cut to [edge, 1 - edge], so that their log-odds are finite."""


def logit(accuracy: Array) -> Array:
    """Log-odds of accuracies, which are cut so that they are finite."""
    clipped = np.clip(accuracy, _EDGE, 1 - _EDGE)
    result: Array = np.log(clipped / (1 - clipped))
    return result


def accuracy_of(logits: Array) -> Array:
    """Accuracies of log-odds."""
    result: Array = 1.0 / (1.0 + np.exp(-logits))
    return result
