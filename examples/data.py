"""Data of your own: a folder of images, one folder a class. This one is drawn here, so that there is something to try.

    python examples/data.py photos
    autosplit search --dataset image-folder:photos --backbone examples/backbone.py:small_cnn --budget-ms 100

Put your own pictures in such folders instead, of any format and size that Pillow reads. A fifth of each class becomes
the test set; with `photos/train/CLASS/` and `photos/test/CLASS/` you divide them yourself. Nothing else is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw_photos(folder: Path, each: int = 200, side: int = 32, seed: int = 0) -> None:
    """Write `each` pictures of circles, crosses and squares to `folder/CLASS/NUMBER.png`.

    Args:
        folder: Where to; it is made.
        each: Pictures of each class.
        side: Height and width, pixels.
        seed: Of everything random: equal seeds give equal pictures.
    """
    random = np.random.default_rng(seed)
    for shape in ("circle", "cross", "square"):
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            _draw(shape, side, random).save(folder / shape / f"{number:04d}.png")


def _draw(shape: str, side: int, random: np.random.Generator) -> Image.Image:
    """A shape of any colour, size and place on noise."""
    picture = Image.fromarray(random.integers(60, 150, (side, side, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(picture)
    colour = tuple(int(c) for c in random.integers(160, 256, 3))
    half = int(random.integers(side // 6, side // 3))
    x, y = (int(c) for c in random.integers(half, side - half, 2))
    box = (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, outline=colour, width=3)
    elif shape == "square":
        pen.rectangle(box, outline=colour, width=3)
    else:
        pen.line(box, colour, 3)
        pen.line((x - half, y + half, x + half, y - half), colour, 3)
    return picture


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/data.py FOLDER")
    draw_photos(Path(sys.argv[1]))
