"""The contract of data sets."""

from __future__ import annotations

import pytest
import torch

from autosplit.data import load_dataset
from autosplit.data.base import ImageDataset, SplitName

__all__ = ["DatasetContract"]

_PARTS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")


class DatasetContract:
    """What every data set does. Subclass it and give the fixture `name`, or override `load`.

    class TestMine(DatasetContract):
        @pytest.fixture
        def name(self):
            return "mine.py:pictures"
    """

    @pytest.fixture
    def name(self) -> str:
        """The name that `load_dataset` takes."""
        raise NotImplementedError("give a fixture `name`")

    def load(self, name: str, seed: int) -> ImageDataset:
        """The data set, divided by a seed."""
        return load_dataset(name, seed=seed)

    def test_images_and_labels_fit(self, name: str) -> None:
        """Every part has uint8 images of one shape and classes that exist."""
        data = self.load(name, 0)
        for part in map(data.split, _PARTS):
            assert len(part) > 0
            assert part.images.dtype == torch.uint8
            assert tuple(part.images.shape) == (len(part), *data.shape)
            assert part.labels.dtype == torch.int64
            assert int(part.labels.min()) >= 0
            assert int(part.labels.max()) < data.num_classes

    def test_every_class_is_learnt_and_tested(self, name: str) -> None:
        """No class is missing from the training or the test part."""
        data = self.load(name, 0)
        for part in (data.train, data.test):
            assert len(set(part.labels.tolist())) == data.num_classes

    def test_equal_seeds_give_equal_data(self, name: str) -> None:
        """A search can be replayed."""
        assert self.load(name, 0).fingerprint == self.load(name, 0).fingerprint

    def test_parts_are_disjoint(self, name: str) -> None:
        """No image is trained on and tested."""
        data = self.load(name, 0)
        seen = [{image.numpy().tobytes() for image in data.split(part).images} for part in _PARTS]
        for i, one in enumerate(seen):
            for other in seen[i + 1:]:
                assert one.isdisjoint(other)
