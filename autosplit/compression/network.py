"""`SplitNetwork`: one plan as a network that runs, cut at the place where bytes cross."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from autosplit.compression.codecs.base import Quantiser
from autosplit.compression.quantise import dequantise, quantise
from autosplit.models.exits import ExitNetwork

__all__ = ["SplitNetwork", "recalibrate"]


class SplitNetwork(nn.Module):
    """Head, codec and tail of one plan.

    Args:
        head: Image -> feature, on the device.
        tail: Feature -> logits, on the edge; identity when the whole network runs on the device.
        encoder: Feature -> code; `None` with `quantiser` and `decoder` when the feature crosses as it is.
        quantiser: Code -> quantised code.
        decoder: Code -> feature.
        exit: Feature or image -> logits, on the device; what it is sure of is not sent.
    """

    def __init__(
        self,
        head: nn.Module,
        tail: nn.Module,
        encoder: nn.Module | None = None,
        quantiser: Quantiser | None = None,
        decoder: nn.Module | None = None,
        exit: ExitNetwork | None = None,  # noqa: A002
    ) -> None:
        super().__init__()
        self.head, self.tail = head, tail
        self.encoder, self.quantiser, self.decoder, self.exit = encoder, quantiser, decoder, exit

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> logits (N, classes), quantised at the cut; differentiable."""
        feature = self.head(images)
        if self.encoder is not None and self.quantiser is not None and self.decoder is not None:
            feature = self.decoder(self.quantiser(self.encoder(feature)))
        return self.tail(feature)  # type: ignore[no-any-return]

    def on_processor(self) -> SplitNetwork:
        """Itself where it is on the processor, else a copy there."""
        if all(t.device.type == "cpu" for t in (*self.parameters(), *self.buffers())):
            return self
        return copy.deepcopy(self).cpu()

    def cost(self) -> Tensor:
        """What the bytes of the last batch add to the loss, where the codec has a rate in its loss."""
        return torch.zeros(()) if self.quantiser is None else self.quantiser.cost()

    def symbols(self, images: Tensor) -> Tensor:
        """Device side: images -> symbols of the code, int32 (N, K, g, g)."""
        return self.symbols_of(self.head(images))

    def symbols_of(self, feature: Tensor) -> Tensor:
        """Device side: what the head gives -> symbols of the code."""
        if self.encoder is None or self.quantiser is None:
            raise ValueError("this plan has no codec, so nothing is quantised at its cut")
        return quantise(self.encoder(feature), self.quantiser.bits, self.quantiser.bound)

    def finish(self, symbols: Tensor) -> Tensor:
        """Edge side: symbols -> logits."""
        if self.decoder is None or self.quantiser is None:
            raise ValueError("this plan has no codec, so there are no symbols to decode")
        code = dequantise(symbols, self.quantiser.bits, self.quantiser.bound)
        return self.tail(self.decoder(code))  # type: ignore[no-any-return]


def recalibrate(network: nn.Module, images: Tensor, batch_size: int = 128) -> None:
    """Estimate the statistics of batch norms (and ranges) anew, as the average over batches of `images`.

    A network with weights inherited from a supernet has statistics of other plans; without new ones its
    accuracy says nothing (Li et al. 2020, EagleEye, arXiv 2007.02491).

    Args:
        network: Changed in place; left in evaluation mode.
        images: Normalised images (N, C, H, W), N >= 2.
        batch_size: Images of a batch.
    """
    network.eval()
    # batch norms, and the ranges of plain quantisers; all else stays in evaluation mode, dropout above all
    layers: list[Any] = [m for m in network.modules()
                         if hasattr(m, "reset_running_stats") and getattr(m, "track_running_stats", True)]
    momenta = [getattr(m, "momentum", None) for m in layers]
    for m in layers:
        m.reset_running_stats()
        m.momentum = None  # the average over all batches, in place of a running one that favours the last
        m.train()
    size = min(batch_size, len(images))  # full batches only, so that each weighs the same in the average
    with torch.inference_mode():
        for start in range(0, len(images) - size + 1, size):
            network(images[start : start + size])
    for m, momentum in zip(layers, momenta, strict=True):
        m.momentum = momentum
    network.eval()
