"""Patches of a feature as cells of a code: the convolutions that encoders and decoders of several codecs are made of.

    feature (C, H, W) -> patch convolution (stride p) -> batch norm without affine -> code (K, g, g)
    code -> transposed patch convolution -> + residual of two 3x3 convolutions -> feature (C, H, W)

Batch norm gives each code channel unit variance. The patch convolutions start as the principal components of the
features' patches, the transposed ones as their inverse, so that before any training every prefix of the code's channels
is the best linear code of its width; the refinement starts at zero.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.compression.codecs.base import Codec, CodecParts, Offer, Quantiser, Shape, code_grids
from autosplit.core.plan import CodecSetting

__all__ = ["PatchCodec", "PatchDecoder", "PatchEncoder", "natural_grid", "principal_components"]

_MOST_PATCH = 8  # larger patches would hold more weights than a head; below, their codes are pooled
_FIT_PATCHES = 1024
_REFINING = (16, 64)


class PatchEncoder(nn.Module):
    """Feature -> code, on the device.

    Args:
        shape: Channels, height, width of the feature.
        width: Channels of the code.
        grid: Height and width of the code.
        patch: Side of the square of feature positions that one output of the convolution sees.
    """

    def __init__(self, shape: Shape, width: int, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        margins = (0, -shape[2] % patch, 0, -shape[1] % patch)
        self.pad = nn.ZeroPad2d(margins) if any(margins) else nn.Identity()
        self.conv = nn.Conv2d(shape[0], width, patch, patch, bias=False)
        self.pool: nn.Module = nn.Identity() if grid == natural_grid(shape, patch) else nn.AdaptiveAvgPool2d(grid)
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, gh, gw), unit variance a channel."""
        return self.norm(self.pool(self.conv(self.pad(feature))))  # type: ignore[no-any-return]


class PatchDecoder(nn.Module):
    """Code -> feature, on the edge.

    Args:
        shape: Channels, height, width of the feature.
        width: Channels of the code.
        grid: Height and width of the code.
        patch: As for the encoder.
        nonnegative: Whether the feature comes out of a ReLU, so that negative values can be cut off.
    """

    def __init__(self, shape: Shape, width: int, grid: tuple[int, int], patch: int, nonnegative: bool) -> None:
        super().__init__()
        natural = natural_grid(shape, patch)
        same = grid == natural
        self.up: nn.Module = nn.Identity() if same else nn.Upsample(natural, mode="bilinear", align_corners=False)
        self.expand = nn.ConvTranspose2d(width, shape[0], patch, patch)
        cut = any(side % patch for side in shape[1:])
        self.crop: nn.Module = _Crop(shape[1], shape[2]) if cut else nn.Identity()
        self.activation: nn.Module = nn.ReLU() if nonnegative else nn.Identity()
        hidden = min(max(shape[0], _REFINING[0]), _REFINING[1])
        last = nn.Conv2d(hidden, shape[0], 3, padding=1)
        nn.init.zeros_(last.weight)  # the refinement adds nothing at first: the linear decoder is the best start known
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.refine = nn.Sequential(nn.Conv2d(shape[0], hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden),
                                    nn.ReLU(), last)

    def forward(self, code: Tensor) -> Tensor:
        """(N, width, gh, gw) -> (N, C, H, W)."""
        rough = self.activation(self.crop(self.expand(self.up(code))))
        return self.activation(rough + self.refine(rough))  # type: ignore[no-any-return]


class _Crop(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.height, : self.width]


def natural_grid(shape: Shape, patch: int) -> tuple[int, int]:
    """Grid that patches of this side give without pooling."""
    return math.ceil(shape[1] / patch), math.ceil(shape[2] / patch)


