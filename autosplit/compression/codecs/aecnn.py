"""`AecnnCodec`: channel attention picks the important channels, their code is entropy-coded, a light decoder restores.

A reconstruction of AECNN (Li, Iosifidis, Zhang 2023, arXiv 2211.13745) from its abstract; bit widths, layer sizes and
schedules there are unknown to us. Trained step by step, as the abstract says:

1. *attention*: squeeze-and-excitation weights (Hu et al. 2018, arXiv 1709.01507) scale the feature's channels, trained
   with the task's loss and a price on their mean, so that what is not needed fades; everything else frozen,
2. *selection*: channels are ranked by their mean attention over the training images; the attention is dropped, so it
   costs the device nothing,
3. *decoder*: the selected channels are quantised and a 3x3 convolution restores the feature, squared error,
4. *all together*: by whatever trains the rest of the network.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.compression.codecs.base import Codec, CodecParts, Offer, Phase, Quantiser, Quantisers, Shape
from autosplit.compression.quantise import fake_quantise
from autosplit.core.plan import CodecSetting

__all__ = ["AecnnCodec", "ChannelSelection", "LightDecoder"]

_REDUCTION = 4
_MOMENTUM = 0.05
_PRESSURE = 0.5  # what a mean weight of 1 costs: without it no channel needs to become unimportant


class ChannelSelection(nn.Module):
    """Feature -> its most important channels, normalised; on the device.

    Args:
        width: Channels that are kept.
    """

    channels: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("channels", torch.arange(width))
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H, W), unit variance a channel."""
        return self.norm(feature.index_select(1, self.channels))  # type: ignore[no-any-return]


class LightDecoder(nn.Module):
    """Code -> feature by one 3x3 convolution, on the edge.

    Args:
        width: Channels of the code.
        channels: Channels of the feature.
        nonnegative: Whether the feature comes out of a ReLU.
    """

    def __init__(self, width: int, channels: int, nonnegative: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.activation: nn.Module = nn.ReLU() if nonnegative else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, C, H, W)."""
        return self.activation(self.norm(self.conv(code)))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Weight of each channel in (0, 1), from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(2, channels // _REDUCTION)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)  # all channels count alike at first: what differs later was learned
        nn.init.zeros_(self.excite.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(feature.mean((2, 3))))))


class AecnnCodec(Codec):
    """Channel selection on the feature's own grid, with a light decoder for each width."""

    name: ClassVar[str] = "aecnn"
    importance: Tensor

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool) -> None:
        super().__init__(shape, offer, nonnegative)
        self.attention = _Attention(shape[0])
        self._weight = torch.zeros(1, shape[0])
        self._attended = False
        self.register_buffer("importance", torch.zeros(shape[0]))
        self.register_buffer("order", torch.arange(shape[0]))
        self.decoders = nn.ModuleDict({str(w): LightDecoder(w, shape[0], nonnegative) for w in self.widths})
        self.quantisers = Quantisers(self.bits)

    def fit(self, features: Tensor) -> None:
        """Until attention has been trained, the channels of most variance are the important ones."""
        self.importance.copy_(features.float().var((0, 2, 3)))
        self._select()

    def phases(self) -> tuple[Phase, ...]:
        """Attention with the selection at its end, then the decoders."""
        return (
            Phase("attention", 0.4, list(self.attention.parameters()), self._attend, "task", self._select,
                  lambda: _PRESSURE * self._weight.mean()),
            Phase("decoder", 0.6, list(self.decoders.parameters()), self.forward, "feature"),
        )

    def _attend(self, feature: Tensor, setting: CodecSetting) -> Tensor:  # noqa: ARG002
        """The feature with its channels weighed; keeps the running mean of the weights."""
        self._weight = self.attention(feature.float()).float()  # also under autocast
        with torch.no_grad():  # the first batch replaces what `fit` put there
            self.importance.lerp_(self._weight.mean(0), _MOMENTUM if self._attended else 1.0)
        self._attended = True
        return feature * self._weight[:, :, None, None]

    def _select(self) -> None:
        self._weight = self._weight.detach()  # a codec that is copied must not hold a graph
        # stable, so that equal weights are ordered the same everywhere
        self.order = torch.argsort(self.importance, descending=True, stable=True)

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """The most important channels, quantised, restored to all of them."""
        picked = feature.index_select(1, self.order[: setting.width])
        code = F.batch_norm(picked.float(), None, None, training=True)
        quantiser = self.quantisers.of(setting)
        code = fake_quantise(code, quantiser.bits, quantiser.limit)
        return self.decoders[str(setting.width)](code)  # type: ignore[no-any-return]

    def parts(self, setting: CodecSetting) -> CodecParts:
        """One setting as independent networks that hold copies of the weights."""
        width, _, _ = self.code_shape(setting)
        found = self.blank(self.structure(setting))
        with torch.no_grad():
            found.encoder.channels.copy_(self.order[:width])  # type: ignore[operator]
            found.quantiser.limit.copy_(self.quantisers.of(setting).limit)
        found.decoder.load_state_dict(self.decoders[str(width)].state_dict())
        return found

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """Code shape, channels of the feature, bits and whether negative values are cut."""
        return {"code": list(self.code_shape(setting)), "channels": self.shape[0], "bits": setting.bits,
                "nonnegative": self.nonnegative}

    @classmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting, their weights of no meaning."""
        width = structure["code"][0]
        decoder = LightDecoder(width, structure["channels"], structure["nonnegative"])
        return CodecParts(ChannelSelection(width), Quantiser(structure["bits"]), decoder)
