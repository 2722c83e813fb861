"""How long image formats take against JPEG, and how many bytes they need: what `autosplit/models/image_costs.py` holds.

    python -m benchmarks.image_codecs --out results/benchmarks/image-codecs

Crops of the two photographs that scikit-learn carries are encoded and decoded one at a time on one core. Each round
times every format in turn, so that what else the machine does falls on all alike; the ratios are medians over rounds of
processor time. Scenarios use no file of this benchmark: the ratios are written into the code by hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from autosplit.runtime.standalone.payload.image_codecs import StoredFormat, decode_images, encode_images
from benchmarks.common import write_json

_FORMATS = [StoredFormat("jpeg", 75), StoredFormat("png"), *(StoredFormat("webp", 30, effort) for effort in (0, 4)),
            *(StoredFormat("avif", 50, effort) for effort in (0, 4))]


def crops(side: int, count: int) -> NDArray[np.uint8]:
    """Crops of photographs, uint8 (count, 3, side, side), at places drawn with a fixed seed."""
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(0)
    found = []
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(rng.integers(0, size - side)) for size in photo.shape[:2])
        found.append(photo[top : top + side, left : left + side].transpose(2, 0, 1))
    return np.stack(found)


def seconds_of(action: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> None:
    """Run the benchmark that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96, 224], help="pixels")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for side in options.sides:
        images = crops(side, options.images)
        files = {f: encode_images(images, f) for f in _FORMATS}  # also the first call, which loads the encoder
        times = np.array([[(seconds_of(partial(encode_images, images, f)),
                            seconds_of(partial(decode_images, files[f], images.shape[1:])))
                           for f in _FORMATS] for _ in range(options.rounds)])
        ratios = np.median(times / times[:, :1], axis=0)
        for f, (encode, decode), (encode_s, _) in zip(_FORMATS, ratios, np.median(times, axis=0), strict=True):
            rows.append({"side": side, "format": f.codec, "quality": f.quality, "effort": f.effort,
                         "encode_against_jpeg": encode, "decode_against_jpeg": decode,
                         "encode_ms": 1e3 * encode_s / options.images, "bytes": np.mean([*map(len, files[f])])})
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(3).to_csv(options.out / "image_codecs.csv", index=False)
    write_json(options.out / "summary.json", {"pillow": pillow_version, "images": options.images,
                                              "rounds": options.rounds})


if __name__ == "__main__":
    main()
