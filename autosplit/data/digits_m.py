"""`digits-m`: handwritten digits blended into photographs, made from what scikit-learn carries; no download.

Made the way MNIST-M was (Ganin et al. 2016): the absolute difference of a digit and a patch of a photograph in
each colour channel. The digits are scikit-learn's 1,797 of 8x8 pixels, the photographs its two samples.

Nothing is shared between the parts: each digit belongs to one part, and so does each cell of a grid laid over
the photographs. Cells are dealt out so that all parts are equally hard. Images are composed in integers, so that
a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from autosplit.data.base import ImageDataset, Split, SplitName, build_dataset
from autosplit.data.partition import IntArray, partition, random_generator

__all__ = [
    "CELL_SIDE",
    "IMAGE_SIDE",
    "PART_SIZES",
    "Recipe",
    "assign_cells",
    "assign_digits",
    "load",
    "make_recipe",
    "render",
    "sources",
]

IMAGE_SIDE = 32
PART_SIZES: dict[SplitName, int] = {"train": 12_000, "calibration": 1_000, "validation": 2_000, "test": 2_000}
CELL_SIDE = 50
"""Side of a photograph's cell that patches are cut from, pixels."""

_CELL_PITCH = 53  # three pixels between cells, so that neighbouring parts do not even touch
_DEALS = 2_000  # random deals of which the most even one is taken
_CELLS_A_ROUND: dict[SplitName, int] = {"train": 5, "calibration": 1, "validation": 2, "test": 2}
_DIGIT_SHARES = {"calibration": 0.06, "validation": 0.17, "test": 0.17}
_DIGIT_SIDES = (22, 24, 26, 28)
_DIGIT_LEVELS = 16  # a digit's pixels are 0..16
_WEIGHT_UNIT = 256  # interpolation weights are multiples of 1/256
_DIGITS_DRAW, _CELLS_DRAW, _RECIPE_DRAW = 1, 2, 3

Bytes = NDArray[np.uint8]


class Recipe(NamedTuple):
    """How each image of a part is composed; every array has shape (N,)."""

    digit: IntArray  # index of the digit
    photo: IntArray  # index of the photograph
    top: IntArray  # first row of the patch
    left: IntArray  # first column of the patch
    mirrored: NDArray[np.bool_]  # whether the patch (never the digit) is flipped
    row_weights: IntArray  # index of the digit's vertical size and place, see `_placements`
    column_weights: IntArray  # the same, horizontally


def load(name: str, *, seed: int, root: Path | None = None, limit: int | None = None) -> ImageDataset:  # noqa: ARG001
    """Make the data set: 12,000 training, 1,000 calibration, 2,000 validation and 2,000 test images, 32x32 RGB.

    Args:
        name: Name to give it.
        seed: Seed of everything random.
        root: Without effect; taken because every loader takes it.
        limit: At most so many images in each part, which are the first of the whole.
    """
    digits, labels, photos = sources()
    digits_of = assign_digits(labels, seed)
    cells_of = assign_cells(photos, seed)
    parts = {}
    for part in PART_SIZES:
        recipe = make_recipe(part, labels, digits_of[part], cells_of[part], seed, limit)
        images = torch.from_numpy(render(recipe, digits, photos))
        # several images show the same handwritten digit, on other patches
        parts[part] = Split(images, torch.from_numpy(labels[recipe.digit]), torch.from_numpy(recipe.digit))
    return build_dataset(
        name,
        [str(digit) for digit in range(10)],
        train=parts["train"],
        calibration=parts["calibration"],
        validation=parts["validation"],
        test=parts["test"],
    )


def sources() -> tuple[NDArray[np.float32], IntArray, Bytes]:
    """Digits (1797, 8, 8) in 0..16, their labels (1797,), and photographs (2, 427, 640, 3)."""
    from sklearn.datasets import load_digits, load_sample_images

    bunch = load_digits()
    photos: Bytes = np.stack(load_sample_images().images)
    return bunch.images.astype(np.float32), bunch.target.astype(np.int64), photos


def assign_digits(labels: IntArray, seed: int) -> dict[SplitName, IntArray]:
    """Indices of the digits of each part: disjoint, together all of them, stratified by class."""
    names = [str(digit) for digit in range(10)]
    parts = partition(labels, names, tuple(_DIGIT_SHARES.values()), random_generator(seed, _DIGITS_DRAW))
    return dict(zip(PART_SIZES, parts, strict=True))


def assign_cells(photos: Bytes, seed: int) -> dict[SplitName, IntArray]:
    """Deal the cells of all photographs out to the parts.

    Of many random deals that give every part its share of each photograph, the one is taken in which the parts
    differ least in colour, contrast and detail; so all parts have the same mixture of sky and leaves, and what
    is chosen on validation holds on test.

    Args:
        photos: Shape (P, H, W, 3).
        seed: Seed of the deals.

    Returns:
        For each part int64 of shape (cells, 3): photograph, first row, first column. Cells are `CELL_SIDE`
        pixels wide and high and do not overlap.
    """
    rng = random_generator(seed, _CELLS_DRAW)
    tops, lefts = (np.arange(0, side - CELL_SIDE + 1, _CELL_PITCH) for side in photos.shape[1:3])
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    shares = np.repeat(np.arange(len(_CELLS_A_ROUND)), list(_CELLS_A_ROUND.values()))
    owners = np.resize(shares, len(corners))
    deals = np.concatenate([owners[rng.random_sample((_DEALS, len(corners))).argsort(axis=1)] for _ in photos], axis=1)
    cells = np.concatenate([np.insert(corners, 0, index, axis=1) for index in range(len(photos))])
    owner = deals[np.argmin(_imbalance(deals, _cell_features(photos, cells)))]
    return {part: cells[owner == number] for number, part in enumerate(PART_SIZES)}


