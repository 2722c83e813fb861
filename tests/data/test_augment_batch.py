"""Flips and shifts of a batch."""

import pytest
import torch

from autosplit.data import augment_batch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_type_and_determinism(dtype):
    images = torch.randint(0, 256, (6, 3, 32, 24), generator=seeded()).to(dtype)
    before = images.clone()
    one, same, other = (augment_batch(images, seeded(seed)) for seed in (1, 1, 2))
    assert (one.shape, one.dtype) == (images.shape, dtype)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("side", "most"), [(32, 4), (224, 28), (8, 1)])
def test_pixels_move_by_at_most_an_eighth(side, most):
    ramp = torch.arange(side).float().expand(400, 1, side, side)
    centre = side // 2
    shifted = augment_batch(ramp.transpose(2, 3), seeded())[:, 0, centre, centre] - centre
    assert (shifted.min().item(), shifted.max().item()) == (-most, most)
    assert len(shifted.unique()) == 2 * most + 1


def test_half_of_the_images_are_flipped_and_never_upside_down():
    images = torch.zeros(1000, 1, 16, 16)
    images[:, :, :8, :8] = 1  # top left
    moved = augment_batch(images, seeded())
    left, right = moved[:, 0, 3, 3], moved[:, 0, 3, 12]
    assert torch.equal(left + right, torch.ones(1000))
    assert 400 < right.sum().item() < 600
    assert not moved[:, :, 11:].any()


def test_edges_are_mirrored_and_channels_move_together():
    base = torch.arange(1, 65).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    images = torch.cat([base, base + 100], dim=1)
    moved = augment_batch(images, seeded())
    assert torch.equal(moved[:, 1], moved[:, 0] + 100)
    assert moved[:, 0].min() >= 1, "no black border"
    allowed = {tuple(row) for row in ([2, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 7])}
    rows = {tuple(((image[0] - 1) % 8 + 1).tolist()) for image in moved[:, 0]}
    assert rows == allowed | {row[::-1] for row in allowed}


def test_empty_batch():
    assert augment_batch(torch.zeros(0, 3, 8, 8), seeded()).shape == (0, 3, 8, 8)
