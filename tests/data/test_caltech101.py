"""Caltech-101 from a folder, with and without a network; the trees are small fakes."""

from types import SimpleNamespace
from urllib.error import URLError

import pytest
from PIL import Image

from autosplit.core.errors import DataError
from autosplit.data import load_dataset

PARTS = ("train", "calibration", "validation", "test")
CLASSES, IMAGES = 101, 6


def write_tree(folder, classes=CLASSES, clutter=True):
    """Images whose red is their class and whose green is their number; the clutter is white."""
    for c in range(classes):
        child = folder / f"class{c:03d}"
        child.mkdir(parents=True)
        for i in range(IMAGES):
            Image.new("RGB", (12, 8), (c, i, 0)).save(child / f"image_{i:04d}.png")
    if clutter:
        (folder / "BACKGROUND_Google").mkdir()
        for i in range(IMAGES):
            Image.new("RGB", (8, 8), (255, 255, 255)).save(folder / "BACKGROUND_Google" / f"image_{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tree(folder / "caltech101" / "101_ObjectCategories")
    return folder


def load(root, **options):
    return load_dataset("caltech101", root=root, **{"image_size": 8, **options})


def test_parts(root):
    dataset = load(root)
    assert [len(dataset.split(p)) for p in PARTS] == [CLASSES * n for n in (3, 1, 1, 1)]
    assert dataset.shape == (3, 8, 8)
    assert dataset.num_classes == CLASSES
    assert dataset.augment
    seen = [tuple(image[:2, 0, 0].tolist()) for p in PARTS for image in dataset.split(p).images]
    assert len(set(seen)) == CLASSES * IMAGES, "parts overlap"
    assert [red for red, _ in seen] == [n for p in PARTS for n in dataset.split(p).labels.tolist()]


def test_clutter_is_no_class_and_changes_nothing(root, tmp_path):
    with_clutter = load(root)
    assert "BACKGROUND_Google" not in with_clutter.class_names
    write_tree(tmp_path / "101_ObjectCategories", clutter=False)
    without, folder = load(tmp_path), load_dataset(f"image-folder:{tmp_path / '101_ObjectCategories'}", image_size=8)
    assert with_clutter.fingerprint == without.fingerprint == folder.fingerprint


def test_seed_draws_other_parts(root):
    assert load(root, seed=1).fingerprint != load(root).fingerprint


def test_224_pixels_by_default(root):
    dataset = load(root, image_size=None, limit=1)
    assert dataset.shape == (3, 224, 224)
    assert [len(dataset.split(p)) for p in PARTS] == [1] * 4


@pytest.mark.parametrize("place", [".", "caltech101", "caltech-101"])
def test_places_that_are_looked_at(root, tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "101_ObjectCategories").symlink_to(root / "caltech101" / "101_ObjectCategories")
    assert load(tmp_path, limit=1).num_classes == CLASSES


def test_half_unpacked_tree_is_refused(tmp_path):
    write_tree(tmp_path / "101_ObjectCategories", classes=5)
    with pytest.raises(DataError, match=r"101_ObjectCategories has 5 classes instead of 101: remove it .*image-folder"):
        load(tmp_path)


def test_errors_name_the_users_folder(tmp_path):
    folder = write_tree(tmp_path / "101_ObjectCategories")
    for file in (folder / "class007").iterdir():
        file.write_bytes(file.read_bytes()[:50])  # the header stays, the pixels are cut short
    with pytest.raises(DataError, match=f"'class007' .*{folder / 'class007'}"):
        load(tmp_path)


def test_download_goes_through_torchvision(tmp_path, monkeypatch):
    asked = []

    def fake(root, download):
        asked.append((root, download))
        write_tree(tmp_path / "caltech101" / "101_ObjectCategories")
        return SimpleNamespace()

    monkeypatch.setattr("torchvision.datasets.Caltech101", fake)
    assert load(tmp_path, limit=1).num_classes == CLASSES
    assert load(tmp_path, limit=1).num_classes == CLASSES
    assert asked == [(str(tmp_path), True)], "an existing folder must not be fetched again"


def test_without_network_the_remedy_is_named(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'caltech101'", "Name or service not known", "--data-root", "caltech-101.zip"):
        assert part in message
