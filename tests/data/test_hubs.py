"""Data sets of torchvision and of Hugging Face by name, from what lies on this machine."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from PIL import Image

from autosplit.core.errors import ConfigError, DataError, UnknownNameError
from autosplit.data import hubs, list_datasets, load_dataset
from autosplit.data.in_memory import read_data

RNG = np.random.default_rng(0)


def pictures(folder, count, size=(12, 10)):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i}.jpg")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestTorchvision:
    def test_parts_by_name(self, tmp_path):
        for part, count in (("train", 8), ("valid", 3), ("test", 4)):
            for country in ("AD", "BE"):
                pictures(tmp_path / "country211" / part / country, count)
        data = load_dataset("torchvision:Country211", root=tmp_path, image_size=8)
        assert (data.class_names, data.shape) == (("AD", "BE"), (3, 8, 8))
        assert (len(data.test), len(data.validation)) == (8, 6)
        assert len(data.train) + len(data.calibration) == 16
        assert load_dataset("torchvision:Country211", root=tmp_path).shape == (3, 12, 10)

    def test_one_without_parts_is_divided(self, tmp_path):
        for kind in ("Forest", "River"):
            pictures(tmp_path / "eurosat" / "2750" / kind, 10)
        data = load_dataset("torchvision:EuroSAT", root=tmp_path)
        assert [len(data.split(part)) for part in ("train", "calibration", "validation", "test")] == [10, 2, 4, 4]

    def test_train_or_not(self, monkeypatch):
        class Digits:
            classes = ("nought", "one")

            def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
                self.count = 20 if train else 6

            def __len__(self):
                return self.count

            def __getitem__(self, i):
                return Image.fromarray(np.full((8, 8), 10 * i + self.count, np.uint8)), i % 2

        monkeypatch.setattr("torchvision.datasets.MNIST", Digits)
        data = load_dataset("torchvision:MNIST")
        assert (data.class_names, data.shape, len(data.test)) == (("nought", "one"), (1, 8, 8), 6)

    def test_absent_data_say_where_they_belong(self, tmp_path, offline):
        with pytest.raises(DataError, match=f"'torchvision:EuroSAT' is not on this machine .*below {tmp_path}"):
            load_dataset("torchvision:EuroSAT", root=tmp_path)

    def test_unknown_names_and_those_that_need_more(self):
        with pytest.raises(UnknownNameError, match="data set of torchvision 'Flower102'; did you mean 'Flowers102'"):
            load_dataset("torchvision:Flower102")
        with pytest.raises(ConfigError, match="'torchvision:CocoDetection' cannot be loaded by name, it needs"):
            load_dataset("torchvision:CocoDetection")
        with pytest.raises(ConfigError, match=r"'torchvision:ImageFolder' is .*; give image-folder:PATH"):
            load_dataset("torchvision:ImageFolder")


class TestHuggingFace:
    @pytest.fixture
    def datasets(self):
        return pytest.importorskip("datasets", reason="an extra: pip install '.[hf]'")

    @pytest.fixture
    def table(self, datasets):
        def made(count):
            return datasets.Dataset.from_dict(
                {"pixels": [RNG.integers(0, 256, (9, 9, 3), np.uint8) for _ in range(count)],
                 "kind": [i % 2 for i in range(count)]},
                features=datasets.Features(
                    {"pixels": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}))

        return made

    def test_a_table_in_memory(self, table):
        """Its columns are known by their types, whatever they are called."""
        found = read_data(table(12))
        assert found.class_names == ("cat", "dog")
        assert found.parts["train"][0].shape == (12, 3, 9, 9)
        assert found.parts["train"][1].tolist() == [0, 1] * 6

    def test_parts_on_disk(self, datasets, table, tmp_path, monkeypatch):
        parts = {"train": table(20), "validation": table(6), "test": table(8)}
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "a")
        data = load_dataset(f"hf:{tmp_path / 'a'}")
        assert (len(data.validation), len(data.test), data.class_names) == (6, 8, ("cat", "dog"))
        monkeypatch.chdir(tmp_path)
        assert load_dataset("hf:a").fingerprint == data.fingerprint
        assert load_dataset("hf:a", root=tmp_path).fingerprint == data.fingerprint

    def test_a_table_on_disk(self, table, tmp_path):
        table(30).save_to_disk(tmp_path / "a")
        assert [len(load_dataset(f"hf:{tmp_path / 'a'}").split(p)) for p in ("train", "test")] == [16, 6]

    def test_a_folder_of_pictures(self, datasets, tmp_path):
        for part, count in (("train", 8), ("test", 3)):
            for kind in ("cat", "dog"):
                pictures(tmp_path / "a" / part / kind, count)
        data = load_dataset(f"hf:{tmp_path / 'a'}")
        assert (len(data.test), data.class_names, data.shape) == (6, ("cat", "dog"), (3, 12, 10))

    def test_several_labels_are_refused(self, datasets, tmp_path):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Sequence(datasets.ClassLabel(2))})
        many = datasets.Dataset.from_dict({"image": [np.zeros((8, 8, 3), np.uint8)] * 4, "label": [[0, 1]] * 4},
                                          features=features)
        with pytest.raises(DataError, match="an image has 2 labels; autosplit needs one class an image"):
            read_data(many)

    def test_what_cannot_be_had_is_told(self, datasets, tmp_path, offline):
        with pytest.raises(DataError, match=r"'hf:cifar10' is not on this machine, and hugg.* cannot be reached"):
            load_dataset("hf:cifar10")
        with pytest.raises(DataError, match=r"no such folder '.*nowhere'"):
            load_dataset("hf:./nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=f"data set 'hf:{tmp_path / 'empty'}' cannot be loaded: .*; give a folder "
                                            f"that save_to_disk wrote or, .*image-folder:{tmp_path / 'empty'}"):
            load_dataset(f"hf:{tmp_path / 'empty'}")

    def test_no_part_to_train_on(self, datasets, table, tmp_path):
        datasets.DatasetDict({"test": table(8)}).save_to_disk(tmp_path / "a")
        with pytest.raises(DataError, match="has the parts test; none is called 'train'"):
            load_dataset(f"hf:{tmp_path / 'a'}")

    def test_the_package_is_named(self, monkeypatch):
        import importlib

        real = importlib.import_module

        def without(name, *rest):
            if name == "datasets":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(hubs.importlib, "import_module", without)
        with pytest.raises(ConfigError, match="data sets 'hf:NAME' need datasets: pip install"):
            load_dataset("hf:cifar10")


def test_they_are_listed():
    assert {"hf:NAME", "torchvision:CLASS"} <= set(list_datasets())
