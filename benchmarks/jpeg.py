"""What JPEG costs on images that were JPEG files already, and what it costs once their blocks no longer line up.

    python -m benchmarks.jpeg --scenario cifar10 --dataset image-folder:PATH --out results/benchmarks/jpeg-cifar10

Encoding an image a second time with the tables and the block grid of the first time changes next to nothing: the
coefficients are on the quantiser's levels already. A camera's picture has no such past. Here validation images are
encoded as they are, and moved by some pixels (reflected at the border), so that blocks no longer line up. The backbone
is trained on moved images, so that the move itself costs little; each column is held against PNG of the same images.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from autosplit.data.base import Split
from autosplit.data.stored import StoredFormat, decode_images, encode_images
from autosplit.report.progress import Progress
from autosplit.training.loop import accuracy
from autosplit.training.prepare import untrained
from benchmarks.common import parser, scenario_of, write_json


def moved(images: Tensor, pixels: int) -> Tensor:
    """Images (N, C, H, W), uint8, moved down and to the right, reflected at the border."""
    padded = F.pad(images.float(), (pixels, 0, pixels, 0), mode="reflect")
    return padded[..., : images.shape[2], : images.shape[3]].to(torch.uint8)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--qualities", type=int, nargs="+", default=[10, 30, 50, 75, 90, 95])
    options_parser.add_argument("--moves", type=int, nargs="+", default=[0, 3, 5], help="pixels")
    options = options_parser.parse_args()
    scenario = scenario_of(options)
    prepared = untrained(scenario, Progress())
    data, part = prepared.data, prepared.data.validation
    rows = []
    for pixels in options.moves:
        images = moved(part.images, pixels)
        stored = accuracy(prepared.backbone, data, Split(images, part.labels))
        rows.append({"moved": pixels, "format": "png", "quality": 0, "accuracy": stored, "lost_points": 0.0,
                     "bytes": _mean(encode_images(images, StoredFormat("png"))),
                     "bytes_with_shared_tables": float("nan")})
        for quality in options.qualities:
            files = encode_images(images, StoredFormat("jpeg", quality))
            found = accuracy(prepared.backbone, data, Split(decode_images(files, data.shape), part.labels))
            rows.append({"moved": pixels, "format": "jpeg", "quality": quality, "accuracy": found,
                         "lost_points": 100 * (stored - found), "bytes": _mean(files),
                         "bytes_with_shared_tables": _mean(
                             encode_images(images, StoredFormat("jpeg-shared", quality)))})
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(4).to_csv(options.out / "jpeg.csv", index=False)
    write_json(options.out / "summary.json", {"scenario": scenario.name, "dataset": scenario.dataset,
                                              "images": len(part), "part": "validation"})


def _mean(files: list[bytes]) -> float:
    return sum(map(len, files)) / len(files)


if __name__ == "__main__":
    main()
