"""Single files of every mode and shape as RGB pixels."""

import numpy as np
import pytest
from PIL import Image

from autosplit.runtime.standalone.image_file import failure, fit, read_header, read_pixels


def colour_of(path, side=8):
    pixels = read_pixels(path, side, side)
    assert pixels.shape == (3, side, side)
    assert pixels.dtype == np.uint8
    return pixels[:, side // 2, side // 2].astype(int).tolist()


@pytest.mark.parametrize("side", [16, 8])  # as it is, and resized
@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (200, 100, 50), "png", [200, 100, 50]),
        ("L", 77, "png", [77, 77, 77]),
        ("1", 1, "png", [255, 255, 255]),
        ("LA", (0, 0), "png", [255, 255, 255]),
        ("RGBA", (255, 0, 0, 255), "png", [255, 0, 0]),
        ("RGBA", (255, 0, 0, 0), "png", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 255), "jpg", [0, 0, 0]),
        ("CMYK", (0, 0, 0, 0), "jpg", [255, 255, 255]),
        ("I;16", 65_535, "png", [255, 255, 255]),
        ("I;16", 32_768, "png", [128, 128, 128]),
        ("I;16", 257, "tif", [1, 1, 1]),
        ("F", 0.5, "tif", [128, 128, 128]),
        ("F", 100.0, "tif", [100, 100, 100]),
        ("YCbCr", (255, 128, 128), "jpg", [255, 255, 255]),
    ],
)
def test_modes(tmp_path, side, mode, colour, suffix, expected):
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (16, 16), colour).save(path)
    assert colour_of(path, side) == expected


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(tmp_path, transparent):
    image = Image.new("P", (16, 16), 3)
    image.putpalette([0, 0, 0] * 3 + [10, 200, 30] + [0, 0, 0] * 252)
    image.save(tmp_path / "x.png", **({"transparency": 3} if transparent else {}))
    assert colour_of(tmp_path / "x.png") == ([255, 255, 255] if transparent else [10, 200, 30])


def test_shorter_side_is_fitted_and_the_centre_kept(tmp_path):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, :20, 0] = stripes[:, 20:40, 1] = stripes[:, 40:, 2] = 255
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    Image.fromarray(stripes.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name in ("wide.png", "high.png"):
        pixels = read_pixels(tmp_path / name, 10, 10)
        inner = pixels[:, 1:-1, 1:-1]  # antialiasing mixes in a little of what is cropped at the very edge
        assert (inner[1] == 255).all()
        assert not inner[[0, 2]].any()
    assert read_header(tmp_path / "wide.png") == (20, 60, False)
    assert read_header(tmp_path / "high.png") == (60, 20, False)


def test_any_shape_can_be_fitted():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 900, (300, 2)):
        image = Image.new("L", (int(width), int(height)), 9)
        for target in ((224, 224), (32, 48)):
            assert fit(image, *target).size == target[::-1]


def test_big_jpeg_is_like_its_full_decode(tmp_path):
    y, x = np.mgrid[0:800, 0:1200]
    picture = np.stack([x * 255 / 1200, y * 255 / 800, (x + y) % 256 * 0 + 90], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.jpg", quality=95)
    quick = read_pixels(tmp_path / "x.jpg", 64, 64).astype(int)
    full = np.asarray(fit(Image.open(tmp_path / "x.jpg"), 64, 64)).transpose(2, 0, 1).astype(int)
    assert np.abs(quick - full).max() <= 4


def test_rotation_of_exif_is_obeyed(tmp_path):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16] = 255  # bright top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: bright right side
    Image.fromarray(picture).save(tmp_path / "x.png", exif=exif)
    pixels = read_pixels(tmp_path / "x.png", 32, 32)
    assert (pixels[:, :, 16:] == 255).all()
    assert not pixels[:, :, :16].any()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("cannot identify image file '/a b/c.jpg'"), "cannot identify image"),
        (PermissionError(13, "Permission denied", "/a/b.png"), "[Errno 13] Permission denied"),
        (ValueError(), "ValueError"),
        (
            OSError("image file is truncated (3 bytes\nnot processed)"),
            "image file is truncated (3 bytes not processed)",
        ),
    ],
)
def test_reasons_are_short(error, words):
    assert failure(error) == words


@pytest.mark.parametrize(("start", "words"), [
    (b"\0\0\0\x18ftypheic", "pip install pillow-heif"),
    (b"\xff\x0a\0", "pip install pillow-jxl-plugin"),
    (b"<?xml version='1.0'?>\n<!-- x -->\n<svg>", "a drawing"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a drawing"),
    (b"", "an empty file"),
    (b"hello", "cannot identify image"),
])
def test_what_cannot_be_read_is_named_with_the_remedy(tmp_path, start, words, without_heif):
    path = tmp_path / "x.png"
    path.write_bytes(start)
    with pytest.raises(OSError) as caught:  # noqa: PT011 (Pillow's message)
        read_header(path)
    assert words in failure(caught.value, path)


def test_a_damaged_file_of_a_known_format_is_not_blamed_on_pillow(tmp_path, monkeypatch):
    path = tmp_path / "x.avif"
    path.write_bytes(b"\0\0\0\x18ftypavif")
    monkeypatch.setitem(Image.OPEN, "AVIF", (None, None))
    assert failure(OSError("broken"), path) == "broken"
    monkeypatch.delitem(Image.OPEN, "AVIF")
    assert "pip install --upgrade pillow" in failure(OSError("broken"), path)


def test_heic_is_read_where_its_plugin_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install '.[dev]'")
    pillow_heif.register_heif_opener()
    stripes = np.zeros((32, 48, 3), np.uint8)
    stripes[:, 24:] = (200, 100, 50)
    Image.fromarray(stripes).save(tmp_path / "x.heic", format="HEIF", quality=95)
    assert read_header(tmp_path / "x.heic") == (32, 48, False)
    pixels = read_pixels(tmp_path / "x.heic", 32, 48).astype(int)
    assert np.abs(pixels - stripes.transpose(2, 0, 1)).mean() < 3


@pytest.mark.parametrize(("mode", "grey"), [("1", True), ("L", True), ("LA", True), ("I;16", True), ("RGB", False),
                                            ("RGBA", False), ("P", False), ("CMYK", False)])
def test_grey_is_known_by_the_mode(tmp_path, mode, grey):
    suffix = "tif" if mode in {"I;16", "CMYK"} else "png"
    Image.new(mode, (4, 3)).save(tmp_path / f"x.{suffix}")
    assert read_header(tmp_path / f"x.{suffix}") == (3, 4, grey)
