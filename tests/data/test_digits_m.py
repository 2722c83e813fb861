"""The embedded data set: nothing shared between its parts, equal distribution, reproducible bytes."""

from itertools import combinations

import numpy as np
import pytest
import torch

from autosplit.data import ImageDataset, load_dataset
from autosplit.data import digits_m as dm

PARTS = tuple(dm.PART_SIZES)


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return load_dataset("digits-m")


@pytest.fixture(scope="module")
def sources():
    return dm.sources()


@pytest.fixture(scope="module", params=[0, 1, 12345])
def recipes(request, sources):
    _, labels, photos = sources
    digits, cells = dm.assign_digits(labels, request.param), dm.assign_cells(photos, request.param)
    return {part: dm.make_recipe(part, labels, digits[part], cells[part], request.param) for part in PARTS}


def test_sizes_shapes_and_types(dataset):
    assert {part: len(dataset.split(part)) for part in PARTS} == dm.PART_SIZES
    for part in PARTS:
        images, labels = dataset.split(part).images, dataset.split(part).labels
        assert images.shape == (dm.PART_SIZES[part], 3, 32, 32)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert torch.bincount(labels).tolist() == [len(labels) // 10] * 10
    assert dataset.class_names == tuple("0123456789")
    assert not dataset.augment


def test_no_digit_is_in_two_parts(recipes):
    used = {part: set(recipe.digit.tolist()) for part, recipe in recipes.items()}
    for one, other in combinations(PARTS, 2):
        assert not used[one] & used[other]
    assert set.union(*used.values()) == set(range(1797))


def test_no_pixel_of_a_photograph_is_in_two_parts(recipes, sources):
    photos = sources[2]
    covered = {}
    for part, recipe in recipes.items():
        mask = np.zeros(photos.shape[:3], dtype=bool)
        for photo, top, left in set(zip(recipe.photo, recipe.top, recipe.left, strict=True)):
            mask[photo, top : top + dm.IMAGE_SIDE, left : left + dm.IMAGE_SIDE] = True
        covered[part] = mask
        assert mask.any(axis=(1, 2)).all(), f"{part} does not use both photographs"
    for one, other in combinations(PARTS, 2):
        assert not (covered[one] & covered[other]).any()


def test_no_image_is_in_two_parts(dataset):
    seen = [{image.numpy().tobytes() for image in dataset.split(part).images} for part in PARTS]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_parts_have_the_same_brightness(dataset):
    means = [dataset.split(part).images.float().mean().item() for part in PARTS]
    assert max(means) - min(means) < 12  # 17 when cells were dealt by detail alone


def test_recipe_has_the_label_of_its_digit(dataset, sources):
    _, labels, photos = sources
    digits, cells = dm.assign_digits(labels, 0), dm.assign_cells(photos, 0)
    recipe = dm.make_recipe("test", labels, digits["test"], cells["test"], 0)
    assert torch.equal(dataset.test.labels, torch.from_numpy(labels[recipe.digit]))


def test_render_is_the_absolute_difference_of_digit_and_patch():
    blank, full = np.zeros((8, 8), np.float32), np.full((8, 8), 16, np.float32)
    photos = np.full((1, 40, 40, 3), 50, np.uint8)
    photos[0, 4, 7] = (10, 20, 30)  # the corner of the patch
    zero = np.zeros(2, np.int64)
    last = np.full(2, len(dm._placements()) - 1)  # the largest digit, bottom right
    recipe = dm.Recipe(np.array([0, 1]), zero, zero + 4, zero + 7, np.array([False, True]), last, last)
    plain, inked = dm.render(recipe, np.stack([blank, full]), photos)
    assert plain[:, 0, 0].tolist() == [10, 20, 30]
    assert inked[:, 0, 31].tolist() == [10, 20, 30], "the second patch is mirrored, and has no ink in its corner"
    assert inked[:, 18, 18].tolist() == [205, 205, 205]
    assert plain[:, 18, 18].tolist() == [50, 50, 50]


def test_placements_keep_ink_within_the_digit_square():
    weights = dm._placements()
    assert len(weights) == sum(dm.IMAGE_SIDE + 1 - side for side in dm._DIGIT_SIDES)
    assert (weights == np.rint(weights)).all()
    inside = weights[0].sum(axis=1)  # 22 pixels from the first row on
    assert np.abs(inside[5:17] - 256).max() <= 2
    assert np.abs(inside[26:]).max() == 0


def test_one_seed_gives_the_same_bytes(dataset):
    again = load_dataset("digits-m", limit=50)
    for part in PARTS:
        assert torch.equal(again.split(part).images, dataset.split(part).images[:50])
    # Pinned: a change of the data set invalidates every published figure and every cache.
    assert dataset.fingerprint == "f557dfe6e5a09acb"


def test_seeds_differ():
    one, other = (load_dataset("digits-m", seed=seed, limit=20) for seed in (0, 1))
    assert one.fingerprint != other.fingerprint
    assert not torch.equal(one.test.images, other.test.images)
