"""The one reader of files that come from somebody else."""

from __future__ import annotations

import os

import pytest

from autosplit.runtime.standalone.errors import BundleError, ConfigError, ResultError, error_line, printable
from autosplit.runtime.standalone.files import (
    MOST_DEPTH,
    check_regular,
    file_sha256,
    parse_json,
    read_file,
    read_json,
    read_text,
)


def test_regular_files_are_read_through_links(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\\ud83d\\ude00"]}')
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert read_json(tmp_path / "b.json") == {"a": [1, 2.5, "\U0001f600"]}
    assert read_text(tmp_path / "b.json").startswith("{")
    assert check_regular(tmp_path / "b.json") == len(read_file(tmp_path / "b.json"))
    assert len(file_sha256(tmp_path / "b.json")) == 64


def _sparse(path, size):
    path.touch()
    os.truncate(path, size)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda path: None, "no such file"), (os.mkfifo, "a pipe, not a file"), (os.mkdir, "directory"),
    (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
    (lambda path: path.symlink_to(path), "symbolic"), (lambda path: _sparse(path, 1 << 40), "bytes; at most")])
def test_everything_else_is_refused_without_waiting(tmp_path, make, reason):
    make(tmp_path / "x")
    for read in (read_file, read_text, read_json, file_sha256, check_regular):
        with pytest.raises(BundleError, match=reason) as caught:
            read(tmp_path / "x", "part 'x'", error=BundleError)
        assert str(caught.value).startswith("part 'x'")


def test_a_file_longer_than_it_says_is_refused():
    with pytest.raises(ConfigError, match="at most 10 are read"):
        read_file("/proc/self/status", most_bytes=10)  # of which the file system says that it is empty


@pytest.mark.parametrize(("text", "reason"), [
    ("{", "Expecting"), ("", "Expecting"), ("NaN", "no finite number"), ("[1e400]", "no finite number"),
    ("[-Infinity]", "no finite number"), ("9" * 5000, "digits"), ('["\\ud800"]', "surrogate"),
    ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deeper"), ("[" * 100_000, "deeper|100,000 lists"),
    ('{"a":' * (MOST_DEPTH + 1) + "1" + "}" * (MOST_DEPTH + 1), "deeper"), ("[" + "[]," * 200_000 + "1]", "lists"),
    ("[" + "1," * 3_000_000 + "1]", "values")])
def test_json_is_bounded_and_finite(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    with pytest.raises(ValueError, match=reason):
        parse_json(text.encode())
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResultError, match=r"x.json"):
        read_json(tmp_path / "x.json", error=ResultError)


def test_deep_but_not_too_deep():
    assert parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert parse_json("[" + "[1]," * 1000 + "1]")[0] == [1]


@pytest.mark.parametrize("content", ["a: 1".encode("utf-16"), b"\xff\xfe", "ä".encode("latin-1")])
def test_text_is_utf_8(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_text(tmp_path / "x.yaml")


def test_lines_are_printable_and_keep_their_ends():
    assert printable("a\n b\x1b[31m\u202e\x00") == r"a b\x1b[31m\u202e\x00"
    line = error_line("begin " + "x" * 10_000 + " remedy")
    assert len(line) == 500
    assert line.startswith("error: begin xxx")
    assert line.endswith("xxx remedy")
