"""Statistics, fingerprint, normalisation, and stored sizes of a data set."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import ConfigError
from autosplit.data import Split
from autosplit.data.base import build_dataset, build_from_official, channel_statistics, content_fingerprint
from autosplit.data.stored import StoredFormat, encode_images


def smooth_images(n, channels=3, side=32, seed=0):
    """Images that JPEG can compress, as noise cannot."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, size=side, mode="bilinear").to(torch.uint8)


def make(channels=3, n=12):
    parts = {
        name: Split(smooth_images(n, channels, seed=i), torch.arange(n) % 2)
        for i, name in enumerate(("train", "calibration", "validation", "test"))
    }
    return build_dataset("tiny", ("a", "b"), **parts)


def test_statistics_are_those_of_the_training_images():
    images = smooth_images(5000, side=8)  # more than one chunk, the last one partial
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(mean, pixels.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(std, pixels.std(dim=(0, 2, 3), correction=0).float())


def test_constant_channel_does_not_divide_by_zero():
    _, std = channel_statistics(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert std.item() == pytest.approx(1 / 255)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalise_standardises_and_leaves_its_argument(dtype):
    dataset = make()
    images = dataset.train.images.to(dtype)
    before = images.clone()
    x = dataset.normalise(images)
    assert torch.equal(images, before)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_fingerprint_sees_pixels_labels_names_and_order():
    part = Split(smooth_images(4), torch.tensor([0, 1, 0, 1]))
    pixel = part.images.clone()
    pixel[3, 2, 31, 31] ^= 1
    variants = [
        content_fingerprint(("a", "b"), (part,)),
        content_fingerprint(("a", "c"), (part,)),
        content_fingerprint(("a", "b"), (Split(pixel, part.labels),)),
        content_fingerprint(("a", "b"), (Split(part.images, 1 - part.labels),)),
        content_fingerprint(("a", "b"), (Split(part.images.flip(0), part.labels),)),
        content_fingerprint(("a", "b"), (part.first(3),)),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == content_fingerprint(("a", "b"), (Split(part.images.clone(), part.labels),))
    assert len(variants[0]) == 16


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "quality"), [("png", 75), ("jpeg", 10), ("jpeg", 95)])
def test_stored_bytes_are_the_lengths_of_real_files(channels, kind, quality):
    dataset = make(channels)
    expected = []
    for image in dataset.validation.images:
        picture = Image.fromarray(image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy().copy())
        buffer = io.BytesIO()
        picture.save(buffer, kind, **({"quality": quality} if kind == "jpeg" else {}))
        expected.append(len(buffer.getvalue()))
    sizes = dataset.stored_bytes("validation", StoredFormat(kind, quality))
    assert sizes.dtype == torch.int64
    assert sizes.tolist() == expected


def test_jpeg_images_are_the_decoded_files():
    dataset = make()
    seen = dataset.coded_images("test", StoredFormat("jpeg", 50), limit=5)
    files = dataset.stored_files("test", StoredFormat("jpeg", 50), limit=5)
    for image, file in zip(seen.images, files, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(file))))
    assert torch.equal(seen.labels, dataset.test.labels[:5])
    assert seen.images.shape == (5, 3, 32, 32)


def test_jpeg_loses_less_at_higher_quality():
    dataset = make()
    original = dataset.test.images.float()
    errors = [(dataset.coded_images("test", StoredFormat("jpeg", q)).images.float() - original).abs().mean().item()
              for q in (10, 50, 95)]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 3


def test_grey_jpeg_keeps_one_channel():
    assert make(1).coded_images("test", StoredFormat("jpeg", 75)).images.shape == (12, 1, 32, 32)


def test_jpeg_is_baseline_with_subsampled_chroma_and_standard_tables():
    file = make().stored_files("test", StoredFormat("jpeg", 75), limit=1)[0]
    frame = file.index(b"\xff\xc0")  # SOF0: baseline
    assert file[frame + 11] == 0x22, "luma is sampled 2x2 against chroma: 4:2:0"
    scan = file.index(b"\xff\xda")
    assert scan + 2 + int.from_bytes(file[scan + 2 : scan + 4], "big") == 623, "headers with the standard tables"


def test_images_are_encoded_once(monkeypatch):
    encoded = []

    def counting(images, *args):
        encoded.append(len(images))
        return encode_images(images, *args)

    monkeypatch.setattr("autosplit.data.base.encode_images", counting)
    dataset = make()
    first = dataset.stored_bytes("test", StoredFormat("jpeg", 75), limit=4)
    every = dataset.stored_bytes("test", StoredFormat("jpeg", 75))
    dataset.coded_images("test", StoredFormat("jpeg", 75))
    assert encoded == [4, 8]
    assert torch.equal(every[:4], first)
    dataset.stored_bytes("test", StoredFormat("jpeg", 50))
    dataset.stored_bytes("validation", StoredFormat("jpeg", 50))
    dataset.stored_bytes("test", StoredFormat("png", 1))
    dataset.stored_bytes("test", StoredFormat("png", 2))
    assert encoded == [4, 8, 12, 12, 12]


def test_a_copy_with_other_images_does_not_keep_the_files():
    dataset = make()
    before = dataset.stored_bytes("test", StoredFormat("png"))
    copy = dataclasses.replace(dataset, test=Split(torch.zeros_like(dataset.test.images), dataset.test.labels))
    assert (copy.stored_bytes("test", StoredFormat("png")) < before).all()


@pytest.mark.parametrize(
    ("kind", "quality", "message"), [("gif", 75, "'gif'.*png or jpeg"), ("jpeg", 0, "0"), ("jpeg", 101, "101")]
)
def test_unknown_format_or_quality_is_refused(kind, quality, message):
    with pytest.raises(ConfigError, match=message):
        make().stored_bytes("test", StoredFormat(kind, quality))


def test_two_channels_cannot_be_stored():
    with pytest.raises(ConfigError, match="2 channels"):
        encode_images(smooth_images(1, 2), StoredFormat("png"))


def test_official_parts_are_disjoint_and_the_test_part_is_untouched():
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 1, 2, 2).contiguous()
    training, test = Split(images, torch.arange(200) % 4), Split(255 - images[:20], torch.arange(20) % 4)
    dataset = build_from_official("x", "abcd", training, test, seed=0, limit=None)
    ids = [set(dataset.split(p).images[:, 0, 0, 0].tolist()) for p in ("train", "calibration", "validation")]
    assert [len(i) for i in ids] == [144, 8, 48]
    assert len(set.union(*ids)) == 200
    assert torch.equal(dataset.test.images, test.images)
    limited = build_from_official("x", "abcd", training, test, seed=0, limit=10)
    assert [len(limited.split(p)) for p in ("train", "calibration", "validation", "test")] == [10, 8, 10, 10]
    assert dataset.augment
