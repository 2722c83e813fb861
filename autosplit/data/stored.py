"""Images as files in memory, from and to tensors; see `standalone.payload.image_codecs`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autosplit.runtime.standalone.payload import image_codecs
from autosplit.runtime.standalone.payload.image_codecs import StoredFormat, bodies, is_grey, join_file, split_file

__all__ = ["StoredFormat", "bodies", "decode_images", "encode_images", "is_grey", "join_file", "split_file"]


def encode_images(images: Tensor, format: StoredFormat) -> list[bytes]:  # noqa: A002
    """Encode images, uint8 (N, C, H, W); arguments and errors as of `image_codecs.encode_images`."""
    return image_codecs.encode_images(images.numpy(), format)


def decode_images(files: Sequence[bytes], shape: tuple[int, int, int], downscale: int = 1) -> Tensor:
    """Decode files to uint8 (N, C, H, W); arguments and errors as of `image_codecs.decode_images`."""
    return torch.from_numpy(image_codecs.decode_images(files, shape, downscale))
