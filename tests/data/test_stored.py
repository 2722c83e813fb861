"""Image files cut into what all of a kind share and what is each one's own, and put together again."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import ConfigError, PayloadError
from autosplit.data.stored import StoredFormat, decode_images, encode_images, join_file, split_file
from autosplit.runtime.standalone.payload import image_codecs
from tests.data.test_dataset_base import make, smooth_images

BODY = StoredFormat("jpeg-shared", 75)
SHAPES = [(1, 8, 8), (3, 32, 32), (3, 17, 41), (1, 33, 16)]


def images(shape, n=3, noise=True):
    generator = torch.Generator().manual_seed(sum(shape))
    if noise:
        return torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)
    return smooth_images(n, shape[0], 64)[:, :, : shape[1], : shape[2]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quality", [1, 30, 75, 95])
@pytest.mark.parametrize("noise", [True, False])
def test_a_body_and_what_both_ends_know_make_the_file(shape, quality, noise):
    pictures = images(shape, noise=noise)
    files, bodies = (encode_images(pictures, StoredFormat(kind, quality)) for kind in ("jpeg", "jpeg-shared"))
    assert [join_file(body, shape, StoredFormat("jpeg-shared", quality)) for body in bodies] == files
    for file, body in zip(files, bodies, strict=True):
        head, middle, end = split_file(file, StoredFormat("jpeg"))
        assert head + middle + end == file
        assert middle == body
        assert end == b"\xff\xd9"
        assert len(file) - len(body) == len(head) + 2 == {1: 328, 3: 623}[shape[0]] + 2


def test_the_headers_are_the_same_for_all_images_of_a_size_and_quality_alone():
    heads = {(shape, quality): {split_file(f, StoredFormat("jpeg"))[0]
                                for f in encode_images(images(shape), StoredFormat("jpeg", quality))}
             for shape in SHAPES for quality in (30, 75)}
    assert all(len(found) == 1 for found in heads.values())
    assert len(set().union(*heads.values())) == len(heads)


def test_bodies_of_a_data_set_are_cut_out_of_its_files():
    data = make()
    files, bodies = (data.stored_files("test", StoredFormat(kind, 50), limit=4) for kind in ("jpeg", "jpeg-shared"))
    assert [join_file(b, data.shape, StoredFormat("jpeg-shared", 50)) for b in bodies] == files
    sizes = data.stored_bytes("test", StoredFormat("jpeg-shared", 50))
    assert (sizes == data.stored_bytes("test", StoredFormat("jpeg", 50)) - 625).all()


def test_thumbnails_with_restarts_and_other_segments_are_cut_at_the_scan():
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", comment=b"\xff\xda in a comment", icc_profile=b"\xff\xd9" * 40)
    head, body, _ = split_file(buffer.getvalue(), StoredFormat("jpeg"))
    assert b"in a comment" in head
    assert 0 < len(body) < 40


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"no picture at all", b"\xff\xd8\xff\xe0\x00\x10"])
def test_what_is_no_jpeg_cannot_be_cut(file):
    with pytest.raises(PayloadError, match="no JPEG file"):
        split_file(file, StoredFormat("jpeg"))


def test_a_file_cut_short_cannot_be_cut():
    (file,) = encode_images(images((3, 32, 32), 1), StoredFormat("jpeg"))
    with pytest.raises(PayloadError, match="without its end"):
        split_file(file[:-1], StoredFormat("jpeg"))


@pytest.mark.parametrize(("body", "message"), [
    (b"", "an empty JPEG body"), (b"abc\xff\xd9", "the marker ffd9 at byte 3"), (b"\xff\xd0abc", "ffd0 at byte 0"),
    (b"abc\xff", "the marker ff at byte 3"), (b"ab\xff\xff\x00", "the marker ffff at byte 2"),
])
def test_a_body_never_holds_a_marker(body, message):
    with pytest.raises(PayloadError, match=message):
        join_file(body, (1, 32, 32), BODY)


def test_the_body_of_a_grey_file_says_so_where_colours_could_be():
    assert join_file(b"abc\xff", (3, 32, 32), BODY) == join_file(b"abc", (1, 32, 32), BODY)
    for body in (b"\xff", b"abc\xff\xff", b"a\xff\xd9\xff"):
        with pytest.raises(PayloadError):
            join_file(body, (3, 32, 32), BODY)


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpeg-shared"])
def test_three_equal_channels_are_a_grey_file(kind):
    grey = images((1, 33, 16), noise=False)
    colours = images((3, 33, 16), noise=False)
    wide = torch.cat([grey.expand(-1, 3, -1, -1), colours])
    files = encode_images(wide, StoredFormat(kind))
    small = encode_images(grey, StoredFormat(kind))
    assert [len(f) for f in files[:3]] == [len(f) + (kind == "jpeg-shared") for f in small]
    assert files[3:] == encode_images(colours, StoredFormat(kind))
    if kind == "jpeg-shared":
        files, small = ([join_file(f, (c, 33, 16), BODY) for f in found] for found, c in ((files, 3), (small, 1)))
        assert files[:3] == small
    decoded = decode_images(files, (3, 33, 16))
    assert torch.equal(decoded[:3], decode_images(small, (1, 33, 16)).expand(-1, 3, -1, -1))
    assert torch.equal(decoded[3:], decode_images(files[3:], (3, 33, 16)))
    if kind == "png":
        assert torch.equal(decoded, wide)


def test_stuffed_bytes_are_no_marker():
    assert join_file(b"ab\xff\x00cd", (3, 32, 32), StoredFormat("jpeg-shared", 75)).endswith(b"ab\xff\x00cd\xff\xd9")


def test_decoding_says_what_is_no_image_of_the_shape():
    files = encode_images(images((3, 16, 16)), StoredFormat("png"))
    assert torch.equal(decode_images(files, (3, 16, 16)), images((3, 16, 16)))
    for shape in ((1, 16, 16), (3, 16, 32)):
        with pytest.raises(PayloadError, match="of shape"):
            decode_images(files, shape)
    for damaged in (b"", b"GIF89a", files[0][:60]):
        with pytest.raises(PayloadError, match=f"{len(damaged)} bytes that are no image"):
            decode_images([files[0], damaged], (3, 16, 16))


def test_unknown_formats_are_refused():
    with pytest.raises(ConfigError, match="png or jpeg or jpeg-shared or webp"):
        StoredFormat("gif")
    for kind, quality in (("jpeg-shared", 0), ("jpeg", 101), ("webp", -1), ("avif", 101)):
        with pytest.raises(ConfigError, match=f"quality {quality} is outside"):
            StoredFormat(kind, quality)
    for wrong in ({"effort": 7}, {"effort": -1}, {"downscale": 0}):
        with pytest.raises(ConfigError, match=r"effort|divided"):
            StoredFormat("webp", 30, **wrong)


MODERN = [StoredFormat(kind, 30, effort, downscale) for kind in ("webp", "avif") for effort in (0, 4)
          for downscale in (1, 2)]


@pytest.mark.parametrize("stored", MODERN, ids=lambda f: f"{f.kind}-{f.effort}-{f.downscale}")
@pytest.mark.parametrize("shape", [(3, 33, 16), (1, 16, 16)])
def test_what_both_ends_know_of_modern_formats_need_not_cross(stored, shape):
    pictures = torch.cat([images(shape), images(shape, noise=False), torch.zeros(1, *shape, dtype=torch.uint8)])
    files, bodies = (encode_images(pictures, StoredFormat(kind, 30, stored.effort, stored.downscale))
                     for kind in (stored.kind, f"{stored.kind}-shared"))
    least = {"webp": 20, "avif": 200}[stored.kind]
    assert all(len(file) - len(body) >= least for file, body in zip(files, bodies, strict=True))
    assert [join_file(body, shape, StoredFormat(f"{stored.kind}-shared", 30, stored.effort, stored.downscale))
            for body in bodies] == files
    decoded = decode_images(files, shape, stored.downscale)
    assert decoded.shape == pictures.shape
    assert (decoded.float() - pictures.float())[3:].abs().mean() < 8  # noise is kept by none of them
    for damaged in (b"", files[0][:30], files[0][4:]):
        with pytest.raises(PayloadError):
            decode_images([damaged], shape, stored.downscale)
    with pytest.raises(PayloadError, match="no "):
        split_file(b"RIFF" + files[0][6:], stored)


def test_less_quality_less_effort_fewer_pixels():
    picture = images((3, 96, 96), 1)

    def size(kind, quality=50, effort=4, downscale=1):
        return len(encode_images(picture, StoredFormat(kind, quality, effort, downscale))[0])

    for kind in ("jpeg", "webp", "avif"):
        assert size(kind, 10) < size(kind, 50) < size(kind, 90)
        assert size(kind, downscale=2) < size(kind)
    assert size("webp") < size("webp", effort=0)


def test_a_file_that_shares_nothing_with_others_goes_whole():
    stored = StoredFormat("avif-shared", 50, 0)
    whole = encode_images(images((3, 16, 16), 1), stored.whole)[0]
    assert join_file(whole, (3, 16, 16), stored) == whole
    odd = whole[:30] + b"?" + whole[31:]  # another brand
    (crosses,) = image_codecs.bodies([odd], (3, 16, 16), stored)
    assert crosses == odd
    assert join_file(crosses, (3, 16, 16), stored) == odd