class PatchCodec(Codec):
    """Codes on ordered grids, with shared weights; families differ in the channels they send, and how finely.

    *Ordered resolution*: grids go from the feature's own size down to one cell, since late features need little spatial
    detail; each halving of the grid has patches of twice the side.
    """

    one_model: ClassVar[bool] = True

    def __init__(self, shape: Shape, offer: Offer, nonnegative: bool) -> None:
        super().__init__(shape, offer, nonnegative)
        # side of the patches by grid height; where it would be too large, smaller patches are pooled
        sides = {h: max(math.ceil(shape[1] / h), math.ceil(shape[2] / w)) for h, w in self.grids.values()}
        direct = [p for p in sides.values() if p <= _MOST_PATCH] or [_MOST_PATCH]
        self.patches = {h: p if p <= _MOST_PATCH else max(direct) for h, p in sides.items()}
        width = self.widths[-1]
        full = nn.ModuleDict()
        for patch in sorted(set(self.patches.values())):
            grid, most = natural_grid(shape, patch), max(self.widths[0], min(width, self._most(patch)))
            full[str(patch)] = nn.ModuleDict({
                "encoder": PatchEncoder(shape, most, grid, patch),
                "decoder": PatchDecoder(shape, most, grid, patch, nonnegative),
            })
        first = next(iter(full.values()))
        for level in full.values():  # one refinement for all grids
            level["decoder"].refine = first["decoder"].refine  # type: ignore[index]
        self.levels = full

    def _grids(self, offer: Offer) -> tuple[tuple[int, int], ...]:
        return code_grids(self.shape, offer.max_grid, offer.grid_levels)

    def _widths(self, offer: Offer) -> tuple[int, ...]:
        most = math.prod(self.shape)  # a code of more values than the feature has would be no compression
        return tuple(w for w in offer.widths if w <= most) or (most,)

    def _most(self, patch: int) -> int:
        """Channels that hold a patch without loss."""
        return self.shape[0] * min(patch, self.shape[1]) * min(patch, self.shape[2])

    def _fits(self, width: int, grid: int) -> bool:
        """No code is wider than the values of its patch."""
        return width <= self._level_width(grid)

    def _level_width(self, grid: int) -> int:
        return max((w for w in self.widths if w <= self._most(self.patches[grid])), default=self.widths[0])

    def fit(self, features: Tensor) -> None:
        """Begin with the principal components of the features' patches.

        The encoder takes them, most variance first, the decoder their inverse behind the batch norm.
        """
        for side, level in self.levels.items():
            patch = int(side)
            encoder, decoder = level["encoder"], level["decoder"]  # type: ignore[index]
            with torch.no_grad():
                cells = F.unfold(encoder.pad(features.float()), patch, stride=patch).transpose(1, 2).flatten(0, 1)
                # by chance: every n-th would all lie in a few columns of the feature
                pick = torch.randperm(len(cells), generator=torch.Generator().manual_seed(patch))[:_FIT_PATCHES]
                cells = cells[pick].cpu().double()  # not every accelerator has such floats
                mean = cells.mean(0)
                basis, deviation = principal_components(cells - mean, encoder.conv.out_channels)
                shape, found = encoder.conv.weight.shape, len(basis)
                encoder.conv.weight[:found] = basis.view(found, *shape[1:]).float()
                decoder.expand.weight.mul_(1e-2)
                decoder.expand.weight[:found] = (basis * deviation[:, None]).view(found, *shape[1:]).float()
                # one offset a channel is all that a transposed convolution has
                decoder.expand.bias.copy_(mean.view(shape[1], -1).mean(1))

    def _level(self, setting: CodecSetting) -> tuple[PatchEncoder, PatchDecoder]:
        level = self.levels[str(self.patches[setting.grid or 0])]
        encoder, decoder = level["encoder"], level["decoder"]  # type: ignore[index]
        assert isinstance(encoder, PatchEncoder)
        assert isinstance(decoder, PatchDecoder)
        return encoder, decoder

    def _channels(self, setting: CodecSetting) -> slice | Tensor:
        """Which of the channels a setting codes with: the first ones, unless overridden."""
        return slice(setting.width)

    def _restored(self, feature: Tensor, setting: CodecSetting, through: Callable[[Tensor], Tensor]) -> Tensor:
        """Feature -> code, the setting's channels -> `through` -> feature."""
        channels, grid = self._channels(setting), self.grids[setting.grid or 0]
        enc, dec = self._level(setting)
        patch = enc.conv.kernel_size[0]
        code = F.conv2d(enc.pad(feature), enc.conv.weight[channels], stride=patch)
        natural = tuple(code.shape[2:])
        if grid != natural:
            code = F.adaptive_avg_pool2d(code, grid)
        # the statistics of this batch: running ones would mix those of all plans that share this encoder
        code = through(F.batch_norm(code.float(), None, None, training=True, eps=enc.norm.eps))
        if grid != natural:
            code = F.interpolate(code, natural, mode="bilinear", align_corners=False)
        expand = dec.expand
        rough = F.conv_transpose2d(code, expand.weight[channels], expand.bias, stride=patch)
        rough = dec.activation(dec.crop(rough))
        return dec.activation(rough + dec.refine(rough))  # type: ignore[no-any-return]

    def parts(self, setting: CodecSetting) -> CodecParts:
        """One setting as independent networks that hold copies of the weights."""
        found, channels = self.blank(self.structure(setting)), self._channels(setting)
        enc, dec = self._level(setting)
        with torch.no_grad():
            found.encoder.conv.weight.copy_(enc.conv.weight[channels])  # type: ignore[union-attr, operator]
            state = {k: v for k, v in dec.state_dict().items() if k != "expand.weight"}
            found.decoder.load_state_dict(state, strict=False)
            found.decoder.expand.weight.copy_(dec.expand.weight[channels])  # type: ignore[union-attr, operator]
            self._copy_quantiser(setting, found.quantiser)
        return found

    @abstractmethod
    def _copy_quantiser(self, setting: CodecSetting, into: Quantiser) -> None:
        """Copy what the quantiser of a setting has learned."""

    def structure(self, setting: CodecSetting) -> dict[str, Any]:
        """Feature shape, code shape, patch, bits and whether negative values are cut."""
        return {"feature": list(self.shape), "code": list(self.code_shape(setting)), "bits": setting.bits,
                "patch": self.patches[setting.grid or 0], "nonnegative": self.nonnegative}

    @classmethod
    def blank(cls, structure: dict[str, Any]) -> CodecParts:
        """The networks of a setting, their weights of no meaning."""
        channels, height, side = structure["feature"]
        width, *grid = structure["code"]
        where = ((channels, height, side), width, (grid[0], grid[1]), structure["patch"])
        return CodecParts(PatchEncoder(*where), cls._blank_quantiser(structure),
                          PatchDecoder(*where, structure["nonnegative"]))

    @classmethod
    @abstractmethod
    def _blank_quantiser(cls, structure: dict[str, Any]) -> Quantiser:
        """A quantiser of this family."""


def principal_components(centred: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Principal directions of samples, most variance first, each of a fixed sign.

    Args:
        centred: Samples without their mean, shape (N, D).
        most: Most directions.

    Returns:
        Directions, shape (k, D), and the standard deviations along them, shape (k,).
    """
    n, dimensions = centred.shape
    if dimensions <= n:  # of the two products with equal eigenvalues, the smaller one
        values, vectors = torch.linalg.eigh(centred.T @ centred / n)
        directions = vectors.T
    else:
        values, vectors = torch.linalg.eigh(centred @ centred.T / n)
        directions = vectors.T @ centred
        directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    order = values.argsort(descending=True)[:most]
    order = order[values[order] > 1e-9 * values.max().clamp_min(1e-30)]
    chosen = directions[order]
    # an eigenvector's sign is arbitrary and differs between machines: the largest entry is made positive
    peak = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    return chosen * peak.sign(), values[order].clamp_min(0).sqrt()
