"""CIFAR through torchvision, with and without a network."""

import socket
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest

from autosplit.core.errors import DataError
from autosplit.data import load_dataset
from autosplit.data.download import download


@pytest.mark.parametrize(("name", "attribute", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_parts_of_torchvisions_object(tmp_path, monkeypatch, name, attribute, classes):
    asked = []

    def fake(root, train, download):
        asked.append((root, train, download))
        n = classes * (10 if train else 2)
        data = np.zeros((n, 32, 32, 3), np.uint8)
        data[:, 1, 2, 0] = 9
        return SimpleNamespace(
            data=data, targets=[i % classes for i in range(n)], classes=[str(i) for i in range(classes)]
        )

    monkeypatch.setattr(f"torchvision.datasets.{attribute}", fake)
    dataset = load_dataset(name, root=tmp_path)
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert dataset.shape == (3, 32, 32)
    assert dataset.num_classes == classes
    sizes = [len(dataset.split(p)) for p in ("train", "calibration", "validation", "test")]
    assert sizes == [classes * 7, classes, classes * 2, classes * 2]
    assert (dataset.train.images[:, 0, 1, 2] == 9).all()
    assert dataset.train.images.sum() == 9 * len(dataset.train)
    assert dataset.augment


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_network_the_remedy_is_named(tmp_path, monkeypatch, name):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DataError) as caught:
        load_dataset(name, root=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(name), "Name or service not known", "--data-root", f"cifar-{name[5:]}-python.tar.gz"):
        assert part in message


def test_download_prints_to_stderr_and_restores_the_timeout(capsys):
    def action():
        print("Files already downloaded")
        assert socket.getdefaulttimeout() == 30
        return 5

    before = socket.getdefaulttimeout()
    assert download("x", action, "do this") == 5
    assert socket.getdefaulttimeout() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Files already" in captured.err
    assert sys.stdout is not sys.stderr
