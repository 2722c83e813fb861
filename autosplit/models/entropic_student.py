"""Encoder and decoder of Entropic Student: what `compare` sets beside our own injected heads.

A reconstruction of Matsubara et al. 2022 (*Supervised Compression for Resource-Constrained Edge Computing Systems*,
arXiv 2108.11898; SC2, arXiv 2203.08875): two 5x5 convolutions of stride 2 and a 2x2 one straight from the image, of 4,
2 and 1 times the code's channels; on the edge three 2x2 convolutions restore the backbone's feature. What differs here:

- batch norm and ReLU stand for generalised divisive normalisation, which int8 devices do not have;
- the paper's 24 code channels belong to ResNet-50. Here they are as many of 24, 12, 6 and 3 as keep the encoder within
  a share of the backbone's work;
- the feature may have another resolution than a quarter of the image's, to which the decoder's is resized.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from autosplit.models.costs import stage_cost

__all__ = ["ENTROPIC_STUDENT", "StudentDecoder", "StudentEncoder", "student_structure"]

ENTROPIC_STUDENT = "entropic-student"
"""Name in structures and in the key `space.injected_encoder`."""

_CODE_CHANNELS = (24, 12, 6, 3)


def student_structure(
    image: tuple[int, int, int], feature: tuple[int, int, int], nonnegative: bool, most_macs: float
) -> dict[str, Any]:
    """What a `StudentEncoder` and its `StudentDecoder` are built from, as JSON values.

    Args:
        image: Channels, height, width of the input image.
        feature: Of the backbone's feature at the split point.
        nonnegative: Whether that feature comes out of a ReLU.
        most_macs: Multiply-accumulates that the encoder may take; where even 3 code channels take more, these.
    """
    structures = [{"encoder": ENTROPIC_STUDENT, "image": list(image), "feature": list(feature), "width": width,
                   "nonnegative": nonnegative} for width in _CODE_CHANNELS]
    return next((s for s in structures if stage_cost(StudentEncoder(s), image).macs <= most_macs), structures[-1])


class StudentEncoder(nn.Sequential):
    """Image -> code at about a quarter of its resolution, on the device.

    Args:
        structure: As `student_structure` gives it.
    """

    def __init__(self, structure: dict[str, Any]) -> None:
        channels, width = structure["image"][0], structure["width"]
        super().__init__(
            *_layer(channels, 4 * width, 5, 2, 2), *_layer(4 * width, 2 * width, 5, 2, 2),
            nn.Conv2d(2 * width, width, 2, bias=False), nn.BatchNorm2d(width))


class StudentDecoder(nn.Module):
    """Code -> the backbone's feature at the split point, on the edge.

    Args:
        structure: As `student_structure` gives it.
    """

    def __init__(self, structure: dict[str, Any]) -> None:
        super().__init__()
        width, (channels, *side) = structure["width"], structure["feature"]
        quarter = [math.ceil(math.ceil(pixels / 2) / 2) for pixels in structure["image"][1:]]
        self.layers = nn.Sequential(
            *_layer(width, 2 * channels, 2, 1, 1), *_layer(2 * channels, channels, 2, 1, 0),
            nn.Conv2d(channels, channels, 2, 1, 1))
        self.fit: nn.Module = nn.Identity() if quarter == side else nn.Upsample((side[0], side[1]), mode="bilinear")
        self.activation: nn.Module = nn.ReLU() if structure["nonnegative"] else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """(N, width, g, g) -> (N, C, H, W)."""
        return self.activation(self.fit(self.layers(code)))  # type: ignore[no-any-return]


def _layer(before: int, after: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
