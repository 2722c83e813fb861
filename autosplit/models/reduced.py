"""Reduced heads: the backbone's own first layers on a smaller picture.

With half the height and width a layer has a quarter of the work, and its weights, which know what the backbone was
trained on, stay of use; an injected head of that cost begins from nothing. The device averages its picture over windows
of 2x2 pixels, so that the whole head is one network for every target; on the edge `Enlarge` brings the small feature
to the size that the backbone's layers behind the cut expect. The whole network on the device can be reduced too: that
is a network for smaller pictures, the *resolution multiplier* of MobileNets (arXiv 1704.04861).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.core.plan import REDUCED_BY
from autosplit.models.inference import evaluation_mode

__all__ = ["Enlarge", "reduced", "reduced_structure", "runs_reduced"]

_ENLARGING = 64
_SHRINK = "shrink_picture"


def reduced(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of a network, or of its head, that shrinks its pictures first.

    Args:
        graph: Takes images (N, C, H, W). Its nodes keep their names, so that the copy is cut where the network is.
    """
    found = copy.deepcopy(graph)
    found.add_module(_SHRINK, nn.AvgPool2d(REDUCED_BY))
    picture = next(node for node in found.graph.nodes if node.op == "placeholder")
    with found.graph.inserting_after(picture):
        smaller = found.graph.call_module(_SHRINK, (picture,))
    picture.replace_all_uses_with(smaller, delete_user_cb=lambda user: user is not smaller)
    found.recompile()
    return found


def runs_reduced(head: fx.GraphModule, shape: tuple[int, ...]) -> bool:
    """Whether a reduced head takes images (C, H, W): sizes of features may be written into a network's operations."""
    try:
        with evaluation_mode(head), torch.inference_mode():
            head(torch.zeros(2, *shape))
    except Exception:  # of many types
        return False
    return True


def reduced_structure(feature: tuple[int, ...], nonnegative: bool) -> dict[str, Any]:
    """What an `Enlarge` is built from, as JSON values.

    Args:
        feature: Channels, height, width of the backbone's feature at the split point.
        nonnegative: Whether that feature comes out of a ReLU.
    """
    return {"feature": list(feature), "nonnegative": nonnegative}


class Enlarge(nn.Module):
    """Feature of a reduced head -> the backbone's feature at the split point, on the edge.

    At first it only interpolates; what it adds to that is learnt.

    Args:
        structure: As `reduced_structure` gives it.
    """

    def __init__(self, structure: dict[str, Any]) -> None:
        super().__init__()
        channels, *side = structure["feature"]
        self._side = (int(side[0]), int(side[1]))
        self.detail = nn.Sequential(
            nn.Conv2d(channels, _ENLARGING, 3, padding=1, bias=False), nn.BatchNorm2d(_ENLARGING), nn.ReLU(),
            nn.Conv2d(_ENLARGING, _ENLARGING, 3, padding=1, bias=False), nn.BatchNorm2d(_ENLARGING), nn.ReLU(),
            last := nn.Conv2d(_ENLARGING, channels, 3, padding=1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.activation: nn.Module = nn.ReLU() if structure["nonnegative"] else nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, H, W)."""
        large = F.interpolate(feature, size=self._side, mode="bilinear", align_corners=False)
        return self.activation(large + self.detail(large))  # type: ignore[no-any-return]
