"""The exit: a small classifier on the feature at a split point, by which the device answers what it is sure of.

Features are averaged down to at most 8x8 cells, then two convolutions and a linear layer follow: about half a million
multiply-accumulates whatever the network. Its confidence is the largest probability of its softmax (BranchyNet,
Teerapittayanon et al. 2016, arXiv 1709.01686), calibrated so that it says how often the exit is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from autosplit.core.plan import ExitPoint, StageCost

__all__ = ["build_exit", "confidence", "exit_point", "exit_structure", "pooled"]

_CELLS = 8
_WIDTH = 32


def exit_structure(feature: Sequence[int], classes: int) -> dict[str, Any]:
    """Numbers that the structure of an exit follows from.

    Args:
        feature: Channels, height, width of the feature.
        classes: Outputs.
    """
    channels, height, width = feature
    return {"channels": channels, "pool": max(1, -(-max(height, width) // _CELLS)), "width": _WIDTH, "classes": classes}


def build_exit(structure: Mapping[str, Any]) -> fx.GraphModule:
    """An exit with random weights: feature (N, C, H, W) -> logits (N, classes).

    Args:
        structure: As `exit_structure` gives it.

    Raises:
        KeyError: A number is missing.
        TypeError: One is no number.
    """
    channels, pool, width = (int(structure[name]) for name in ("channels", "pool", "width"))
    layers = nn.Sequential(
        nn.AvgPool2d(pool, ceil_mode=False) if pool > 1 else nn.Identity(),
        nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, int(structure["classes"])))
    return fx.symbolic_trace(layers)


def pooled(structure: Mapping[str, Any], features: Tensor) -> Tensor:
    """What the first layer of an exit makes of features, which training can keep for all images."""
    return nn.functional.avg_pool2d(features, int(structure["pool"]))


def confidence(logits: Tensor) -> Tensor:
    """How sure an exit is, in [0, 1], shape (N,); logits (N, classes)."""
    return torch.softmax(logits.float(), dim=1).amax(dim=1)


def exit_point(
    threshold: float, leaves: NDArray[np.bool_], exit_right: NDArray[np.bool_], sent_right: NDArray[np.bool_],
    sizes: NDArray[np.int64], cost: StageCost,
) -> ExitPoint:
    """What an exit does at a threshold, from what became of N images.

    Args:
        threshold: The threshold.
        leaves: Which images the device answers, shape (N,).
        exit_right: Which of all images the exit has right, (N,).
        sent_right: Which of all images are right when they are sent, (N,).
        sizes: Payload bytes of all images when they are sent, (N,).
        cost: Work of the exit.
    """
    sent, left = int((~leaves).sum()), int(leaves.sum())
    return ExitPoint(
        threshold=threshold, sent=sent / len(leaves),
        exit_accuracy=float(exit_right[leaves].mean()) if left else 0.0,
        sent_accuracy=float(sent_right[~leaves].mean()) if sent else 0.0,
        payload_bytes_mean=float(sizes[~leaves].mean()) if sent else 0.0,
        payload_bytes_p95=float(np.percentile(sizes[~leaves], 95)) if sent else 0.0, device=cost)
