"""One image file of any kind as RGB pixels of a given size.

A file is what its content says, whatever its name ends in. Formats that Pillow reads through a plugin are read where
the plugin is installed; where it is not, `failure` names it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["failure", "fit", "is_grey", "open_image", "read_header", "read_pixels", "to_rgb"]

_REDUCING_GAP = 2.0  # reduce by whole factors first, down to twice the size; the rest by antialiased bilinear

_PLUGINS = ("pillow_heif", "pillow_avif", "pillow_jxl")  # the latter two announce themselves when imported
_NO_PICTURES = frozenset({"EPS", "PDF", "WMF"})  # drawings; Ghostscript would run what an EPS file says
_KINDS = (
    (rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "HEIF",
     "HEIC, which needs a plugin of Pillow: pip install pillow-heif"),
    (rb"....ftyp(avif|avis)", "AVIF", "AVIF, which needs Pillow 11.3 or later: pip install --upgrade pillow"),
    (rb"\xff\x0a|....JXL ", "JXL", "JPEG XL, which needs a plugin of Pillow: pip install pillow-jxl-plugin"),
    (rb"\s*(<\?xml.*)?<svg|%PDF|%!PS|\xc5\xd0\xd3\xc6", "", "a drawing, to be converted to PNG"),
    (rb"\Z", "", "an empty file"),
)
"""How files begin that Pillow may be unable to read, its name for the format, and what to do where that is missing."""


@functools.cache
def _load_plugins() -> None:
    """Load whatever reads further formats, once."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(name)
            if hasattr(plugin, "register_heif_opener"):
                plugin.register_heif_opener()
    Image.init()


def open_image(path: Path) -> Image.Image:
    """Open a file for what its content is; its name counts for nothing.

    Raises:
        OSError: It is no picture, or Pillow cannot read it; Pillow's decoders raise other errors too.
    """
    _load_plugins()
    image = Image.open(path)
    # TGA is the one format that nothing marks: other files are taken for it
    if image.format in _NO_PICTURES or (image.format == "TGA" and path.suffix.lower() not in {".tga", ".vda", ".vst"}):
        image.close()
        raise OSError("cannot identify image file")
    return image


def read_header(path: Path) -> tuple[int, int, bool]:
    """Height and width, as stored (before any rotation that EXIF asks for), and whether it is grey by its mode."""
    with open_image(path) as image:
        return image.height, image.width, is_grey(image)


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colours by its mode, whatever its depth and transparency."""
    return image.mode in {"1", "L", "LA", "La", "F"} or image.mode.startswith("I")


def read_pixels(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a file: upright by EXIF, first frame, RGB, resized to cover the target, centre cropped.

    Args:
        path: The file.
        height: Height of the target, pixels.
        width: Width of the target, pixels.

    Returns:
        uint8, shape (3, height, width).
    """
    with open_image(path) as image:
        if image.format == "JPEG":
            cover = 2 * max(height, width)
            image.draft(None, (cover, cover))  # decode big JPEGs at 1/2, 1/4 or 1/8, still twice the target
        ImageOps.exif_transpose(image, in_place=True)
        fitted = to_rgb(fit(image, height, width))
    pixels: NDArray[np.uint8] = np.asarray(fitted).transpose(2, 0, 1)
    return pixels


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize, keeping proportions, until the image just covers the target, and crop its centre.

    For a square target: the shorter side becomes the target's, the longer one is cropped on both ends.
    """
    if image.size == (width, height):
        return image
    # bits, palette indices and 16-bit words cannot be averaged, so they are converted first
    wide = {"1": "L", "P": "RGBA", "PA": "RGBA"}
    image = image.convert("I" if image.mode.startswith("I;") else wide.get(image.mode, image.mode))
    scale = min(image.width / width, image.height / height)
    # Clamped, because rounding may put an edge a little outside of the image, which Pillow refuses.
    left, top = max(0.0, (image.width - scale * width) / 2), max(0.0, (image.height - scale * height) / 2)
    box = (left, top, min(image.width, left + scale * width), min(image.height, top + scale * height))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency over white, 16 bits scaled to 8 (PIL's own conversion clips them).

    Greys of 32 bits are taken as 16 bits; floating point as 0..1, or as 0..255 where a value exceeds 1.
    """
    if image.mode == "RGB":
        return image
    if image.mode[0] in "IF":
        return Image.fromarray(_narrow(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def failure(error: Exception, path: Path | None = None) -> str:
    """Why a file could not be read, in a few words without its path.

    Args:
        error: What reading it raised.
        path: The file: it may be of a kind that another package reads, which is then named.
    """
    if path is not None and path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            start = file.read(1024)
            for pattern, name, kind in _KINDS:
                if re.match(pattern, start, re.DOTALL) and name not in Image.OPEN:
                    return kind
    text = re.sub(r"(: | file | )'.*'$", "", " ".join(str(error).split()))
    return text or type(error).__name__


def _narrow(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Wide grey values as bytes."""
    if values.dtype.kind == "f":
        scaled = values.astype(np.float64) * (255.0 if values.max(initial=0) <= 1 else 1.0)
        return np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
    wide = np.clip(values.astype(np.int64), 0, 65_535)
    return ((wide * 255 + 32_767) // 65_535).astype(np.uint8)
