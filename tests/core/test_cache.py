from __future__ import annotations

import json
import logging
import multiprocessing
import os

import pytest
import torch
from safetensors import safe_open

from autosplit.core.cache import Cache

TENSORS = {
    "a.weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7), "half": torch.ones(5, dtype=torch.bfloat16)
}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "below" / "cache")


def test_round_trip(cache):
    assert cache.load("backbone", "k1") is None
    cache.save("backbone", "k1", TENSORS, {"name": "resnet8", "epochs": 3})
    found = cache.load("backbone", "k1")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert cache.load("supernet", "k1") is None
    assert cache.load("backbone", "k2") is None


def test_metadata_can_be_read(cache):
    cache.save("backbone", "k", TENSORS, {"name": "resnet8", "epochs": 3})
    with safe_open(cache.path("backbone", "k"), framework="pt") as file:
        assert {"name": "resnet8", "epochs": "3"}.items() <= file.metadata().items()


def test_shared_strided_and_channels_last_tensors(cache):
    base = torch.randn(2, 3, 4, 4)
    tensors = {"one": base, "two": base, "row": base[:, 1], "last": base.to(memory_format=torch.channels_last)}
    cache.save("x", "k", tensors, {})
    found = cache.load("x", "k")
    assert all(torch.equal(found[n], t) for n, t in tensors.items())


def test_loaded_tensors_can_be_written_without_harm(cache):
    cache.save("x", "k", TENSORS, {})
    cache.load("x", "k")["a.weight"].zero_()
    assert torch.equal(cache.load("x", "k")["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("damage", [
    lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"rubbish", lambda b: b[:-3] + bytes([b[-3] ^ 1]) + b[-2:],
], ids=["truncated", "empty", "rubbish", "one bit"])
def test_damaged_is_absent_with_a_warning(cache, caplog, damage):
    cache.save("x", "k", TENSORS, {})
    path = cache.path("x", "k")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "autosplit.core.cache"):
        assert cache.load("x", "k") is None
    assert str(path) in caplog.text
    cache.save("x", "k", TENSORS, {})
    assert cache.load("x", "k") is not None


RECORD = {"accuracy": 0.5, "plan": ["layer1", None]}


def test_a_record_is_taken_whole_unaltered_and_under_its_own_key_only(cache, caplog):
    assert cache.load_record("x", "k") is None
    cache.save_record("x", "k", RECORD)
    assert cache.load_record("x", "k") == RECORD
    assert not caplog.records
    path = cache.path("x", "k", ".json")
    text = path.read_text()
    cache.path("x", "other", ".json").write_text(text)
    assert cache.load_record("x", "other") is None
    for damaged in (text.replace("0.5", "0.9"), text[:-9], "[]", "null", json.dumps(RECORD), "[" * 100_000):
        path.write_text(damaged)
        assert cache.load_record("x", "k") is None
    assert caplog.text.count("will be made again") == 7


def test_unwritable_folder_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")  # a folder's permissions do not stop root
    cache = Cache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING, "autosplit.core.cache"):
        cache.save("x", "k", TENSORS, {})
    assert "AUTOSPLIT_CACHE" in caplog.text


def test_failed_write_leaves_the_old_entry_and_no_rest(cache, monkeypatch, caplog):
    cache.save("x", "k", TENSORS, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    cache.save("x", "k", {"other": torch.zeros(1)}, {})
    monkeypatch.undo()
    assert "No space left" in caplog.text
    assert cache.load("x", "k").keys() == TENSORS.keys()
    assert [p.name for p in cache.path("x", "k").parent.iterdir()] == ["k.safetensors"]


@pytest.mark.parametrize("key", ["../k", "a/b", "", ".k"])
def test_key_stays_below_the_root(cache, key):
    with pytest.raises(ValueError, match="plain words"):
        cache.path("x", key)


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "env"))
    assert Cache().root == tmp_path / "env"
    assert Cache(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("AUTOSPLIT_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/home/of/{name}")
    assert str(Cache().root) == "/home/of/autosplit"


def _write(root, value):
    cache = Cache(root)
    for _ in range(30):
        cache.save("x", "k", {"v": torch.full((4096,), float(value))}, {})


def test_two_processes(tmp_path, caplog):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    writers = [context.Process(target=_write, args=(tmp_path, value)) for value in (1, 2)]
    for w in writers:
        w.start()
    cache, seen = Cache(tmp_path), 0
    while any(w.is_alive() for w in writers):
        found = cache.load("x", "k")
        if found is not None:
            assert found["v"].unique().numel() == 1
            seen += 1
    for w in writers:
        w.join()
    assert [w.exitcode for w in writers] == [0, 0]
    assert seen > 0
    assert not caplog.records
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["k.safetensors"]
