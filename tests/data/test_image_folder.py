"""Folders of images: layouts, sizes, broken files, and folders that are too small or too large."""

import os
from shutil import copy

import numpy as np
import pytest
import torch
from PIL import Image, features

from autosplit.core.errors import DataError
from autosplit.data import image_folder, load_dataset
from autosplit.data.stored import StoredFormat

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


def parts_of(folder, *names, classes=("cat", "dog"), n=8):
    """Folders of the given names with class folders in them, all images different."""
    for i, name in enumerate(names):
        for label, kind in enumerate(classes):
            write_class(folder / name / kind, n, 50 * i + 10 * label)
    return folder


def identities(dataset, part):
    images = dataset.split(part).images
    return [tuple(image[:, 0, 0].tolist()) for image in images]


def test_flat_folder_is_split_with_a_fifth_for_testing(flat):
    dataset = load(flat)
    assert [len(dataset.split(p)) for p in PARTS] == [22, 2, 8, 8]
    assert len({i for part in PARTS for i in identities(dataset, part)}) == 40
    for part in PARTS:
        assert torch.bincount(dataset.split(part).labels).tolist() == [len(dataset.split(part)) // 2] * 2
        assert [red // 10 for red, _, _ in identities(dataset, part)] == dataset.split(part).labels.tolist()
    assert dataset.class_names == ("cat", "dog")
    assert dataset.augment
    assert dataset.notes == ()


def test_official_test_folder_stays_the_test_part(official):
    dataset = load(official)
    assert [len(dataset.split(p)) for p in PARTS] == [28, 2, 10, 10]
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
        write_class(tmp_path / name, 6, ord(name), size=(40, 24))
    dataset = load(tmp_path)
    assert dataset.shape == (3, 24, 40)
    assert dataset.notes == ()


@pytest.mark.parametrize("sizes", [((32, 32), (33, 32)), ((100, 80), (100, 80))])
def test_unequal_or_large_images_become_224(tmp_path, sizes):
    for name, size in zip("ab", sizes, strict=True):
        write_class(tmp_path / name, 5, ord(name), size=size)
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
    (flat / "dog" / "notes.txt").write_text("no image")
    (flat / "dog" / "._000.png").write_text("hidden files are not mentioned")
    (flat / "dog" / "Thumbs.db").write_text("nor is what a system leaves behind")
    dataset = load(flat)
    assert sum(len(dataset.split(p)) for p in PARTS) == 40
    assert len({i for part in PARTS for i in identities(dataset, part)}) == 40
    assert set(dataset.notes[:2]) == {"skipped 1 of 43 files (cannot identify image), such as cat/zz-text.jpg",
                                      "skipped 1 of 43 files (no image), such as dog/notes.txt"}
    assert dataset.notes[2].endswith("such as dog/zz-cut.png")
    assert len(dataset.notes) == 3


def test_reasons_are_counted_and_not_each_file_listed(flat):
    for i in range(15):
        (flat / "cat" / f"bad{i:02}.jpg").write_text("no image")
    (flat / "dog" / "empty.png").write_bytes(b"")
    assert load(flat).notes == ("skipped 15 of 56 files (cannot identify image), such as cat/bad00.jpg",
                                "skipped 1 of 56 files (an empty file), such as dog/empty.png")


def test_notes_are_warnings_once(flat, caplog):
    (flat / "cat" / "\x1b[31m.jpg").write_text("no image")
    for _ in range(2):
        load(flat)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"data set 'image-folder:{flat}': skipped 1 of 41 files (cannot identify image), such as cat/?[31m.jpg")


def test_class_with_too_few_images_is_counted_as_the_user_sees_it(flat):
    for file in sorted((flat / "dog").iterdir())[3:]:
        file.write_text("no image")
    with pytest.raises(DataError, match=r"class 'dog': 3 \(and 17 files that are not used: skipped 17 of 40 .*4 are "
                                        "needed, one each for train, calibration, validation, test"):
        load(flat)


@pytest.mark.parametrize(("names", "sizes"), [
    (("train", "test"), (10, 2, 4, 16)),
    (("Train", "Test"), (10, 2, 4, 16)),
    (("TRAINING", "testing"), (10, 2, 4, 16)),
    (("training_set", "test_set"), (10, 2, 4, 16)),
    (("train", "val", "test"), (14, 2, 16, 16)),
    (("Train", "Validation", "Test"), (14, 2, 16, 16)),
    (("train", "valid"), (12, 2, 16, 2)),
    (("Training", "Val"), (12, 2, 16, 2)),
    (("train",), (10, 2, 2, 2)),
])
def test_parts_are_known_by_their_usual_names(tmp_path, names, sizes):
    dataset = load(parts_of(tmp_path, *names))
    assert dataset.class_names == ("cat", "dog")
    assert tuple(len(dataset.split(p)) for p in PARTS) == sizes
    validation, test = ({red for red, _, _ in identities(dataset, part)} for part in ("validation", "test"))
    own = len(names) - 1  # parts that the user made
    assert validation == ({50, 60} if sizes[2] == 16 else {0, 10})
    assert test == ({50 * own, 50 * own + 10} if sizes[3] == 16 else {0, 10})
    assert any("a fifth" in note for note in dataset.notes) is (sizes[3] == 2)


def test_folders_beside_the_parts_are_mentioned(tmp_path):
    parts_of(tmp_path, "train", "test", "unlabelled")
    (tmp_path / "raw").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "loose.png")
    assert load(tmp_path).notes == (
        "the folder raw/ is no part of the data set and is not used: it has no class folders",
        "the folder unlabelled/ is no part of the data set and is not used",
        "1 images that lie in no class folder are not used, such as train/loose.png",
    )


