"""`FactorisedCodec`: rate and accuracy weighed against one another in training; one set of weights for all rates.

What a code costs to send is a term of the loss, by a density of each channel that is learned along
(`autosplit.compression.entropy_model`; the factorised prior of Balle et al. 2018, arXiv 1802.01436). Each *rate* has a
price of a bit, and a step for each channel, which training makes as wide as it may be. A channel that is not worth its
bits at that price ends in one wide cell, whose symbols are all zero; such channels are left out when the training is
over (`settle`), so that the device does not compute them. Encoder, decoder and densities are shared by all rates (gain
vectors of Cui et al. 2021, arXiv 2003.02012).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosplit.compression.codecs.base import Offer, Quantiser, Shape
from autosplit.compression.codecs.patches import PatchCodec
from autosplit.compression.entropy_model import EntropyModel, RateQuantiser, prices
from autosplit.compression.quantise import fake_quantise, levels, quantise
from autosplit.core.errors import ConfigError
from autosplit.core.plan import CodecSetting

__all__ = ["FactorisedCodec"]

_FINEST_STEP, _WIDEST_STEP = 0.2, 2.5  # at the start, in standard deviations; wider ones would leave nothing
_MOST_BITS = 6
_LEAST_USE = 2e-3  # share of a channel's symbols that are not zero


class FactorisedCodec(PatchCodec):
    """Ordered grids, as many channels as are on offer, and a number of rates."""

    name: ClassVar[str] = "factorised"
    kept: Tensor

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool) -> None:
        super().__init__(shape, offer, nonnegative)
        # enough for the range of a code; more would only take frequencies from the symbols that occur
        self.bits = (max((b for b in offer.bits if b <= _MOST_BITS), default=offer.bits[0]),)
        self.prices = prices(offer.rates)
        width = self.widths[-1]
        # Where a bit is worth its price, the square of the step grows with the price (error ~ step^2 / 12, bits ~
        # -log2 step): the first guess, from which a common part and each rate's own are learned.
        most = math.log(_WIDEST_STEP / _FINEST_STEP)
        ratio = [min(0.5 * math.log(price / self.prices[-1]), most) for price in self.prices]
        self.log_step_common = nn.Parameter(torch.full((len(self.grids), 1, width), math.log(_FINEST_STEP)))
        self.log_step = nn.Parameter(torch.tensor(ratio)[:, None].repeat(len(self.grids), 1, width))
        self.entropy_models = nn.ModuleDict({str(grid): EntropyModel(width) for grid in self.grids})
        self.register_buffer("kept", torch.ones_like(self.log_step, dtype=torch.bool))
        for row, grid in zip(self.kept, self.grids, strict=True):
            row[:, self._level_width(grid):] = False
        self._cost = torch.zeros(())

    def settings(self) -> tuple[CodecSetting, ...]:
        """Every rate on every grid, fewest bytes first."""
        return tuple(self._rated(grid, rate) for rate in range(len(self.prices)) for grid in self.grids)

    def _rated(self, grid: int, rate: int) -> CodecSetting:
        width = int(self.kept[self._row(grid), rate].sum())
        return CodecSetting(kind="code", family=self.family, width=width, grid=grid, bits=self.bits[0], rate=rate)

    def _row(self, grid: int) -> int:
        return list(self.grids).index(grid)

    def settle(self, features: Tensor) -> None:
        """Leave out the channels whose symbols are nearly all zero; the one that is used most is kept in any case."""
        for setting in self.settings():
            encoder, quantiser, _ = self.extract(setting)
            with torch.no_grad():
                symbols = quantise(encoder.train()(features), quantiser.bits, quantiser.bound)
            use = (symbols != levels(quantiser.bits) // 2).float().mean((0, 2, 3))
            wanted = use > _LEAST_USE
            wanted[use.argmax()] = True
            kept = self.kept[self._row(setting.grid or 0), setting.rate or 0]
            kept[self._channels(setting)[~wanted]] = False

    @property
    def widest(self) -> CodecSetting:
        """The full grid at the rate of most bytes."""
        return self._rated(next(iter(self.grids)), len(self.prices) - 1)

    def code_shape(self, setting: CodecSetting) -> Shape:
        """Shape (K, gh, gw) of a setting's code."""
        grid, rate = setting.grid or 0, setting.rate
        known = grid in self.grids and rate is not None and rate < len(self.prices)
        if not known or setting != self._rated(grid, rate or 0):
            raise ConfigError(f"codec {self.family!r} has no setting {setting.label!r} for a feature of shape "
                              f"{self.shape}")
        return (setting.width or 0, *self.grids[grid])

    def _channels(self, setting: CodecSetting) -> Tensor:
        """Numbers of the channels that are kept, (K,)."""
        return self.kept[self._row(setting.grid or 0), setting.rate].nonzero()[:, 0]

    def _log_step(self, setting: CodecSetting) -> Tensor:
        """Of each channel of a setting, (K, 1, 1)."""
        row, channels = self._row(setting.grid or 0), self._channels(setting)
        return (self.log_step_common[row, 0, channels] + self.log_step[row, setting.rate, channels])[:, None, None]

    def _model(self, setting: CodecSetting) -> EntropyModel:
        found = self.entropy_models[str(setting.grid)]
        assert isinstance(found, EntropyModel)
        return found

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Feature -> code -> quantised -> feature; keeps what the code costs for `cost`."""

        def quantised(code: Tensor) -> Tensor:
            step, channels = self._log_step(setting).exp(), self._channels(setting)
            self._cost = self.prices[setting.rate or 0] * self._model(setting).bits(code, step, channels).mean()
            return fake_quantise(code, self.bits[0], step * (levels(self.bits[0]) / 2))

        return self._restored(feature, setting, quantised)

    def cost(self) -> Tensor:
        """What the bits of the last batch add to the loss; asked for once a batch."""
        cost, self._cost = self._cost, torch.zeros(())  # a codec that is copied must not hold a graph
        return cost

    def _copy_quantiser(self, setting: CodecSetting, into: Quantiser) -> None:
        assert isinstance(into, RateQuantiser)
        into.log_step.copy_(self._log_step(setting))
        state, channels = self._model(setting).state_dict(), self._channels(setting)
        into.entropy_model.load_state_dict({n: t[channels] for n, t in state.items()})

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """As of all patch codecs, with the price of a bit."""
        return {**super().structure(setting), "price": self.prices[setting.rate or 0]}

    @classmethod
    def _blank_quantiser(cls, structure: dict[str, Any]) -> Quantiser:
        return RateQuantiser(structure["bits"], structure["code"][0], structure["price"])
