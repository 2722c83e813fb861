"""What a profile needs beside timed operators: the rates of the two coders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..payload.frequencies import FrequencyTables, levels
from ..payload.image_codecs import StoredFormat, encode_images
from ..payload.native import native_coder
from .clock import Clock, steady_medians

__all__ = ["coding_ksymbols", "drawn_codes", "image_kpixels"]

_CODE = (32, 14, 14)
_BITS = 4
_QUALITY = 75


def drawn_codes(shape: tuple[int, int, int], bits: int) -> NDArray[np.int32]:
    """Codes as trained ones are, peaked around the middle; half of the channels are smooth and coded with contexts.

    Args:
        shape: Of a code, (K, gh, gw).
        bits: Of a symbol.

    Returns:
        Shape (64, K, gh, gw).
    """
    channels, height, width = shape
    smooth, count = -(-channels // 2), levels(bits)
    even = (64, channels, height + height % 2, width + width % 2)
    drawn = np.random.default_rng(0).normal(count / 2, count / 8, even)
    drawn[:, :smooth] = drawn[:, :smooth, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)
    found: NDArray[np.int32] = drawn[:, :, :height, :width].round().clip(0, count - 1).astype(np.int32)
    return found


def coding_ksymbols(clock: Clock, most: int, bundle: Path | None = None) -> float:
    """Thousand symbols a second through the range coder, header and check included.

    Args:
        clock: Takes the time.
        most: Repetitions at most.
        bundle: Whose compiled coder is timed, where `native_coder` finds it.
    """
    from ..payload.coder import PayloadCoder  # needs the package constriction

    symbols = drawn_codes(_CODE, _BITS)
    coder = PayloadCoder(FrequencyTables.fit(symbols, _BITS), _CODE, b"profile")
    native = None if bundle is None else native_coder(bundle, coder)
    seconds = steady_medians(lambda: [clock.call(partial((native or coder).encode, symbols[0]))], most)[0]
    return float(symbols[0].size / seconds / 1e3)


def image_kpixels(shape: tuple[int, ...], clock: Clock, most: int) -> float:
    """Thousand pixels a second through the JPEG encoder, on a picture of the input's size."""
    height, width = shape[1:]
    # a smooth picture with some noise: the encoder takes longer the more there is to code
    ramp = np.add.outer(np.arange(height), np.arange(width))[None, None] + 40 * np.arange(shape[0])[None, :, None, None]
    image = (ramp + np.random.default_rng(0).integers(0, 32, (1, *shape))).astype(np.uint8)
    action = partial(encode_images, image, StoredFormat("jpeg", _QUALITY))
    seconds = steady_medians(lambda: [clock.call(action)], most)[0]
    return float(height * width / seconds / 1e3)