def make_recipe(
    part: SplitName, labels: IntArray, digits: IntArray, cells: IntArray, seed: int, limit: int | None = None
) -> Recipe:
    """Draw the composition of every image of a part, from its own digits and cells only.

    Every ten images hold each class once, and every digit and cell is used equally often.

    Args:
        part: The part, which fixes the number of images and the random generator.
        labels: Class of each of scikit-learn's digits.
        digits: Indices of the part's digits.
        cells: The part's cells, shape (cells, 3).
        seed: Seed of the draw.
        limit: Only the first so many images of the part.
    """
    n = PART_SIZES[part]
    rng = random_generator(seed, _RECIPE_DRAW, list(PART_SIZES).index(part))
    turns = rng.random_sample((n // 10, 10)).argsort(axis=1).reshape(-1)
    digit = np.empty(n, dtype=np.int64)
    for label in range(10):
        digit[turns == label] = _deal(digits[labels[digits] == label], n // 10, rng)
    cell = cells[_deal(np.arange(len(cells)), n, rng)]
    corner = rng.randint(0, CELL_SIDE - IMAGE_SIDE + 1, size=(2, n))
    mirrored = rng.random_sample(n) < 0.5
    side = rng.randint(0, len(_DIGIT_SIDES), size=n)
    places = np.array([IMAGE_SIDE + 1 - s for s in _DIGIT_SIDES])
    first = np.concatenate([[0], np.cumsum(places)[:-1]])
    row, column = (first[side] + (rng.random_sample(n) * places[side]).astype(np.int64) for _ in range(2))
    photo, top, left = cell[:, 0], cell[:, 1] + corner[0], cell[:, 2] + corner[1]
    kept = slice(limit)
    return Recipe(digit[kept], photo[kept], top[kept], left[kept], mirrored[kept], row[kept], column[kept])


def render(recipe: Recipe, digits: NDArray[np.float32], photos: Bytes) -> Bytes:
    """Compose the images of a recipe.

    Args:
        recipe: N compositions.
        digits: Pixels in 0..16, shape (D, 8, 8).
        photos: Shape (P, H, W, 3).

    Returns:
        uint8, shape (N, 3, 32, 32).
    """
    windows = sliding_window_view(photos, (IMAGE_SIDE, IMAGE_SIDE), axis=(1, 2))
    patches: Bytes = windows[recipe.photo, recipe.top, recipe.left]
    patches[recipe.mirrored] = patches[recipe.mirrored, :, :, ::-1]
    # Integers below 2^24 throughout, so float32 products are exact in whatever order they are added.
    weights = _placements()
    ink = weights[recipe.row_weights] @ digits[recipe.digit] @ weights[recipe.column_weights].transpose(0, 2, 1)
    scale = _DIGIT_LEVELS * _WEIGHT_UNIT**2
    ink255 = np.clip((ink.astype(np.int64) * 255 + scale // 2) // scale, 0, 255).astype(np.uint8)[:, None]
    blended: Bytes = np.maximum(patches, ink255) - np.minimum(patches, ink255)
    return blended


def _cell_features(photos: Bytes, cells: IntArray) -> NDArray[np.float64]:
    """Colour, contrast and detail of each cell and their squares, standardised: shape (cells, 10)."""
    windows = sliding_window_view(photos, (CELL_SIDE, CELL_SIDE), axis=(1, 2))
    pixels = windows[tuple(cells.T)].astype(np.float64)
    grey = pixels.mean(axis=1)
    contrast = grey.std(axis=(1, 2))
    detail = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    features = np.column_stack([pixels.mean(axis=(2, 3)), contrast, detail])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    squares = features**2
    return np.concatenate([features, squares / squares.std(axis=0)], axis=1)


def _imbalance(deals: IntArray, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the parts' mean features lie from those of all cells, for each deal: shape (deals,).

    Args:
        deals: Part that each cell goes to, shape (deals, cells).
        features: Shape (cells, F).
    """
    total = np.zeros(len(deals))
    for part in range(len(_CELLS_A_ROUND)):
        mine = (deals == part).astype(np.float64)
        means = mine @ features / mine.sum(axis=1, keepdims=True)
        total += ((means - features.mean(axis=0)) ** 2).sum(axis=1)
    return total


def _deal(items: IntArray, n: int, rng: np.random.RandomState) -> IntArray:
    """`n` of the items in random order, each equally often (to within one)."""
    rounds = -(-n // len(items))
    dealt: IntArray = np.concatenate([rng.permutation(items) for _ in range(rounds)])[:n]
    return dealt


def _placements() -> NDArray[np.float32]:
    """Interpolation matrices from 8 pixels to 32, for every size of a digit and every place that it can have.

    Cubic convolution (Keys 1981, a = -1/2) with nothing but paper around the digit, in units of 1/256.

    Returns:
        Whole numbers as float32, shape (placements, 32, 8): sizes ascending, within a size places ascending.
    """
    target = np.arange(IMAGE_SIDE)[:, None]
    matrices = []
    for side in _DIGIT_SIDES:
        for place in range(IMAGE_SIDE - side + 1):
            distance = np.abs((target + 0.5 - place) * 8 / side - 0.5 - np.arange(8)[None, :])
            near = (1.5 * distance - 2.5) * distance**2 + 1
            far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
            kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
            matrices.append(np.rint(kernel * _WEIGHT_UNIT))
    return np.stack(matrices).astype(np.float32)
