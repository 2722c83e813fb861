"""Injected heads: a small network straight from the image in place of a backbone's first layers.

A backbone's own first layers are its dearest: they work on the largest feature maps. An *injected head* (Entropic
Student, arXiv 2203.08875; FrankenSplit, arXiv 2302.10681) halves the resolution with every layer and ends on a coarse
grid, for a small part of the backbone's work; on the edge `Restore` makes of it what the backbone's layers behind the
cut expect. It is pruned like any other head, so that one set of weights serves several sizes.

Entropic Student's own layers (`autosplit.models.entropic_student`) can take their place.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx, nn

from autosplit.models.entropic_student import ENTROPIC_STUDENT, StudentDecoder, StudentEncoder
from autosplit.models.tracing import as_graph

__all__ = ["InjectedHead", "Restore", "injected_networks", "injected_structure"]

_FIRST, _MOST = 16, 96  # channels of the first layer, doubled with each halving, and of the last at most
_COARSE = 14  # cells of the grid's larger side at most
_RESTORING = 64


def injected_structure(
    image: tuple[int, int, int], feature: tuple[int, int, int], nonnegative: bool, depthwise: bool
) -> dict[str, Any]:
    """What an injected head and its `Restore` are built from, as JSON values.

    Args:
        image: Channels, height, width of the input image.
        feature: Of the backbone's feature at the split point.
        nonnegative: Whether that feature comes out of a ReLU.
        depthwise: Whether layers behind the first are depthwise separable, as they are in networks for small devices.
    """
    # as many as lead to a coarse grid, or to the feature's own where that is coarser
    coarse = min(_COARSE, max(feature[1:]))
    halvings = max(1, math.ceil(math.log2(max(image[1:]) / coarse)))
    widths = [min(_FIRST * 2**i, _MOST) for i in range(halvings)]
    return {"image": list(image), "feature": list(feature), "widths": widths, "nonnegative": nonnegative,
            "depthwise": depthwise}


def injected_networks(structure: dict[str, Any]) -> tuple[fx.GraphModule, nn.Module]:
    """An injected head as a graph, as heads are everywhere else, and what restores the backbone's feature from its own.

    Args:
        structure: As `injected_structure` or `student_structure` gives it.
    """
    if structure.get("encoder") == ENTROPIC_STUDENT:
        return as_graph(StudentEncoder(structure).eval()), StudentDecoder(structure)
    return as_graph(InjectedHead(structure).eval()), Restore(structure)


class InjectedHead(nn.Sequential):
    """Image -> feature on a coarse grid, on the device.

    Args:
        structure: As `injected_structure` gives it.
    """

    def __init__(self, structure: dict[str, Any]) -> None:
        layers: list[nn.Module] = []
        before = structure["image"][0]
        for number, width in enumerate(structure["widths"]):
            layers.append(_layer(before, width, 2, depthwise=structure["depthwise"] and number > 0))
            before = width
        layers.append(_layer(before, before, 1, depthwise=structure["depthwise"]))
        super().__init__(*layers)


class Restore(nn.Module):
    """Feature of an injected head -> the backbone's feature at the split point, on the edge.

    Args:
        structure: As `injected_structure` gives it.
    """

    def __init__(self, structure: dict[str, Any]) -> None:
        super().__init__()
        (_, height, width), (channels, *side) = structure["image"], structure["feature"]
        halvings, before = len(structure["widths"]), structure["widths"][-1]
        grid = (math.ceil(height / 2**halvings), math.ceil(width / 2**halvings))
        self.refine = nn.Sequential(_layer(before, _RESTORING, 1), _layer(_RESTORING, _RESTORING, 1))
        factor = max(math.ceil(side[0] / grid[0]), math.ceil(side[1] / grid[1]))
        self.up: nn.Module = nn.Identity()
        if factor > 1:
            self.up = nn.Sequential(nn.ConvTranspose2d(_RESTORING, _RESTORING, factor, factor, bias=False),
                                    nn.BatchNorm2d(_RESTORING), nn.ReLU())
        up = (grid[0] * factor, grid[1] * factor)
        self.fit: nn.Module = nn.Identity() if up == tuple(side) else nn.AdaptiveAvgPool2d((side[0], side[1]))
        self.last = nn.Conv2d(_RESTORING, channels, 3, padding=1)
        self.activation: nn.Module = nn.ReLU() if structure["nonnegative"] else nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C', g, g) -> (N, C, H, W)."""
        return self.activation(self.last(self.fit(self.up(self.refine(feature)))))  # type: ignore[no-any-return]


def _layer(before: int, after: int, stride: int, *, depthwise: bool = False) -> nn.Sequential:
    """A 3x3 convolution, or a depthwise separable one, with batch norm and ReLU."""
    layers: list[nn.Module] = []
    if depthwise:
        layers += [nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm2d(before),
                   nn.ReLU(), nn.Conv2d(before, after, 1, bias=False)]
    else:
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(after), nn.ReLU())
