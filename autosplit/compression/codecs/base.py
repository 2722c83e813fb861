"""What a codec is: encoder, quantiser and decoder for the feature at a cut, for every setting on offer.

Life cycle: a supernet builds one codec a split point and family (`__init__`), shows it features of the trained
backbone (`fit`), lets it go through its own training steps with the backbone frozen (`phases`), then trains it
together with the backbone (`forward`). A plan's codec is copied out as three plain networks (`parts`); a deployment
rebuilds them without weights from JSON (`structure`, `blank`) and loads what was stored.

An author of a family overrides what is abstract here and subclasses `autosplit.testing.CodecContract`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosplit.compression.quantise import fake_quantise
from autosplit.core.errors import ConfigError
from autosplit.core.plan import CodecSetting
from autosplit.models.inference import device_of
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables

__all__ = ["Codec", "CodecParts", "Offer", "Phase", "Quantiser", "code_grids"]

Shape = tuple[int, int, int]

# clipping limits that minimise the squared error of a unit Gaussian (Lin et al. 2016, table 1), the start of learning
_INITIAL_LIMITS = {1: 1.6, 2: 2.0, 3: 2.3, 4: 2.6, 5: 3.0, 6: 3.4, 7: 3.7, 8: 4.0}


@dataclass(frozen=True)
class Offer:
    """The settings that a search space offers to a codec; a family takes those that make sense for it.

    Attributes:
        widths: Code channels, ascending.
        bits: Bits a value before entropy coding, ascending.
        max_grid: Upper bound of the code grid's larger side, in cells; `None` = the feature's own size.
        grid_levels: Halvings of the grid, the full one included; `None` = down to a single cell.
        rates: Rates of a family with a rate in its loss.
    """

    widths: tuple[int, ...]
    bits: tuple[int, ...]
    max_grid: int | None = None
    grid_levels: int | None = None
    rates: int = 8


class CodecParts(NamedTuple):
    """One setting as independent networks.

    Attributes:
        encoder: Feature (N, C, H, W) -> code (N, K, gh, gw), on the device.
        quantiser: Code -> quantised code.
        decoder: Code -> feature, on the edge.
    """

    encoder: nn.Module
    quantiser: Quantiser
    decoder: nn.Module


@dataclass(frozen=True)
class Phase:
    """One step of a codec's own training, with head and tail frozen.

    Attributes:
        name: For the progress bar.
        share: Share of the steps that are spent on codecs before everything is trained together.
        parameters: What is trained.
        restore: (feature, setting) -> what the tail gets.
        loss: `task` = distance of the tail's answer to the backbone's, `feature` = squared error of the feature.
        finish: Called when the phase is over.
        penalty: Added to the loss of the step whose `restore` was called last.
    """

    name: str
    share: float
    parameters: Sequence[nn.Parameter]
    restore: Callable[[Tensor, CodecSetting], Tensor]
    loss: Literal["task", "feature"]
    finish: Callable[[], None] = lambda: None
    penalty: Callable[[], Tensor] | None = None


class Quantiser(nn.Module):
    """Uniform quantiser with clipping limits, learned or given; straight-through in training.

    Args:
        bits: Bits a value.
        channels: Channels of the code, each with a limit of its own; 0 = one limit for all.
        limit: Values are clipped to [-limit, limit] at first; by default the best limit for a unit Gaussian.
        learned: Whether training moves the limits.
    """

    limit: Tensor

    def __init__(self, bits: int, channels: int = 0, limit: float = 0.0, learned: bool = True) -> None:
        super().__init__()
        self.bits = bits
        start = torch.full((channels, 1, 1) if channels else (), limit or _INITIAL_LIMITS[bits])
        self.limit = nn.Parameter(start, requires_grad=learned)

    @property
    def bound(self) -> Tensor:
        """Values are clipped to [-bound, bound]; of the shape of `limit`."""
        return self.limit

    def forward(self, code: Tensor) -> Tensor:
        """Code -> the values that the decoder will see."""
        return fake_quantise(code, self.bits, self.bound)

    def cost(self) -> Tensor:
        """What the bytes of the last batch add to the loss: nothing, unless the family has a rate in its loss."""
        return torch.zeros(())

    def expected(self) -> NDArray[np.float64] | None:
        """How probable each symbol is, (channels, levels), where the family has learned a model of its code."""
        return None

    def tables(self, symbols: Tensor) -> FrequencyTables:
        """Tables for the entropy coder.

        Args:
            symbols: Of calibration images, int32 (N, K, gh, gw).
        """
        return FrequencyTables.fit(symbols.cpu().numpy(), self.bits, self.expected())


class Quantisers(nn.ModuleDict):
    """A quantiser for each bit depth.

    Args:
        bits: The depths.
        channels: As in `Quantiser`.
    """

    def __init__(self, bits: Iterable[int], channels: int = 0) -> None:
        super().__init__({str(b): Quantiser(b, channels) for b in bits})

    def of(self, setting: CodecSetting) -> Quantiser:
        """The one that a setting codes with."""
        found = self[str(setting.bits)]
        assert isinstance(found, Quantiser)
        return found


class Codec(nn.Module, ABC):
    """All settings of one family at one split point.

    Args:
        shape: Channels, height, width of the feature.
        offer: Settings on offer.
        nonnegative: Whether the feature comes out of a ReLU, so that negative values can be cut off.

    Attributes:
        encoder_knows_bits: Whether encoders of settings that differ in bits alone differ.
        one_model: Whether all settings share their weights, so that several can be rates of one bundle.
        family: Name in `autosplit.compression.load_codec`, which settings carry.
        grids: Code grids (height, width) by their height, largest first.
        widths: Code channels on offer, ascending.
        bits: Bit depths on offer, ascending.
    """

    name: ClassVar[str]
    encoder_knows_bits: ClassVar[bool] = False
    one_model: ClassVar[bool] = False

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool) -> None:
        super().__init__()
        self.family = self.name
        self.shape, self.nonnegative = shape, nonnegative
        self.bits = offer.bits
        # a setting names its grid by the height
        self.grids = {g[0]: g for g in self._grids(offer)}
        self.widths = self._widths(offer)

    def _grids(self, offer: Offer) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        """Grids that this family codes on: the feature's own, unless overridden."""
        return (self.shape[1:],)

    def _widths(self, offer: Offer) -> tuple[int, ...]:
        """Widths that this family codes with: all that are no more than the feature has, unless overridden."""
        return tuple(w for w in offer.widths if w <= self.shape[0]) or (self.shape[0],)

    def settings(self) -> tuple[CodecSetting, ...]:
        """Every setting, narrowest first."""
        return tuple(self._setting(w, g, b) for w in self.widths for g in self.grids if self._fits(w, g)
                     for b in self.bits)

    def _fits(self, width: int, grid: int) -> bool:  # noqa: ARG002
        """Whether this width is on offer on this grid."""
        return True

    def _setting(self, width: int, grid: int, bits: int) -> CodecSetting:
        return CodecSetting(kind="code", family=self.family, width=width, grid=grid, bits=bits)

    @property
    def widest(self) -> CodecSetting:
        """The setting that loses least."""
        return self._setting(self.widths[-1], next(iter(self.grids)), self.bits[-1])

    def code_shape(self, setting: CodecSetting) -> Shape:
        """Shape (K, gh, gw) of a setting's code.

        Raises:
            ConfigError: The setting is not on offer here.
        """
        known = setting.grid in self.grids and setting.width in self.widths and setting.bits in self.bits
        if not known or not self._fits(setting.width or 0, setting.grid or 0):
            raise ConfigError(f"codec {self.family!r} has no setting {setting.label!r} for a feature of shape "
                              f"{self.shape}")
        return (setting.width or 0, *self.grids[setting.grid or 0])

    def fit(self, features: Tensor) -> None:
        """Set what needs no training, from features (N, C, H, W) of the trained backbone."""

    def settle(self, features: Tensor) -> None:
        """Called when the joint training is over, with features as `fit`; settings may have fewer channels then."""

    def phases(self) -> tuple[Phase, ...]:
        """Steps of training before everything is trained together; none unless overridden."""
        return ()

    @abstractmethod
    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Feature -> code -> quantised -> feature; differentiable, with the statistics of this batch."""

    def cost(self) -> Tensor:
        """What the bytes of the last batch add to the loss; nothing unless overridden."""
        return torch.zeros(())

    @abstractmethod
    def parts(self, setting: CodecSetting) -> CodecParts:
        """One setting as independent networks that hold copies of the weights, on any device."""

    def extract(self, setting: CodecSetting) -> CodecParts:
        """What `parts` gives, on the device that this codec is on."""
        device, (encoder, quantiser, decoder) = device_of(self), self.parts(setting)
        return CodecParts(encoder.to(device), quantiser.to(device), decoder.to(device))

    @abstractmethod
    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """All that `blank` needs to know of a setting, as JSON values."""

    @classmethod
    @abstractmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting, their weights of no meaning."""


def code_grids(shape: Shape, max_grid: int | None, grid_levels: int | None) -> tuple[tuple[int, int], ...]:
    """Grids that a code of this feature may have, largest first: the feature's own, then halvings of it.

    Args:
        shape: Channels, height and width of the feature.
        max_grid: Upper bound of the larger side, in cells; `None` = the feature's own size.
        grid_levels: How many halvings, the full grid included; `None` = down to one cell.

    Returns:
        (height, width) pairs, no two of one height, since a setting names its grid by the height.
    """
    _, h, w = shape
    patch = 1 if max_grid is None else max(1, math.ceil(max(h, w) / max_grid))
    full = (math.ceil(h / patch), math.ceil(w / patch))
    # as many halvings as lead down to one cell
    most = max(full).bit_length() + 1 if grid_levels is None else grid_levels
    grids: list[tuple[int, int]] = []
    for level in range(most):
        grid = (math.ceil(full[0] / 2**level), math.ceil(full[1] / 2**level))
        if not grids or grid[0] < grids[-1][0]:
            grids.append(grid)
    return tuple(grids)
