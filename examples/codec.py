"""A codec of your own: a 1x1 convolution each way. It mixes channels and leaves positions as they are.

    autosplit search --codec examples/codec.py:PixelCodec
    autosplit search --codec nested --codec examples/codec.py:PixelCodec

A codec stands for all settings (width, grid, bits) at one split point; the search chooses among `settings()`. Here each
width has an encoder and a decoder of its own, and all widths share the quantisers. Check yours with
`autosplit.testing.CodecContract`, as tests/test_examples.py does with this one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosplit.compression.codecs.base import Codec, CodecParts, Offer, Quantiser
from autosplit.core.plan import CodecSetting


class PixelEncoder(nn.Module):
    """Feature (N, C, H, W) -> code (N, width, H, W); the norm brings it to the unit variance that quantisers expect."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, feature: Tensor) -> Tensor:
        """On the device."""
        return self.norm(self.mix(feature))  # type: ignore[no-any-return]


class PixelDecoder(nn.Module):
    """Quantised code -> feature; a feature that comes out of a ReLU has no negative values, so they are cut off."""

    def __init__(self, width: int, channels: int, nonnegative: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, channels, 1)
        self.activation = nn.ReLU() if nonnegative else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """On the edge."""
        return self.activation(self.mix(code))  # type: ignore[no-any-return]


class PixelCodec(Codec):
    """Every width on offer, on the feature's own grid, with every number of bits."""

    name: ClassVar[str] = "pixel"

    def __init__(self, shape: tuple[int, int, int], offer: Offer, nonnegative: bool) -> None:
        super().__init__(shape, offer, nonnegative)
        self.encoders = nn.ModuleDict({str(w): PixelEncoder(shape[0], w) for w in self.widths})
        self.decoders = nn.ModuleDict({str(w): PixelDecoder(w, shape[0], nonnegative) for w in self.widths})
        self.quantisers = nn.ModuleDict({str(b): Quantiser(b) for b in self.bits})

    def fit(self, features: Tensor) -> None:
        """Start where training is short: each code channel is a principal component, and the decoder puts it back.

        Called once, with features (N, C, H, W) of the trained backbone. A codec may do without: all is trained.
        """
        pixels = features.transpose(0, 1).flatten(1)
        mean = pixels.mean(1, keepdim=True)
        _, directions = torch.linalg.eigh(torch.cov(pixels))  # ascending
        for width in self.widths:
            chosen = directions[:, -width:].T
            spread = (chosen @ (pixels - mean)).std(1, keepdim=True)  # what the encoder's norm divides by
            with torch.no_grad():
                self.encoders[str(width)].mix.weight.copy_(chosen[:, :, None, None])
                self.decoders[str(width)].mix.weight.copy_((chosen * spread).T[:, :, None, None])
                self.decoders[str(width)].mix.bias.copy_(mean[:, 0])

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """One setting in training: feature -> code -> quantised -> feature."""
        width = str(setting.width)
        code = self.encoders[width](feature)
        return self.decoders[width](self.quantisers[str(setting.bits)](code.float()))  # type: ignore[no-any-return]

    def parts(self, setting: CodecSetting) -> CodecParts:
        """One setting as networks with copies of the weights, for a plan that is measured or deployed."""
        found = self.blank(self.structure(setting))
        found.encoder.load_state_dict(self.encoders[str(setting.width)].state_dict())
        found.quantiser.load_state_dict(self.quantisers[str(setting.bits)].state_dict())
        found.decoder.load_state_dict(self.decoders[str(setting.width)].state_dict())
        return found

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """What `blank` needs, as JSON: it goes into best.json."""
        width = self.code_shape(setting)[0]  # which refuses settings that are not on offer
        return {"channels": self.shape[0], "width": width, "bits": setting.bits, "nonnegative": self.nonnegative}

    @classmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting; weights are loaded into them."""
        channels, width = structure["channels"], structure["width"]
        return CodecParts(PixelEncoder(channels, width), Quantiser(structure["bits"]),
                          PixelDecoder(width, channels, structure["nonnegative"]))