def test_classes_may_be_called_like_parts(tmp_path):
    for label, name in enumerate(("bus", "train", "Test")):
        write_class(tmp_path / name, 6, label)
    assert load(tmp_path).class_names == ("Test", "bus", "train")


@pytest.mark.parametrize(("names", "message"), [
    (("Train", "training", "test"), "Train/ and training/, which mean the same part"),
    (("train", "test", "val", "valid"), "val/ and valid/, which mean the same part"),
    (("val", "test"), "has .*/ but no train/"),
    (("train", "other"), r"has train/ but no test/: rename the other part's folder \(other/\?\)"),
    (("archive",), "1 class folders.*is .*archive meant"),
])
def test_parts_that_may_mean_several_things_are_refused(tmp_path, names, message):
    parts_of(tmp_path, *names, n=1)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_parts_without_class_folders_are_no_classes(tmp_path):
    for i, name in enumerate(("Train", "Test")):
        write_class(tmp_path / name, 6, i)
    with pytest.raises(DataError, match="Test/ and Train/ without class folders"):
        load(tmp_path)


def test_a_picture_is_used_once_and_never_on_both_sides(tmp_path):
    parts_of(tmp_path, "train", "val", "test", n=9)
    for i in range(3):
        copy(tmp_path / "test" / "cat" / f"00{i}.png", tmp_path / "train" / "cat" / f"copy{i}.png")
    copy(tmp_path / "val" / "dog" / "000.png", tmp_path / "train" / "dog" / "same.png")
    copy(tmp_path / "train" / "dog" / "001.png", tmp_path / "train" / "cat" / "torn.png")
    copy(tmp_path / "test" / "dog" / "004.png", tmp_path / "test" / "dog" / "twice.png")
    Image.open(tmp_path / "test" / "dog" / "008.png").save(tmp_path / "train" / "dog" / "other file.bmp")
    dataset = load(tmp_path)
    everything = [i for part in PARTS for i in identities(dataset, part)]
    assert len(everything) == len(set(everything)) == 54
    assert len(dataset.test) == len(dataset.validation) == 18
    assert dataset.notes == (
        "skipped 6 of 61 files (a copy of a file that is used), such as test/dog/twice.png",
        "3 images of the train part are in the test part too and were left out of train, such as train/cat/copy0.png "
        "= test/cat/000.png",
        "1 images of the train part are in the validation part too and were left out of train, such as "
        "train/dog/same.png = val/dog/000.png",
        "1 images lie in two classes, of which the first was taken, such as train/dog/001.png = train/cat/torn.png",
        "1 of 17 train images show what is in another part too, and were left out of train",
    )


