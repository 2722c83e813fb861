"""Images as PNG and JPEG files in memory: what a device stores, and what it sends when it sends the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autosplit.errors import ConfigError

__all__ = ["StoredFormat", "cache_key", "decode_images", "encode_images"]

StoredFormat = Literal["png", "jpeg"]


def cache_key(format: StoredFormat, quality: int) -> tuple[str, int]:  # noqa: A002
    """What determines the files of given images: the format, and the quality where it has one.

    Raises:
        ConfigError: Unknown format, or a quality outside 1..100.
    """
    if format not in get_args(StoredFormat):
        raise ConfigError(f"unknown image format {format!r}: choose {' or '.join(get_args(StoredFormat))}")
    if format == "png":
        return format, 0
    if not 1 <= quality <= 100:
        raise ConfigError(f"JPEG quality {quality} is outside 1..100 (95 is the highest that makes sense)")
    return format, quality


def encode_images(images: Tensor, format: StoredFormat, quality: int = 75) -> list[bytes]:  # noqa: A002
    """Encode images with PIL: baseline JPEG (standard tables, 4:2:0 for RGB), or PNG at deflate level 6.

    Args:
        images: uint8, shape (N, C, H, W), C = 1 or 3.
        format: "png" or "jpeg".
        quality: JPEG quality, 1..100.

    Raises:
        ConfigError: Unknown format, quality outside 1..100, or neither 1 nor 3 channels.
    """
    cache_key(format, quality)
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ConfigError(f"images of {channels} channels cannot be stored as {format}: 1 or 3 are needed")
    pixels = images[:, 0] if channels == 1 else images.permute(0, 2, 3, 1)
    options: dict[str, int] = {"quality": quality} if format == "jpeg" else {}
    files = []
    for picture in np.ascontiguousarray(pixels.numpy()):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format, **options)
        files.append(buffer.getvalue())
    return files


def decode_images(files: Sequence[bytes]) -> Tensor:
    """Decode files of equal size and mode, RGB or grey: uint8, shape (N, C, H, W); N at least 1."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
