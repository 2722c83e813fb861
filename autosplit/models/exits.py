"""The exit: by what the device answers what it is sure of.

That is the whole network, pruned, in front of what is sent (a cascade), or a small classifier on the feature at a split
point: features are averaged down to at most 8x8 cells, then two convolutions and a linear layer follow, about half a
million multiply-accumulates whatever the network. The confidence is the largest probability of the softmax (BranchyNet,
Teerapittayanon et al. 2016, arXiv 1709.01686), its logits divided by a temperature so that it says how often the answer
is right (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.core.measurement import ExitPoint, StageCost
from autosplit.core.plan import Exit

__all__ = ["ExitNetwork", "build_classifier", "classifier_structure", "exit_point", "pooled", "temperature"]

_CELLS = 8
_WIDTH = 32
_RANGE = (0.05, 20.0)  # of temperatures


class ExitNetwork(nn.Module):
    """What answers on the device, and the temperature of its logits.

    Args:
        network: Feature, or normalised image -> logits.
        whole: Whether it takes the image: it is the whole network, and what is sent comes after it.
    """

    temperature: Tensor

    def __init__(self, network: nn.Module, *, whole: bool) -> None:
        super().__init__()
        self.network, self.whole = network, whole
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), calibrated."""
        return self.network(x) / self.temperature  # type: ignore[no-any-return]


def classifier_structure(feature: Sequence[int], classes: int) -> dict[str, Any]:
    """Numbers that the structure of a classifier follows from.

    Args:
        feature: Channels, height, width of the feature.
        classes: Outputs.
    """
    channels, height, width = feature
    return {"channels": channels, "pool": max(1, -(-max(height, width) // _CELLS)), "width": _WIDTH, "classes": classes}


def build_classifier(structure: Mapping[str, Any]) -> fx.GraphModule:
    """A classifier with random weights: feature (N, C, H, W) -> logits (N, classes).

    Args:
        structure: As `classifier_structure` gives it.

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
    """What the first layer of a classifier makes of features, which training can keep for all images."""
    return F.avg_pool2d(features, int(structure["pool"]))


def exit_point(
    exit: Exit,  # noqa: A002
    leaves: NDArray[np.bool_], exit_right: NDArray[np.bool_], sent_right: NDArray[np.bool_],
    sizes: NDArray[np.int64], cost: StageCost,
) -> ExitPoint:
    """What an exit does, from what became of N images.

    Args:
        exit: The exit.
        leaves: Which images the device answers, shape (N,).
        exit_right: Which of all images the exit has right, (N,).
        sent_right: Which of all images are right when they are sent, (N,).
        sizes: Payload bytes of all images when they are sent, (N,).
        cost: Work of the exit.
    """
    sent, left = int((~leaves).sum()), int(leaves.sum())
    return ExitPoint(
        exit=exit, sent=sent / len(leaves),
        exit_accuracy=float(exit_right[leaves].mean()) if left else 0.0,
        sent_accuracy=float(sent_right[~leaves].mean()) if sent else 0.0,
        payload_bytes_mean=float(sizes[~leaves].mean()) if sent else 0.0,
        payload_bytes_p95=float(np.percentile(sizes[~leaves], 95)) if sent else 0.0, device=cost)


def temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits are to be divided by so that the likelihood of the labels is highest (Guo et al. 2017).

    Args:
        logits: (N, classes).
        labels: (N,).
    """
    logits = logits.double()
    low, high = (math.log(t) for t in _RANGE)
    ratio = (math.sqrt(5) - 1) / 2

    def loss(at: float) -> float:
        return float(F.cross_entropy(logits / math.exp(at), labels))

    # the loss has one minimum in the inverse of the temperature: golden section
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
