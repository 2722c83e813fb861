"""Folders of images: layouts, sizes, broken files, and folders that are too small or too large."""

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import DataError
from autosplit.data import image_folder, load_dataset

PARTS = ("train", "calibration", "validation", "test")


def write_class(folder, n, value, size=(32, 32), suffix="png"):
    """`n` images that can be told apart: red is the class's value, green the image's number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("RGB", size, (value, i, 0)).save(folder / f"{i:03d}.{suffix}")


@pytest.fixture
def flat(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        write_class(tmp_path / name, 20, 10 * label)
    return tmp_path


@pytest.fixture
def official(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        write_class(tmp_path / "train" / name, 20, 10 * label)
        write_class(tmp_path / "test" / name, 5, 100 + 10 * label)
    return tmp_path


def load(folder, **options):
    return load_dataset(f"image-folder:{folder}", **options)


def identities(dataset, part):
    images = dataset.split(part).images
    return [tuple(image[:, 0, 0].tolist()) for image in images]


def test_flat_folder_is_split_with_a_fifth_for_testing(flat):
    dataset = load(flat)
    assert [len(dataset.split(p)) for p in PARTS] == [28, 2, 2, 8]
    assert len({i for part in PARTS for i in identities(dataset, part)}) == 40
    for part in PARTS:
        assert torch.bincount(dataset.split(part).labels).tolist() == [len(dataset.split(part)) // 2] * 2
        assert [red // 10 for red, _, _ in identities(dataset, part)] == dataset.split(part).labels.tolist()
    assert dataset.class_names == ("cat", "dog")
    assert dataset.augment
    assert dataset.notes == ()


def test_official_test_folder_stays_the_test_part(official):
    dataset = load(official)
    assert [len(dataset.split(p)) for p in PARTS] == [34, 2, 4, 10]
    assert {red for red, _, _ in identities(dataset, "test")} == {100, 110}
    assert {red for part in PARTS[:3] for red, _, _ in identities(dataset, part)} == {0, 10}


def test_seed_decides(flat):
    one, same, other = (load(flat, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint
    assert set(identities(one, "test")) != set(identities(other, "test"))


def test_fingerprint_is_that_of_the_content_wherever_it_lies(flat, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere")
    for label, name in enumerate(("cat", "dog")):
        write_class(copy / name, 20, 10 * label)
    assert load(flat).fingerprint == load(copy).fingerprint
    Image.new("RGB", (32, 32), (0, 0, 1)).save(copy / "cat" / "000.png")
    assert load(flat).fingerprint != load(copy).fingerprint


def test_relative_path_starts_at_root(flat):
    assert len(load_dataset(f"image-folder:{flat.name}", root=flat.parent).test) == 8


def test_small_equal_images_keep_their_size_even_if_not_square(tmp_path):
    for name in "ab":
        write_class(tmp_path / name, 6, 1, size=(40, 24))
    dataset = load(tmp_path)
    assert dataset.shape == (3, 24, 40)
    assert dataset.notes == ()


@pytest.mark.parametrize("sizes", [((32, 32), (33, 32)), ((100, 80), (100, 80))])
def test_unequal_or_large_images_become_224(tmp_path, sizes):
    for name, size in zip("ab", sizes, strict=True):
        write_class(tmp_path / name, 5, 1, size=size)
    dataset = load(tmp_path)
    assert dataset.shape == (3, 224, 224)
    assert any("224x224" in note for note in dataset.notes)


def test_image_size_is_obeyed(flat):
    assert load(flat, image_size=16).shape == (3, 16, 16)


def test_broken_files_are_skipped_and_named(flat):
    (flat / "cat" / "zz-text.jpg").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(flat / "dog" / "zz-cut.png")
    whole = (flat / "dog" / "zz-cut.png").read_bytes()
    (flat / "dog" / "zz-cut.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (flat / "dog" / "notes.txt").write_text("ignored without a word")
    (flat / "dog" / "._000.png").write_text("nor are hidden files mentioned")
    dataset = load(flat)
    assert sum(len(dataset.split(p)) for p in PARTS) == 40
    assert len({i for part in PARTS for i in identities(dataset, part)}) == 40
    assert dataset.notes[0] == "skipped 2 of 42 files that cannot be read"
    assert dataset.notes[1] == "skipped cat/zz-text.jpg: cannot identify image"
    assert dataset.notes[2].startswith("skipped dog/zz-cut.png: ")
    assert len(dataset.notes) == 3


def test_many_broken_files_are_counted_but_not_all_listed(flat):
    for i in range(15):
        (flat / "cat" / f"bad{i}.jpg").write_text("no image")
    notes = load(flat).notes
    assert len(notes) == 12
    assert notes[-1] == "skipped 5 more"


def test_class_that_ends_with_too_few_images_is_named(flat):
    for file in sorted((flat / "dog").iterdir())[3:]:
        file.write_text("no image")
    with pytest.raises(DataError, match=r"class 'dog' has .* images.*17 files could not be read"):
        load(flat)


def test_part_that_loses_the_last_image_of_a_class_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for name in "ab":
        write_class(tmp_path / name, 4, 1)
        Image.fromarray(noise).save(tmp_path / name / "000.png")
    cut = tmp_path / "b" / "000.png"
    cut.write_bytes(cut.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"class 'b' has no readable image left for \w+: .*000.png"):
        load(tmp_path)


def test_limit_is_per_part_and_decodes_no_more(official, monkeypatch):
    read = []
    real = image_folder.read_pixels
    monkeypatch.setattr(image_folder, "read_pixels", lambda path, *size: read.append(path) or real(path, *size))
    dataset = load(official, limit=4)
    assert [len(dataset.split(p)) for p in PARTS] == [4, 2, 4, 4]
    assert len(read) == 14


def test_too_much_memory_is_refused_before_decoding(flat, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_BYTES", 100_000)
    monkeypatch.setattr(image_folder, "read_pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"40 images of 32x32 .*--image-size 28 .*limit of 8 images a part"):
        load(flat)


@pytest.mark.parametrize("case", ["absent", "no classes", "one class", "no images", "no test", "strange test class"])
def test_folders_that_are_no_data_set(tmp_path, case):
    folder = tmp_path / "x"
    if case != "absent":
        folder.mkdir()
    if case == "one class":
        write_class(folder / "a", 5, 1)
    if case == "no images":
        (folder / "a").mkdir()
        (folder / "b").mkdir()
    if case in ("no test", "strange test class"):
        for name in "ab":
            write_class(folder / "train" / name, 5, 1)
    if case == "no test":
        write_class(folder / "val" / "a", 5, 1)
    if case == "strange test class":
        write_class(folder / "test" / "c", 5, 1)
    expected = {
        "absent": "no such folder",
        "no classes": "0 class folders",
        "one class": "1 class folders",
        "no images": "no images",
        "no test": "train/ but no test/",
        "strange test class": "class 'c'",
    }
    with pytest.raises(DataError, match=expected[case]) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
