"""Random flips and shifts of training images."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["augment_batch"]


def augment_batch(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image left to right with probability 1/2 and shift it by up to an eighth of its size.

    That is the usual augmentation of CIFAR (4 pixels at 32), proportional at other sizes. Pixels that a shift
    brings in from outside are mirrored at the edge, so that a shift has no black border.

    Args:
        images: Any dtype, shape (N, C, H, W), H and W at least 2; left unchanged.
        generator: CPU generator; its state alone determines the result.

    Returns:
        A new contiguous tensor of the same shape, dtype and device.
    """
    n, channels, height, width = images.shape
    rows = _shifted(n, height, generator)
    columns = _shifted(n, width, generator)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    # flip and shift are one look-up of pixels by number
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width).to(images.device)
    source = images.reshape(n, channels, height * width)
    return source.gather(2, pixels.expand(-1, channels, -1)).view(n, channels, height, width)


def _shifted(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Source index of each target index under a random shift, mirrored at the edges: int64, (n, size)."""
    most = round(size / 8)
    shift = torch.randint(-most, most + 1, (n, 1), generator=generator)
    index = (torch.arange(size) + shift).abs()
    return (size - 1) - ((size - 1) - index).abs()
