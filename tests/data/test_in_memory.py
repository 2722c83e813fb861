"""Data that are handed over in Python become the same four parts, whatever they come as."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autosplit.core.errors import DataError, PluginError
from autosplit.data import load_dataset
from autosplit.data.in_memory import dataset_of, read_data
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
    with pytest.raises(DataError, match=r"images have 2 shapes, such as .* give image_size"):
        read_data(several)


@pytest.mark.parametrize(("data", "message"), [
    ((IMAGES, np.eye(3)[LABELS]), "one class an image, not several labels"),
    ([(IMAGES[0], [0, 1])], "an image has 2 labels"),
    ((IMAGES, LABELS / 2), "labels are float64; they must be numbers of classes"),
    ((IMAGES.astype(np.float32) - 100, LABELS), "leave Normalize out of the transform"),
    ((IMAGES.astype(np.int32), LABELS), "images are int32; give uint8, or floats"),
    ((np.zeros((4, 8, 8, 5), np.uint8), LABELS[:4]), r"has shape \(8, 8, 5\); it must have 1 or 3"),
    ([{"picture": IMAGES[0], "label": 0}], "columns are picture, label; one must be called image or img"),
    ({"train": (IMAGES, LABELS), "extra": (IMAGES, LABELS)}, "a part is called 'extra'"),
    ({"test": (IMAGES, LABELS)}, "there is no part 'train' among 'test'"),
    ([], "it is empty"), (7, "it is a int; give a pair"), ([1, 2, 3], "an item is a int"),
])
def test_what_is_no_data_for_a_classifier_says_why(data, message):
    with pytest.raises(DataError, match=message) as caught:
        read_data(data)
    assert "\n" not in str(caught.value)


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
