"""Codecs: what shrinks the feature at the cut and brings it back.

`NestedCodec` is the default: one pair of encoder and decoder per split point serves every width, grid and bit
depth, because its code channels are ordered (a prefix is itself a code, as in Matryoshka representations,
Kusupati et al. 2022) and its grid is pooled. A supernet trains it with random prefixes; `pair` copies one
setting out as two plain networks.

    feature (C, H, W) -> patch convolution -> pool to the grid -> batch norm without affine -> code (K, g, g)
    code -> upsample to the full grid -> 3x3 convolution -> transposed patch convolution -> feature (C, H, W)

The batch norm gives each code channel unit variance, so that one clipping limit a bit depth, learned, fits all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.compression.quantise import fake_quantise
from autosplit.plan import CodecSetting

__all__ = ["Decoder", "Encoder", "NestedCodec", "Quantiser", "code_grids"]

_DECODER_WIDTH = 32
# clipping limits that minimise the squared error of a unit Gaussian (Lin et al. 2016, table 1), the start of learning
_INITIAL_LIMITS = {1: 1.6, 2: 2.0, 3: 2.3, 4: 2.6, 5: 3.0, 6: 3.4, 7: 3.7, 8: 4.0}


def code_grids(shape: tuple[int, int, int], max_grid: int, grid_levels: int) -> tuple[tuple[int, int], ...]:
    """Grids that a code of this feature may have, largest first.

    Args:
        shape: Channels, height and width of the feature.
        max_grid: Upper bound of the larger side, in cells.
        grid_levels: How many halvings, the full grid included.

    Returns:
        (height, width) pairs, no two of one height, since a setting names its grid by the height.
    """
    _, h, w = shape
    patch = _patch(shape, max_grid)
    full = (math.ceil(h / patch), math.ceil(w / patch))
    grids: list[tuple[int, int]] = []
    for level in range(grid_levels):
        grid = (math.ceil(full[0] / 2**level), math.ceil(full[1] / 2**level))
        if not grids or grid[0] < grids[-1][0]:
            grids.append(grid)
    return tuple(grids)


def _patch(shape: tuple[int, int, int], max_grid: int) -> int:
    return max(1, math.ceil(max(shape[1], shape[2]) / max_grid))


class Encoder(nn.Module):
    """Feature -> code, on the device.

    Args:
        shape: Channels, height, width of the feature.
        width: Channels of the code.
        grid: Height and width of the code.
        patch: Side of the square of feature positions that one cell of the full grid sees.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        margins = (0, -shape[2] % patch, 0, -shape[1] % patch)
        self.pad = nn.ZeroPad2d(margins) if _ragged(shape, patch) else nn.Identity()
        self.conv = nn.Conv2d(shape[0], width, patch, patch, bias=False)
        full = (math.ceil(shape[1] / patch), math.ceil(shape[2] / patch))
        self.pool: nn.Module = nn.Identity() if grid == full else nn.AdaptiveAvgPool2d(grid)
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, grid, grid), unit variance a channel."""
        return self.norm(self.pool(self.conv(self.pad(feature))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Code -> feature, on the edge.

    Args:
        shape: Channels, height, width of the feature.
        width: Channels of the code.
        grid: Height and width of the code.
        patch: As for the encoder.
        nonnegative: Whether the feature comes out of a ReLU, so that negative values can be cut off.
    """

    def __init__(
        self, shape: tuple[int, int, int], width: int, grid: tuple[int, int], patch: int, nonnegative: bool
    ) -> None:
        super().__init__()
        full = (math.ceil(shape[1] / patch), math.ceil(shape[2] / patch))
        self.up: nn.Module = nn.Identity() if grid == full else nn.Upsample(full, mode="bilinear", align_corners=False)
        self.conv = nn.Conv2d(width, _DECODER_WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(_DECODER_WIDTH)
        self.relu = nn.ReLU()
        self.expand = nn.ConvTranspose2d(_DECODER_WIDTH, shape[0], patch, patch)
        self.crop = _Crop(shape[1], shape[2]) if _ragged(shape, patch) else nn.Identity()
        self.out: nn.Module = nn.ReLU() if nonnegative else nn.Identity()

    def forward(self, code: Tensor) -> Tensor:
        """(N, width, grid, grid) -> (N, C, H, W)."""
        hidden = self.relu(self.norm(self.conv(self.up(code))))
        return self.out(self.crop(self.expand(hidden)))  # type: ignore[no-any-return]


class _Crop(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.height, : self.width]


def _ragged(shape: tuple[int, int, int], patch: int) -> bool:
    return shape[1] % patch != 0 or shape[2] % patch != 0


class Quantiser(nn.Module):
    """Uniform quantiser with a learned clipping limit, straight-through in training.

    Args:
        bits: Bits a value.
        limit: Values are clipped to [-limit, limit].
    """

    limit: Tensor

    def __init__(self, bits: int, limit: float = 0.0) -> None:
        super().__init__()
        self.bits = bits
        self.limit = nn.Parameter(torch.tensor(limit or _INITIAL_LIMITS[bits]))

    def forward(self, code: Tensor) -> Tensor:
        """Code -> the values that the decoder will see."""
        return fake_quantise(code, self.bits, self.limit)


class NestedCodec(nn.Module):
    """Ordered code channels on a poolable grid: one codec for all settings of a split point.

    Args:
        shape: Channels, height, width of the feature.
        widths: Code widths on offer.
        bits: Bit depths on offer.
        max_grid: Upper bound of the code grid's larger side.
        grid_levels: Halvings of the grid on offer.
        nonnegative: Whether the feature comes out of a ReLU.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        widths: Sequence[int],
        bits: Sequence[int],
        max_grid: int,
        grid_levels: int,
        nonnegative: bool,
    ) -> None:
        super().__init__()
        self.shape, self.nonnegative = shape, nonnegative
        self.patch = _patch(shape, max_grid)
        self.grids = {g[0]: g for g in code_grids(shape, max_grid, grid_levels)}
        # a code wider than the feature's own values would be no compression
        most = shape[0] * self.patch**2
        self.widths = tuple(w for w in widths if w <= most) or (most,)
        self.bits = tuple(bits)
        full = next(iter(self.grids.values()))
        self.encoder = Encoder(shape, self.widths[-1], full, self.patch)
        self.decoder = Decoder(shape, self.widths[-1], full, self.patch, nonnegative)
        self.quantisers = nn.ModuleDict({str(b): Quantiser(b) for b in self.bits})

    def settings(self) -> tuple[CodecSetting, ...]:
        """Every setting, cheapest width first."""
        return tuple(
            CodecSetting(kind="code", width=w, grid=g, bits=b)
            for w in self.widths for g in self.grids for b in self.bits
        )

    @property
    def widest(self) -> CodecSetting:
        """The setting that loses least."""
        return CodecSetting(kind="code", width=self.widths[-1], grid=next(iter(self.grids)), bits=self.bits[-1])

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        """Feature -> code -> quantised -> feature, with a prefix of the code channels; differentiable."""
        width, grid = setting.width or 0, self.grids[setting.grid or 0]
        enc, dec = self.encoder, self.decoder
        code = F.conv2d(enc.pad(feature), enc.conv.weight[:width], stride=self.patch)
        full = tuple(code.shape[2:])
        if grid != full:
            code = F.adaptive_avg_pool2d(code, grid)
        code = F.batch_norm(code.float(), None, None, training=True, eps=enc.norm.eps)
        code = self.quantisers[str(setting.bits)](code)
        if grid != full:
            code = F.interpolate(code, full, mode="bilinear", align_corners=False)
        hidden = dec.relu(dec.norm(F.conv2d(code, dec.conv.weight[:, :width], padding=1)))
        return dec.out(dec.crop(dec.expand(hidden)))  # type: ignore[no-any-return]

    def limit(self, bits: int) -> Tensor:
        """The learned clipping limit of a bit depth."""
        quantiser = self.quantisers[str(bits)]
        assert isinstance(quantiser, Quantiser)
        return quantiser.limit

    def pair(self, setting: CodecSetting) -> tuple[Encoder, Quantiser, Decoder]:
        """One setting as independent networks that hold copies of the weights."""
        width = setting.width or 0
        encoder, decoder = self.blank_pair(setting)
        quantiser = Quantiser(setting.bits or 0)
        with torch.no_grad():
            encoder.conv.weight.copy_(self.encoder.conv.weight[:width])
            state = {k: v for k, v in self.decoder.state_dict().items() if k != "conv.weight"}
            decoder.load_state_dict(state, strict=False)
            decoder.conv.weight.copy_(self.decoder.conv.weight[:, :width])
            quantiser.load_state_dict(self.quantisers[str(setting.bits)].state_dict())
        return encoder, quantiser, decoder

    def blank_pair(self, setting: CodecSetting) -> tuple[Encoder, Decoder]:
        """Encoder and decoder of a setting with fresh weights: the structure alone."""
        width, grid = setting.width or 0, self.grids[setting.grid or 0]
        return (Encoder(self.shape, width, grid, self.patch),
                Decoder(self.shape, width, grid, self.patch, self.nonnegative))
