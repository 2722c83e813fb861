"""Images as PNG and JPEG files in memory, from and to tensors; see `standalone.payload.image_codecs`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autosplit.runtime.standalone.payload import image_codecs
from autosplit.runtime.standalone.payload.image_codecs import (
    StoredFormat,
    cache_key,
    is_grey,
    join_jpeg,
    jpeg_body,
    split_jpeg,
)

__all__ = ["StoredFormat", "cache_key", "decode_images", "encode_images", "is_grey", "join_jpeg", "jpeg_body",
           "split_jpeg"]


def encode_images(images: Tensor, format: StoredFormat, quality: int = 75) -> list[bytes]:  # noqa: A002
    """Encode images, uint8 (N, C, H, W); arguments and errors as of `image_codecs.encode_images`."""
    return image_codecs.encode_images(images.numpy(), format, quality)


def decode_images(files: Sequence[bytes], shape: tuple[int, int, int]) -> Tensor:
    """Decode files to uint8 (N, C, H, W); arguments and errors as of `image_codecs.decode_images`."""
    return torch.from_numpy(image_codecs.decode_images(files, shape))
