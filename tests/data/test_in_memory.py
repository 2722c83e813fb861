"""Data that are handed over in Python become the same four parts, whatever they come as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import DataError, PluginError
from autosplit.data import load_dataset
from autosplit.data.in_memory import dataset_of, pixels_of, read_data
from autosplit.testing.data import DatasetContract

COUNT = 60
RNG = np.random.default_rng(0)
LABELS = np.arange(COUNT) % 3
IMAGES = RNG.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


class Pictures(torch.utils.data.Dataset):
    classes = ("blue", "green", "red")

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return self.form(IMAGES[i]), int(LABELS[i])


class Table:
    """As `datasets.Dataset`: rows by number, and features that know the names of classes."""

    features = {"img": None, "label": type("ClassLabel", (), {"names": ["blue", "green", "red"]})()}  # noqa: RUF012

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return {"img": Image.fromarray(IMAGES[i]), "label": int(LABELS[i])}


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


FORMS = {
    "arrays": (IMAGES, LABELS), "tensors": (torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS)),
    "floats": (IMAGES.astype(np.float32) / 255, LABELS), "pictures": Pictures(Image.fromarray),
    "float tensors": Pictures(lambda i: tensor(i).float() / 255), "list": list(zip(IMAGES, LABELS, strict=True)),
    "loader": torch.utils.data.DataLoader(Pictures(tensor), batch_size=7, shuffle=True),
    "batches": [(tensor_batch, labels) for tensor_batch, labels in zip(
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2).split(7), torch.from_numpy(LABELS).split(7), strict=True)],
    "lists": (list(IMAGES), LABELS.tolist()),
    "list of pictures": ([Image.fromarray(image) for image in IMAGES], LABELS),
    "table": Table(), "mapping": {"train": (IMAGES, LABELS)},
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_images(data):
    images, labels = read_data(data).parts["train"]
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert torch.equal(labels, torch.from_numpy(LABELS))


def test_four_disjoint_parts_by_a_seed():
    raw = read_data((IMAGES, LABELS))
    data = dataset_of(raw, "mine", seed=1)
    sizes = [len(data.split(part)) for part in ("train", "calibration", "validation", "test")]
    assert sizes == [33, 3, 12, 12]
    seen = [image.numpy().tobytes() for part in ("train", "calibration", "validation", "test")
            for image in data.split(part).images]
    assert len(set(seen)) == COUNT
    assert data.fingerprint == dataset_of(raw, "other", seed=1).fingerprint
    assert data.fingerprint != dataset_of(raw, "mine", seed=2).fingerprint


def test_parts_that_are_there_are_used():
    test, validation = (IMAGES[:9] // 2, LABELS[:9]), (IMAGES[9:21] // 3, LABELS[9:21])
    data = dataset_of(read_data({"train": (IMAGES, LABELS), "test": test, "val": validation}), "mine", seed=0)
    assert (len(data.test), len(data.validation)) == (9, 12)
    assert torch.equal(data.test.images, torch.from_numpy(test[0]).permute(0, 3, 1, 2))


def test_names_of_classes():
    assert read_data(Pictures(Image.fromarray)).class_names == ("blue", "green", "red")
    assert read_data(Table()).class_names == ("blue", "green", "red")
    assert read_data((IMAGES, LABELS)).class_names == ("0", "1", "2")


def test_grey_and_sizes():
    grey = read_data((IMAGES[..., 0], LABELS)).parts["train"][0]
    assert grey.shape == (COUNT, 1, 8, 8)
    several = [(IMAGES[i][: 8 - i % 2], int(LABELS[i])) for i in range(COUNT)]
    assert read_data(several, image_size=8).parts["train"][0].shape == (COUNT, 3, 8, 8)
    found = read_data(several)
    assert found.parts["train"][0].shape == (COUNT, 3, 224, 224)
    assert found.notes == ("images resized to cover 224x224 pixels and centre-cropped because they have several sizes; "
                           "give image_size for another",)
    assert read_data((IMAGES, LABELS)).notes == ()
    mixed = read_data([(IMAGES[i, :, :, 0] if i % 2 else IMAGES[i], int(LABELS[i])) for i in range(COUNT)])
    assert mixed.parts["train"][0].shape == (COUNT, 3, 8, 8)
    assert torch.equal(mixed.parts["train"][0][1, 2], torch.from_numpy(IMAGES[1, :, :, 0]))


def test_pictures_are_cropped_and_not_squeezed():
    """As those of a folder: the shorter side fits, the longer one is cut."""
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    found = read_data([(wide, 0), (Image.fromarray(wide), 1)], image_size=16).parts["train"][0]
    assert (found == 255).all()


def test_a_height_and_width_of_ones_own():
    """As of a network whose images are no squares."""
    wide = [np.zeros((16, 24, 3), np.uint8), Image.new("RGB", (48, 32), "white")]
    assert pixels_of(wide, (16, 24)).shape == (2, 3, 16, 24)


def test_deep_greys_are_scaled_and_not_cut_off():
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    assert int(read_data([(deep, 0), (deep, 1)]).parts["train"][0].max()) == 156


def test_names_as_labels():
    for labels in (np.array(["red", "blue", "green"])[LABELS], np.array(["red", "blue", "green"], object)[LABELS]):
        found = read_data((IMAGES, labels))
        assert found.class_names == ("blue", "green", "red")
        assert found.parts["train"][1][:3].tolist() == [2, 0, 1]
    two = read_data({"train": (IMAGES, np.array(["b", "c", "d"])[LABELS]), "test": (IMAGES, np.array(["d"] * COUNT))})
    assert two.parts["test"][1].tolist() == [2] * COUNT


def test_pictures_that_are_there_twice_are_on_one_side():
    """A copy of a test picture is not trained on, nor a validation picture that is there three times."""
    twice = np.concatenate([IMAGES, IMAGES[:30]]), np.concatenate([LABELS, LABELS[:30]])
    data = dataset_of(read_data(twice), "mine", seed=0)
    parts = {part: {image.numpy().tobytes() for image in data.split(part).images}
             for part in ("train", "calibration", "validation", "test")}
    for part, other in itertools.combinations(parts, 2):
        assert not parts[part] & parts[other]
    assert data.notes == ("30 of 90 pictures are there already, and were left out",)
    both = dataset_of(read_data({"train": (IMAGES, LABELS), "test": (IMAGES[:9], LABELS[:9])}), "mine", seed=0)
    assert len(both.test) == 9
    assert sum(int(note.split()[0]) for note in both.notes) == 9
    assert all("show what is in another part too, and were left out of " in note for note in both.notes)


def test_copies_in_another_class_are_spoken_of():
    both = np.concatenate([IMAGES, IMAGES[:30]]), np.concatenate([LABELS, (LABELS[:30] + 1) % 3])
    assert dataset_of(read_data(both), "mine", seed=0).notes == (
        "30 of 90 pictures are there already, and were left out; 30 of them are in another class there: look at their "
        "labels",)


def test_a_part_without_labels_is_left_out():
    """As test parts whose labels a benchmark keeps to itself."""
    secret = np.zeros((9, 8, 8, 3), np.uint8), np.full(9, -1)
    data = dataset_of(read_data({"train": (IMAGES, LABELS), "test": secret}), "mine", seed=0)
    assert data.notes == ("part 'test' has no labels (-1), and was left out",)
    assert (data.shape, len(data.test)) == ((3, 8, 8), 12)


def test_invented_pictures_are_kept_and_said_to_be_alike():
    data = dataset_of(read_data((np.stack([np.full((8, 8), 9 * c, np.uint8) for c in LABELS]), LABELS)), "mine", seed=0)
    assert sum(len(data.split(part)) for part in ("train", "calibration", "validation", "test")) == COUNT
    assert "accuracy says nothing of other pictures" in data.notes[0]


def test_all_of_a_class_in_two_parts_is_refused():
    with pytest.raises(DataError, match="all train images of class '0' show pictures of another part"):
        dataset_of(read_data({"train": (IMAGES, LABELS), "test": (IMAGES, LABELS)}), "mine", seed=0)


@pytest.mark.parametrize(("data", "message"), [
    ((IMAGES, np.eye(3)[LABELS]), "one class an image, not several labels"),
    ([(IMAGES[0], [0, 1])], "an image has 2 labels"),
    ((IMAGES, LABELS - 1), "part 'train': a label is -1; classes are numbers from 0"),
    ((IMAGES, np.full(COUNT, -1)), "part 'train': all labels are -1, which means unknown"),
    ((IMAGES, LABELS / 2), "labels are float64; they must be numbers of classes from 0, or names"),
    ((IMAGES.astype(np.float32) - 100, LABELS), "leave Normalize out of the transform"),
    ((IMAGES.astype(np.int32), LABELS), "images are int32; give uint8, or floats"),
    ((np.zeros((4, 8, 8, 5), np.uint8), LABELS[:4]), r"has shape \(8, 8, 5\); it must have 1 or 3"),
    ([{"picture": IMAGES[0], "label": 0}], "columns are picture, label; one must be called image or img"),
    ({"train": (IMAGES, LABELS), "extra": (IMAGES, LABELS)}, "a part is called 'extra'"),
    ({"test": (IMAGES, LABELS)}, "there is no part 'train' among 'test'"),
    ((IMAGES[:0], LABELS[:0]), "it is empty"), ((IMAGES, LABELS[1:]), "there are 60 images and 59 labels"),
    ({"train": (IMAGES, LABELS), "test": (IMAGES[:0], LABELS[:0])}, "part 'test': it is empty"),
    (Pictures(lambda image: {}["no such key"]), "item 0 cannot be read: KeyError: 'no such key'"),
    ([{"image": None, "label": 0}], "column 'image' has an item without a value"),
    ([], "it is empty"), (7, "it is a int; give a pair"), ([1, 2, 3], "an item is a int"),
])
def test_what_is_no_data_for_a_classifier_says_why(data, message):
    with pytest.raises(DataError, match=message) as caught:
        read_data(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [0, 31.5, True, "32"])
def test_sides_that_are_none(side):
    with pytest.raises(DataError, match="give a whole number of pixels from 8 on"):
        read_data((IMAGES, LABELS), image_size=side)


def test_a_list_of_two_pairs_is_no_pair():
    assert read_data([(IMAGES[0], 0), (IMAGES[1], 1)]).parts["train"][1].tolist() == [0, 1]


class TestPlugin:
    def test_a_function_of_a_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("import numpy as np\ndef pictures(seed):\n    labels = np.arange(60) % 3\n"
                        "    return np.full((60, 8, 8), seed, np.uint8), labels\n")
        data = load_dataset(f"{file}:pictures", seed=5)
        assert data.shape == (1, 8, 8)
        assert int(data.train.images[0, 0, 0, 0]) == 5

    def test_one_that_raises(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("def pictures():\n    raise OSError('no disk')\n")
        with pytest.raises(PluginError, match=r"mine\.py:pictures': calling it raised OSError: no disk"):
            load_dataset(f"{file}:pictures")


class TestContract(DatasetContract):
    @pytest.fixture
    def name(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("import numpy as np\ndef pictures():\n    rng = np.random.default_rng(0)\n"
                        "    return rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3\n")
        return f"{file}:pictures"
