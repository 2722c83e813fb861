"""`NestedCodec`: one codec a split point for every width, grid and bit depth, without a rate in its loss.

*Ordered channels*: a prefix of the code's channels is itself a code, as in Matryoshka representations (Kusupati et al.
2022, arXiv 2205.13147). A learned clipping limit a channel and bit depth decides how finely each channel is quantised;
what a code costs to send follows from its width, grid and bits, and training does not know of it (`factorised` does).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from autosplit.compression.codecs.base import Offer, Quantiser, Quantisers, Shape
from autosplit.compression.codecs.patches import PatchCodec
from autosplit.compression.quantise import fake_quantise
from autosplit.core.plan import CodecSetting

__all__ = ["NestedCodec"]


class NestedCodec(PatchCodec):
    """Ordered code channels on ordered grids, with a quantiser for each bit depth."""

    name: ClassVar[str] = "nested"

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool) -> None:
        super().__init__(shape, offer, nonnegative)
        self.quantisers = Quantisers(self.bits, self.widths[-1])

    @property
    def widest(self) -> CodecSetting:
        """The full grid with as many channels as it can use, finest quantisation."""
        grid = next(iter(self.grids))
        return self._setting(self._level_width(grid), grid, self.bits[-1])

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Feature -> code -> quantised -> feature, with a prefix of the code channels."""
        quantiser = self.quantisers.of(setting)
        limit = quantiser.limit[: setting.width]
        return self._restored(feature, setting, lambda code: fake_quantise(code, quantiser.bits, limit))

    def _copy_quantiser(self, setting: CodecSetting, into: Quantiser) -> None:
        into.limit.copy_(self.quantisers.of(setting).limit[: setting.width])

    @classmethod
    def _blank_quantiser(cls, structure: dict[str, Any]) -> Quantiser:
        return Quantiser(structure["bits"], structure["code"][0])
