"""Images as PNG and JPEG files in memory, from and to tensors; see `autosplit.runtime.standalone.payload.stored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autosplit.runtime.standalone.payload import stored
from autosplit.runtime.standalone.payload.stored import StoredFormat, cache_key, join_jpeg, split_jpeg

__all__ = ["StoredFormat", "cache_key", "decode_images", "encode_images", "join_jpeg", "split_jpeg"]


def encode_images(images: Tensor, format: StoredFormat, quality: int = 75) -> list[bytes]:  # noqa: A002
    """Encode images, uint8 (N, C, H, W); arguments and errors as of `standalone.stored.encode_images`."""
    return stored.encode_images(images.numpy(), format, quality)


def decode_images(files: Sequence[bytes], shape: tuple[int, int, int] | None = None) -> Tensor:
    """Decode files to uint8 (N, C, H, W); arguments and errors as of `standalone.stored.decode_images`."""
    return torch.from_numpy(stored.decode_images(files, shape))
