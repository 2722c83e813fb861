"""`BottleNetCodec`: a sigmoid bottleneck through a noisy channel (BottleNet++, Shao and Zhang 2020, arXiv 1910.14315).

    feature (C, H, W) -> 3x3 convolution (stride s) -> batch norm -> sigmoid -> code (K, H/s, W/s)
    code -> channel noise -> + a plane that holds the noise level -> upsample -> 3x3 convolution -> batch norm -> ReLU

Three phases of training: the backbone; the codec with the backbone frozen; everything together. The faults of the
released code are not repeated: its decoder branches were swapped, a cast wrapped 1.0 to 0, and checkpoints were chosen
on test accuracy. Two things are added so that it can be compared at equal bytes: bit depths below 8, and the entropy
coder that all codecs here share. Options: `bottlenet++:awgn=0.1` and `bottlenet++:erasure=0.01` train through noise.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosplit.compression.channel_noise import build_channel
from autosplit.compression.codecs.base import Codec, CodecParts, Offer, Phase, Quantiser, Shape, code_grids
from autosplit.core.plan import CodecSetting

__all__ = ["BottleNetCodec", "BottleNetDecoder", "BottleNetEncoder"]

_STRIDES = 3


class BottleNetEncoder(nn.Module):
    """Feature -> code in [-1, 1], on the device.

    Args:
        channels: Channels of the feature.
        width: Channels of the code.
        stride: Of the convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H/stride, W/stride)."""
        # the sigmoid's (0, 1), brought to the quantiser's range
        return torch.sigmoid(self.norm(self.conv(feature))) * 2 - 1


class BottleNetDecoder(nn.Module):
    """Code -> feature, on the edge.

    Args:
        feature: Channels, height, width of the feature.
        width: Channels of the code.
        noise: The channel that the code goes through, as text for `build_channel`.
        nonnegative: Whether the feature comes out of a ReLU.
    """

    def __init__(self, feature: Shape, width: int, noise: str, nonnegative: bool) -> None:
        super().__init__()
        self.channel = build_channel(noise)
        self.up = nn.Upsample(feature[1:], mode="nearest")
        self.conv = nn.Conv2d(width + 1, feature[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(feature[0])
        self.activation: nn.Module = nn.ReLU() if nonnegative else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """(N, width, gh, gw) -> (N, C, H, W)."""
        arrived = self.channel(code)
        plane = torch.full_like(arrived[:, :1], self.channel.level)
        restored = self.conv(self.up(torch.cat([arrived, plane], 1)))
        return self.activation(self.norm(restored))  # type: ignore[no-any-return]


class BottleNetCodec(Codec):
    """A bottleneck of its own for each width and grid."""

    name: ClassVar[str] = "bottlenet++"

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool, noise: str = "") -> None:
        super().__init__(shape, offer, nonnegative)
        self.noise = noise
        self.family = f"{self.name}:{noise}" if noise else self.name
        blanks = {(w, g): self.blank(self.structure(self._setting(w, g, self.bits[0])))
                  for w in self.widths for g in self.grids}
        self.encoders = nn.ModuleDict({f"{w}x{g}": parts.encoder for (w, g), parts in blanks.items()})
        self.decoders = nn.ModuleDict({f"{w}x{g}": parts.decoder for (w, g), parts in blanks.items()})
        self.quantisers = {b: Quantiser(b, limit=1.0, learned=False) for b in self.bits}

    def _grids(self, offer: Offer) -> tuple[tuple[int, int], ...]:
        """The feature's own grid, and what strides of 2 and 4 leave of it."""
        levels = _STRIDES if offer.grid_levels is None else min(_STRIDES, offer.grid_levels)
        sides = [(g, [(side - 1) // _stride(self.shape, g) + 1 for side in self.shape[1:]])
                 for g in code_grids(self.shape, None, levels)]
        return tuple(g for g, strided in sides if list(g) == strided)  # after a 3x3 convolution with padding 1

    def phases(self) -> tuple[Phase, ...]:
        """The second of the three: encoder and decoder with the backbone frozen."""
        return (Phase("bottleneck", 1.0, [*self.encoders.parameters(), *self.decoders.parameters()], self.forward,
                      "task"),)

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Encode, quantise, disturb (in training), decode."""
        which = f"{setting.width}x{setting.grid}"
        code = self.encoders[which](feature).float()
        return self.decoders[which](self.quantisers[setting.bits or 0].to(code.device)(code))  # type: ignore[no-any-return]

    def parts(self, setting: CodecSetting) -> CodecParts:
        """One setting as independent networks that hold copies of the weights."""
        found = self.blank(self.structure(setting))
        which = f"{setting.width}x{setting.grid}"
        found.encoder.load_state_dict(self.encoders[which].state_dict())
        found.decoder.load_state_dict(self.decoders[which].state_dict())
        return found

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """Feature and code shapes, bits, noise and whether negative values are cut."""
        return {"feature": list(self.shape), "code": list(self.code_shape(setting)), "bits": setting.bits,
                "noise": self.noise, "nonnegative": self.nonnegative}

    @classmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting, their weights of no meaning."""
        channels, height, side = structure["feature"]
        width, *grid = structure["code"]
        stride = _stride((channels, height, side), (grid[0], grid[1]))
        return CodecParts(
            BottleNetEncoder(channels, width, stride), Quantiser(structure["bits"], limit=1.0, learned=False),
            BottleNetDecoder((channels, height, side), width, structure["noise"], structure["nonnegative"]),
        )


def _stride(shape: Shape, grid: tuple[int, int]) -> int:
    return max(math.ceil(shape[1] / grid[0]), math.ceil(shape[2] / grid[1]))
