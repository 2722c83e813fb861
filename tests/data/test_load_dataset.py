"""Data sets by name."""

import subprocess
import sys

import pytest

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.data import list_datasets, load_dataset


def test_names():
    assert list_datasets() == ["caltech101", "cifar10", "cifar100", "digits-m", "fashion-mnist", "hf:NAME",
                               "image-csv:PATH", "image-folder:PATH", "torchvision:CLASS"]


def test_unknown_name_has_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_dataset("cifar-10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digits-m", "image_size": 64}, "32x32 only"),
        ({"name": "digits-m", "seed": -1}, "seed is -1"),
        ({"name": "digits-m", "limit": 0}, "limit is 0"),
        ({"name": "image-folder:x", "image_size": 4}, "image_size is 4"),
        ({"name": "image-folder:"}, "folder's path"),
        ({"name": "image-folder:PATH"}, "folder's path"),
        ({"name": "hf:"}, "write the data set's name or its folder after 'hf:'"),
        ({"name": "torchvision:"}, "write the class after 'torchvision:'"),
        ({"name": "imagecsv:a/b.csv"}, "unknown data set 'imagecsv:a/b.csv'; did you mean 'image-csv:a/b.csv'"),
        ({"name": "image_folder:a"}, "did you mean 'image-folder:a'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(**arguments)


def test_own_size_may_be_given():
    assert load_dataset("digits-m", image_size=32, limit=10).shape == (3, 32, 32)


def test_limit_holds_for_each_part():
    dataset = load_dataset("digits-m", limit=30)
    assert [len(dataset.split(p)) for p in ("train", "calibration", "validation", "test")] == [30] * 4
    assert len(set(dataset.test.labels[:10].tolist())) == 10


def test_import_is_light():
    code = "import sys, autosplit.data; print([m for m in ('torchvision', 'sklearn') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
