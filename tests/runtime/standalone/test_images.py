"""Files of images for a bundle: .npy by numpy alone, others as data sets read them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from autosplit.core.errors import ConfigError
from autosplit.runtime.standalone.image_file import read_pixels
from autosplit.runtime.standalone.images import read_images
from autosplit.runtime.standalone.payload.image_codecs import StoredFormat, encode_images

SHAPE = (3, 12, 10)


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (4, *SHAPE)).astype(np.uint8)


def test_arrays_come_as_they_are(pixels, tmp_path):
    np.save(tmp_path / "many.npy", pixels[:3])
    np.save(tmp_path / "one.npy", pixels[3])
    found = read_images([tmp_path / "many.npy", str(tmp_path / "one.npy")], SHAPE)
    np.testing.assert_array_equal(found, pixels)


def test_pictures_come_as_data_sets_read_them(pixels, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_images(pixels[:1], StoredFormat("png"))[0])
    np.testing.assert_array_equal(read_images([tmp_path / "a.png"], SHAPE), pixels[:1])
    Image.fromarray(pixels[1].transpose(1, 2, 0)).resize((50, 31)).save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_images([tmp_path / "b.jpg"], SHAPE)[0], read_pixels(tmp_path / "b.jpg", 12, 10))
    grey = read_images([tmp_path / "a.png"], (1, 12, 10))
    luma = np.array([0.299, 0.587, 0.114]) @ pixels[0].reshape(3, -1)
    assert np.abs(grey.ravel() - luma).max() <= 1


def test_what_is_no_image_of_this_shape_is_refused(pixels, tmp_path):
    def refused(name, content, shape=SHAPE):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name) as caught:
            read_images([tmp_path / name], shape)
        return str(caught.value)

    np.save(tmp_path / "wide.npy", pixels[..., :-1])
    np.save(tmp_path / "real.npy", pixels / 255)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, message in (("wide.npy", "takes uint8"), ("real.npy", "takes uint8"), ("object.npy", "no numpy array")):
        assert message in refused(name, (tmp_path / name).read_bytes())
    assert "no numpy array" in refused("cut.npy", (tmp_path / "wide.npy").read_bytes()[:40])
    assert "cannot be read as an image" in refused("text.png", b"text")
    assert "1 or 3 channels" in refused("four.png", encode_images(pixels[:1], StoredFormat("png"))[0], (4, 12, 10))
    with pytest.raises(ConfigError, match="no such file"):
        read_images([tmp_path / "gone.png"], SHAPE)


def test_pillow_is_asked_for_where_it_is_needed(pixels, tmp_path, monkeypatch):
    np.save(tmp_path / "one.npy", pixels[0])
    (tmp_path / "a.png").write_bytes(encode_images(pixels[:1], StoredFormat("png"))[0])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(read_images([tmp_path / "one.npy"], SHAPE)) == 1
    with pytest.raises(ConfigError, match="pip install pillow"):
        read_images([tmp_path / "a.png"], SHAPE)