def test_copies_are_found_before_a_flat_folder_is_divided(flat):
    for file in sorted((flat / "cat").iterdir()):
        copy(file, flat / "cat" / f"again-{file.name}")
    dataset = load(flat)
    assert sum(len(dataset.split(p)) for p in PARTS) == 40
    assert dataset.notes == ("skipped 20 of 60 files (a copy of a file that is used), such as cat/again-000.png",)


def test_a_class_that_nearly_all_images_belong_to_is_a_warning(tmp_path):
    write_class(tmp_path / "common", 60, 1)
    write_class(tmp_path / "rare", 4, 2)
    assert load(tmp_path).notes == (
        "60 of 64 images belong to class 'common': a network that always answers it is 93.8 % accurate; look at the "
        "recall of the other classes",)


def test_files_are_what_they_contain_whatever_they_are_called(flat):
    (flat / "cat" / "019.png").rename(flat / "cat" / "019")
    (flat / "cat" / "018.png").rename(flat / "cat" / "018.jpg")
    (flat / "cat" / "017.png").rename(flat / "cat" / "017.unknown")
    dataset = load(flat)
    assert sum(len(dataset.split(p)) for p in PARTS) == 40
    assert dataset.notes == ()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_and_heic_told(flat, without_heif):
    Image.new("RGB", (32, 32), (9, 9, 9)).save(flat / "cat" / "a.avif")
    for i in range(2):
        (flat / "dog" / f"{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200 + i))
    dataset = load(flat)
    assert sum(len(dataset.split(p)) for p in PARTS) == 41
    assert dataset.notes == ("skipped 2 of 43 files (HEIC, which needs a plugin of Pillow: pip install pillow-heif), "
                             "such as dog/0.HEIC",)


def test_special_files_and_links_do_not_stop_it(flat):
    os.mkfifo(flat / "cat" / "pipe.png")
    (flat / "cat" / "self").symlink_to("..")
    (flat / "cat" / "gone.png").symlink_to("/nowhere/at/all.png")
    (flat / "cat" / ".ipynb_checkpoints").mkdir()
    copy(flat / "cat" / "000.png", flat / "cat" / ".ipynb_checkpoints" / "000-checkpoint.png")
    notes = load(flat).notes
    assert sorted(notes) == [
        "skipped 1 of 43 files ([Errno 2] No such file or directory), such as cat/gone.png",
        "skipped 1 of 43 files (a link to a folder), such as cat/self",
        "skipped 1 of 43 files (no regular file), such as cat/pipe.png",
    ]


def test_lengths_of_the_files_go_with_their_images(flat, official):
    for folder in (flat, official):
        dataset = load(folder, limit=5)
        for part in PARTS:
            split = dataset.split(part)
            assert split.file_bytes.dtype == torch.int64
            assert len(split.file_bytes) == len(split)
    real = {i: f.stat().st_size for f in flat.rglob("*.png") for i in [tuple(Image.open(f).getpixel((0, 0)))]}
    dataset = load(flat)
    assert [real[i] for i in identities(dataset, "test")] == dataset.test.file_bytes.tolist()
    assert torch.equal(dataset.test.first(3).file_bytes, dataset.test.file_bytes[:3])


def test_grey_folders_are_known_and_stored_as_grey_files(tmp_path):
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(tmp_path / name / f"{i}.png")
    dataset = load(tmp_path)
    assert dataset.grey
    assert dataset.shape == (1, 32, 32)
    assert torch.equal(dataset.stored_bytes("test", StoredFormat("png")), dataset.test.file_bytes)
    colour = dataset.in_colour()
    assert colour.shape == (3, 32, 32)
    assert colour.grey
    assert torch.equal(colour.train.images[:, 2:], dataset.train.images)
    assert torch.equal(colour.stored_bytes("test", StoredFormat("png")), dataset.test.file_bytes)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "a" / "colour.png")
    assert not load(tmp_path).grey
    assert load(tmp_path).shape == (3, 32, 32)


def test_part_that_loses_the_last_image_of_a_class_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for name in "ab":
        write_class(tmp_path / name, 4, ord(name))
        Image.fromarray(noise + np.uint8(ord(name))).save(tmp_path / name / "000.png")
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
            write_class(folder / "train" / name, 5, ord(name))
    if case == "no test":
        write_class(folder / "others" / "a", 5, 1)
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
