"""Files of images as the arrays that a bundle takes: .npy with numpy alone, everything else with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..payload.stored import pillow

__all__ = ["checked_images", "read_images"]


def read_images(paths: Sequence[str | Path], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images of files, one after the other.

    A .npy file holds one image (C, H, W) or several (N, C, H, W), uint8, of exactly the shape asked for. Other files
    are decoded by Pillow as data sets are: upright, resized to cover the target, centre cropped.

    Args:
        paths: At least one file.
        shape: Channels (1 or 3 for files that Pillow reads), height, width.

    Returns:
        uint8, shape (N, C, H, W).

    Raises:
        ConfigError: A file is missing or no image of this shape, or Pillow is needed and not installed.
    """
    return np.concatenate([_read(Path(path), shape) for path in paths])


def checked_images(images: NDArray[np.uint8], shape: tuple[int, int, int], what: str = "images") -> NDArray[np.uint8]:
    """Images as they came, if they are what a bundle takes.

    Args:
        images: To be looked at.
        shape: Channels, height, width that each must have.
        what: Names them in the error.

    Raises:
        ConfigError: No array of uint8 (N, C, H, W) of this shape.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != shape:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ConfigError(f"{what}: this bundle takes uint8 images of shape (N, {', '.join(map(str, shape))}), "
                          f"got {found}")
    return images


def _read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such image file")
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise ConfigError(f"{path}: no numpy array ({' '.join(str(e).split())})") from e
        return checked_images(array[None] if array.ndim == len(shape) else array, shape, str(path))
    pillow()
    from ..payload.image_file import failure, read_pixels

    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"{path}: image files have 1 or 3 channels, this bundle takes {channels}; give a .npy file")
    try:
        pixels = read_pixels(path, height, width)
    except Exception as e:  # PIL's formats raise what they like
        raise ConfigError(f"{path}: cannot be read as an image ({failure(e)}); give an image or a .npy file") from e
    if channels == 1:
        pixels = np.asarray(pillow().fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]
    return pixels[None]
