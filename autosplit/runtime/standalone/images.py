"""Files of images as the arrays that a bundle takes: .npy with numpy alone, everything else with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import read_array
from .errors import ConfigError
from .files import check_regular

__all__ = ["EXTENSIONS", "checked_images", "image_batches", "image_files", "pillow", "read_images"]

EXTENSIONS = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
    ".jpg", ".jxl", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff",
    ".webp"})
"""Of the files that Pillow reads, alone or with a plugin."""

_AT_ONCE = 64  # images read before the next are


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files meant: those named, and in folders those of a known kind, by name.

    Raises:
        ConfigError: A folder holds none.
    """
    known = EXTENSIONS | {".npy"}
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in known)
            if not inside:
                raise ConfigError(f"{path} holds no image file; name files of the kinds {', '.join(sorted(known))}")
            found += inside
        else:
            found.append(path)
    return found


def image_batches(
    files: Sequence[Path], shape: tuple[int, int, int]
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Names and images (N, C, H, W) of files, 64 at a time; a .npy file of several images gives names with numbers."""
    names: list[str] = []
    parts: list[NDArray[np.uint8]] = []
    for file in files:
        images = read_images([file], shape)
        for i in range(0, len(images), _AT_ONCE):
            part = images[i : i + _AT_ONCE]
            parts.append(part)
            names += [str(file)] if len(images) == 1 else [f"{file}[{i + k}]" for k in range(len(part))]
            if len(names) >= _AT_ONCE:
                yield names, np.concatenate(parts)
                names, parts = [], []
    if names:
        yield names, np.concatenate(parts)


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
        raise ConfigError(f"{what}: the network takes uint8 images of shape (N, {', '.join(map(str, shape))}), "
                          f"got {found}")
    return images


def pillow() -> Any:
    """The module `PIL.Image`, which only image files and plans that send images need.

    Raises:
        ConfigError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise ConfigError("image files need the package Pillow: pip install pillow") from e
    return Image


def _read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    check_regular(path)
    if path.suffix == ".npy":
        array = read_array(path)
        return checked_images(array[None] if array.ndim == len(shape) else array, shape, str(path))
    library = pillow()
    from .image_file import failure, read_pixels  # which imports Pillow

    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"{path}: image files have 1 or 3 channels, the network takes {channels}; give a .npy file")
    try:
        pixels = read_pixels(path, height, width)
    except Exception as e:  # PIL's formats raise what they like
        raise ConfigError(f"{path}: cannot be read as an image ({failure(e, path)}); give an image or a .npy "
                          "file") from e
    if channels == 1:
        pixels = np.asarray(library.fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]
    return pixels[None]
