"""`JaladCodec`: min-max quantisation of the feature as it is, then entropy coding; nothing is learned.

The plain reference (Li et al. 2018, JALAD, arXiv 1812.10027). The range is that of calibration images instead of each
image's own, which saves sending it; channels are coded with a table each, where JALAD has one Huffman code for all.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosplit.compression.codecs.base import Codec, CodecParts, Offer, Quantiser
from autosplit.compression.quantise import fake_quantise, levels
from autosplit.core.plan import CodecSetting

__all__ = ["JaladCodec", "RangeScale"]


class RangeScale(nn.Module):
    """Feature -> code: the range that was seen, brought to that of the quantiser; and back.

    In training mode each batch widens the range that is kept; `reset_running_stats` starts anew, as for a batch norm.

    Args:
        bits: Bits a value.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))
        self.register_buffer("seen", torch.tensor(False))

    def reset_running_stats(self) -> None:
        """Forget the range; the next batch in training mode gives the first one."""
        self.seen.fill_(False)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, in the quantiser's range."""
        if self.training:
            low, high = (x.to(self.low.dtype) for x in feature.detach().aminmax())
            self.low.copy_(torch.minimum(low, self.low) if self.seen else low)
            self.high.copy_(torch.maximum(high, self.high) if self.seen else high)
            self.seen.fill_(True)
        return scaled(feature, self.low, self.high, self.bits)


class _Restore(nn.Module):
    """Code -> feature."""

    def __init__(self, scale: RangeScale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, code: Tensor) -> Tensor:
        return restored(code, self.scale.low, self.scale.high, self.scale.bits)


def scaled(feature: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """[low, high] -> from the lowest to the highest level of a quantiser of limit 1."""
    least, most = _ends(bits)
    return (feature - low) * ((most - least) / (high - low).clamp_min(1e-12)) + least


def restored(code: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The inverse of `scaled`."""
    least, most = _ends(bits)
    return (code - least) * ((high - low).clamp_min(1e-12) / (most - least)) + low


def _ends(bits: int) -> tuple[float, float]:
    """The lowest and the highest level, see `autosplit.compression.quantise`."""
    return (-0.5, 0.5) if bits == 1 else (-1.0, 1.0 - 2.0 / levels(bits))


class JaladCodec(Codec):
    """The whole feature, uniformly quantised between its least and its greatest value."""

    name: ClassVar[str] = "jalad"
    encoder_knows_bits: ClassVar[bool] = True

    def _widths(self, offer: Offer) -> tuple[int, ...]:  # noqa: ARG002
        return (self.shape[0],)

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Quantised between the least and the greatest value of this batch."""
        low, high = feature.detach().float().aminmax()
        bits = setting.bits or 0
        code = fake_quantise(scaled(feature.float(), low, high, bits), bits, torch.ones((), device=feature.device))
        return restored(code, low, high, bits)

    def parts(self, setting: CodecSetting) -> CodecParts:
        """Networks of the structure; their range is set by recalibration."""
        return self.blank(self.structure(setting))

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """Code shape and bits."""
        return {"code": list(self.code_shape(setting)), "bits": setting.bits}

    @classmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting, their range of no meaning."""
        bits = structure["bits"]
        scale = RangeScale(bits)
        return CodecParts(scale, Quantiser(bits, limit=1.0, learned=False), _Restore(scale))
