"""JPEG files cut into what all of a kind share and what is each one's own, and put together again."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import ConfigError, PayloadError
from autosplit.data.stored import decode_images, encode_images, join_jpeg, split_jpeg
from tests.data.test_dataset_base import make, smooth_images

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
    files, bodies = (encode_images(pictures, kind, quality) for kind in ("jpeg", "jpeg-shared"))
    assert [join_jpeg(body, shape, quality) for body in bodies] == files
    for file, body in zip(files, bodies, strict=True):
        head, middle, end = split_jpeg(file)
        assert head + middle + end == file
        assert middle == body
        assert end == b"\xff\xd9"
        assert len(file) - len(body) == len(head) + 2 == {1: 328, 3: 623}[shape[0]] + 2


def test_the_headers_are_the_same_for_all_images_of_a_size_and_quality_alone():
    heads = {(shape, quality): {split_jpeg(f)[0] for f in encode_images(images(shape), "jpeg", quality)}
             for shape in SHAPES for quality in (30, 75)}
    assert all(len(found) == 1 for found in heads.values())
    assert len(set().union(*heads.values())) == len(heads)


def test_bodies_of_a_data_set_are_cut_out_of_its_files():
    data = make()
    files, bodies = (data.stored_files("test", kind, 50, limit=4) for kind in ("jpeg", "jpeg-shared"))
    assert [join_jpeg(b, data.shape, 50) for b in bodies] == files
    sizes = data.stored_bytes("test", "jpeg-shared", 50)
    assert (sizes == data.stored_bytes("test", "jpeg", 50) - 625).all()


def test_thumbnails_with_restarts_and_other_segments_are_cut_at_the_scan():
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", comment=b"\xff\xda in a comment", icc_profile=b"\xff\xd9" * 40)
    head, body, _ = split_jpeg(buffer.getvalue())
    assert b"in a comment" in head
    assert 0 < len(body) < 40


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"no picture at all", b"\xff\xd8\xff\xe0\x00\x10"])
def test_what_is_no_jpeg_cannot_be_cut(file):
    with pytest.raises(PayloadError, match="no JPEG file"):
        split_jpeg(file)


def test_a_file_cut_short_cannot_be_cut():
    (file,) = encode_images(images((3, 32, 32), 1), "jpeg")
    with pytest.raises(PayloadError, match="without its end"):
        split_jpeg(file[:-1])


@pytest.mark.parametrize(("body", "message"), [
    (b"", "an empty JPEG body"), (b"abc\xff\xd9", "the marker ffd9 at byte 3"), (b"\xff\xd0abc", "ffd0 at byte 0"),
    (b"abc\xff", "the marker ff at byte 3"), (b"ab\xff\xff\x00", "the marker ffff at byte 2"),
])
def test_a_body_never_holds_a_marker(body, message):
    with pytest.raises(PayloadError, match=message):
        join_jpeg(body, (1, 32, 32), 75)


def test_the_body_of_a_grey_file_says_so_where_colours_could_be():
    assert join_jpeg(b"abc\xff", (3, 32, 32), 75) == join_jpeg(b"abc", (1, 32, 32), 75)
    for body in (b"\xff", b"abc\xff\xff", b"a\xff\xd9\xff"):
        with pytest.raises(PayloadError):
            join_jpeg(body, (3, 32, 32), 75)


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpeg-shared"])
def test_three_equal_channels_are_a_grey_file(kind):
    grey = images((1, 33, 16), noise=False)
    colours = images((3, 33, 16), noise=False)
    wide = torch.cat([grey.expand(-1, 3, -1, -1), colours])
    files = encode_images(wide, kind)
    small = encode_images(grey, kind)
    assert [len(f) for f in files[:3]] == [len(f) + (kind == "jpeg-shared") for f in small]
    assert files[3:] == encode_images(colours, kind)
    if kind == "jpeg-shared":
        files, small = ([join_jpeg(f, (c, 33, 16), 75) for f in found] for found, c in ((files, 3), (small, 1)))
        assert files[:3] == small
    decoded = decode_images(files, (3, 33, 16))
    assert torch.equal(decoded[:3], decode_images(small, (1, 33, 16)).expand(-1, 3, -1, -1))
    assert torch.equal(decoded[3:], decode_images(files[3:], (3, 33, 16)))
    if kind == "png":
        assert torch.equal(decoded, wide)


def test_stuffed_bytes_are_no_marker():
    assert join_jpeg(b"ab\xff\x00cd", (3, 32, 32), 75).endswith(b"ab\xff\x00cd\xff\xd9")


def test_decoding_says_what_is_no_image_of_the_shape():
    files = encode_images(images((3, 16, 16)), "png")
    assert torch.equal(decode_images(files, (3, 16, 16)), images((3, 16, 16)))
    for shape in ((1, 16, 16), (3, 16, 32)):
        with pytest.raises(PayloadError, match="of shape"):
            decode_images(files, shape)
    for damaged in (b"", b"GIF89a", files[0][:60]):
        with pytest.raises(PayloadError, match=f"{len(damaged)} bytes that are no image"):
            decode_images([files[0], damaged], (3, 16, 16))


def test_unknown_formats_are_refused():
    with pytest.raises(ConfigError, match="png or jpeg or jpeg-shared"):
        encode_images(images((3, 16, 16)), "gif")
    with pytest.raises(ConfigError, match="quality 0"):
        encode_images(images((3, 16, 16)), "jpeg-shared", 0)
