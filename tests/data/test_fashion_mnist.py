"""IDX parsing and where Fashion-MNIST is looked for."""

import gzip

import numpy as np
import pytest

from autosplit.core.errors import DataError
from autosplit.data import fashion_mnist, load_dataset
from autosplit.data.fashion_mnist import read_idx


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_parts(folder, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 100), ("t10k", 20)):
        arrays = {"images-idx3": rng.integers(0, 256, (n, 28, 28)), "labels-idx1": np.arange(n) % 10}
        for stem, array in arrays.items():
            name = f"{prefix}-{stem}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.fixture(autouse=True)
def no_system_files(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_: tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_idx(tmp_path, suffix):
    array = np.arange(24).reshape(2, 3, 4)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short", idx(np.zeros((2, 3)))[:-1], "17 bytes where its header says 18"),
        ("long", idx(np.zeros(3)) + b"x", "header says"),
        ("type", b"\0\0\x0d\1\0\0\0\0", "not an IDX file"),
        ("empty", b"", "not an IDX file"),
        ("broken.gz", gzip.compress(idx(np.zeros(999)), mtime=0)[:-9], "cannot be read"),
        ("text.gz", b"<html>", "cannot be read"),
    ],
)
def test_damaged_idx_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(("below", "zipped"), [("", True), ("fashion-mnist", False), ("FashionMNIST/raw", True)])
def test_found_below_root(tmp_path, below, zipped):
    write_parts(tmp_path / below, zipped)
    dataset = load_dataset("fashion-mnist", root=tmp_path)
    assert dataset.shape == (1, 28, 28)
    assert [len(dataset.split(p)) for p in ("train", "calibration", "validation", "test")] == [70, 10, 20, 20]
    assert dataset.test.labels.tolist() == [i % 10 for i in range(20)]
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.augment


def test_debian_package_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "debian")
    write_parts(tmp_path / "debian")
    assert len(load_dataset("fashion-mnist").test) == 20


def test_missing_and_mismatched_files_are_named(tmp_path):
    write_parts(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(19))))
    with pytest.raises(DataError, match="'t10k' do not belong together"):
        load_dataset("fashion-mnist", root=tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="lacks the file t10k-labels"):
        load_dataset("fashion-mnist", root=tmp_path)


def test_without_network_the_remedy_is_named(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", fail)
    with pytest.raises(DataError) as caught:
        load_dataset("fashion-mnist", root=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "'fashion-mnist'" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "--data-root" in message
