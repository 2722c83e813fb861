"""What a profile needs beside timed operators: the rates of the two coders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..payload.frequencies import FrequencyTables, levels
from ..payload.image_codecs import StoredFormat, encode_images
from .clock import Clock, steady_medians

__all__ = ["coding_ksymbols", "image_kpixels"]

_CODE = (32, 14, 14)
_BITS = 4
_QUALITY = 75


def coding_ksymbols(clock: Clock, most: int, bundle: Path | None = None) -> float:
    """Thousand symbols a second through the range coder, header and check included.

    Args:
        clock: Takes the time.
        most: Repetitions at most.
        bundle: Whose compiled coder is timed, where it has one for this machine.
    """
    from ..payload.coder import PayloadCoder  # needs the package constriction
    from ..payload.native import NativeCoder, library_of

    # peaked around the middle, as trained codes are, and half of the channels smooth: those are coded with contexts
    half = _CODE[0] // 2
    drawn = np.random.default_rng(0).normal(levels(_BITS) / 2, levels(_BITS) / 8, (64, *_CODE))
    drawn[:, :half] = drawn[:, :half, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)
    symbols = drawn.round().clip(0, levels(_BITS) - 1).astype(np.int32)
    coder = PayloadCoder(FrequencyTables.fit(symbols, _BITS), _CODE, b"profile")
    encode = coder.encode
    if bundle is not None and library_of(bundle).is_file():
        encode = NativeCoder(library_of(bundle), coder).encode
    seconds = steady_medians(lambda: [clock.call(partial(encode, symbols[0]))], most)[0]
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
