"""Files are written whole or not at all, and what another file names stays for it."""

from __future__ import annotations

import errno

import pytest

from autosplit.core.files import write_beside, write_whole, written_whole
from autosplit.core.hashing import sha256_of


@pytest.mark.parametrize("fails", ["pathlib.Path.write_bytes", "os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "below" / "scenario.yaml"
    write_whole(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["scenario.yaml"]
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_a_library_that_fails_leaves_nothing(tmp_path):
    def draw(path):
        with written_whole(path) as draft:
            assert draft.suffix == ".png"
            draft.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        draw(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "whole", "")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_named_by_its_hash_is_not_overwritten(tmp_path):
    path = tmp_path / "best.safetensors"
    assert write_beside(path, b"one") == write_beside(path, b"one") == "best.safetensors"
    other = write_beside(path, b"two")
    assert other == f"best-{sha256_of(b'two')[:12]}.safetensors"
    assert (path.read_bytes(), (tmp_path / other).read_bytes()) == (b"one", b"two")
