"""Damaged and hostile versions of a file, drawn from a seed: each says what was done to it."""

from __future__ import annotations

import codecs
import json
import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e300, 1.7e308, -1e308, 10**6, 10**12, 10**30, 2**31, 2**63,
    10**400, float("nan"), float("inf"), "", " ", "x", "0", "nan", "inf", "-inf", "1e400", "NaN", "null", "x" * 100_000,
    "\x1b]0;title\x07\x1b[31mred", "[/]", "[bold]x[/bold]", "{{ 7 * 7 }}", "{0.__class__}", "%s%n",
    "<script>alert(1)</script>", "a\nb\rc\td", "\u202egnp.exe", "\ud800",
    "\x00", "a\x00b", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "C:\\x", "file:///etc/passwd", "x" * 300,
    "é" * 50, "💥", "no.such.module:Thing", "none.py:Thing", ":", "a:b:c", [], {}, [[]], [None], [0], ["x"], [1, 2],
    list(range(1000)), {"x": 1}, {"": ""}, {"value": 1}, {"value": -1, "source": "me"}, [0.1, 0.1], ["x"] * 50,
)
"""Values of other types, ranges and meanings than a file holds at any place."""


@dataclass(frozen=True)
class Mutant:
    """One version of a file.

    Attributes:
        what: What was done.
        write: Puts it where the file is to be.
    """

    what: str
    write: Callable[[Path], None]


def _bytes(what: str, content: bytes) -> Mutant:
    return Mutant(what, lambda path: cleared(path).write_bytes(content) and None)


def cleared(path: Path) -> Path:
    """A path at which nothing is."""
    if path.is_symlink() or path.is_file() or path.is_fifo():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    return path


def special_files() -> Iterator[Mutant]:
    """What stands in a file's place without being one, and files of sizes that nobody expects."""
    def sparse(path: Path, size: int) -> None:
        with cleared(path).open("wb") as file:
            file.truncate(size)

    yield Mutant("missing", lambda path: cleared(path) and None)
    yield Mutant("pipe", lambda path: os.mkfifo(cleared(path)))
    yield Mutant("directory", lambda path: cleared(path).mkdir())
    yield Mutant("link to itself", lambda path: cleared(path).symlink_to(path))
    yield Mutant("link to nothing", lambda path: cleared(path).symlink_to(path.with_name("nothing")))
    yield Mutant("link to a device without end", lambda path: cleared(path).symlink_to("/dev/zero"))
    yield Mutant("link to an empty device", lambda path: cleared(path).symlink_to("/dev/null"))
    yield Mutant("link to a file of the system", lambda path: cleared(path).symlink_to("/proc/cpuinfo"))
    yield Mutant("link to a directory", lambda path: cleared(path).symlink_to("/tmp"))
    yield Mutant("100 GB of zeros", lambda path: sparse(path, 100 << 30))
    yield Mutant("30 MB of zeros", lambda path: sparse(path, 30 << 20))


def byte_mutants(content: bytes, rng: random.Random, count: int) -> Iterator[Mutant]:
    """Damage of any file: flipped bits, lost ends, lost and doubled pieces, foreign bytes."""
    for _ in range(count):
        data, kind = bytearray(content), rng.randrange(6)
        at = rng.randrange(len(data))
        if kind == 0:
            for _ in range(flips := rng.choice((1, 1, 1, 5, 50))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            yield _bytes(f"{flips} bits flipped", bytes(data))
        elif kind == 1:
            yield _bytes(f"cut at {at}", bytes(data[:at]))
        elif kind == 2:
            end = at + rng.choice((1, 8, 100, 5000))
            yield _bytes(f"bytes {at} to {end} lost", bytes(data[:at] + data[end:]))
        elif kind == 3:
            end = at + rng.choice((1, 8, 100, 5000))
            yield _bytes(f"bytes {at} to {end} doubled", bytes(data[:end] + data[at:]))
        elif kind == 4:
            foreign = rng.choice((b"\x00", b"\xff" * 9, b"\x1b[2J", b'"', b"\n", b"{", b"[" * 2000, b"- " * 2000,
                                  b"&a *a", b"9" * 5000, rng.randbytes(50), b"\xed\xa0\x80", b"<<<<<<< HEAD\n"))
            yield _bytes(f"{foreign[:8]!r} at {at}", bytes(data[:at] + foreign + data[at:]))
        else:
            data[at:at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7))
            yield _bytes(f"8 bytes at {at}", bytes(data))


def text_mutants(content: bytes) -> Iterator[Mutant]:
    """Whole files of another kind or encoding."""
    text = content.decode(errors="replace")
    for what, other in {
        "empty": b"",
        "one byte": b"x",
        "spaces": b" \n \t",
        "random": random.Random(0).randbytes(3000),
        "byte order mark": codecs.BOM_UTF8 + content,
        "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32"),
        "latin-1": text.replace("a", "ä", 3).encode("latin-1", "replace"),
        "carriage returns": content.replace(b"\n", b"\r\n"),
        "only carriage returns": content.replace(b"\n", b"\r"),
        "twice": content * 2,
        "reversed": content[::-1],
        "gzip": b"\x1f\x8b\x08\x00" + content[:200],
        "zip": b"PK\x03\x04" + content[:200],
        "ELF": b"\x7fELF" + bytes(60),
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(30),
        "HTML": b"<!DOCTYPE html><title>404</title>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 50_000,
        "closed deep lists": b"[" * 3000 + b"]" * 3000,
        "deep dashes": b"- " * 50_000,
        "a number": b"1",
        "a string": b'"x"',
        "null": b"null",
        "a list": b"[]",
        "an object": b"{}",
        "NaN": b"NaN",
        "huge number": b"9" * 5000,
        "surrogate": b'"\\ud800"',
        "a billion laughs": _laughs(),
        "an alias in itself": b"a: &a [*a]",
        "a tag": b"!!python/object/apply:os.system ['true']",
        "a date": b"2020-13-45",
        "half a comment": b"/*",
        "many lines": b"\n" * 1_000_000,
        "one long line": b"x" * 3_000_000,
        "many small lists": b"[" + b"[]," * 500_000 + b"[]]",
    }.items():
        yield _bytes(what, other)


def _laughs() -> bytes:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{chr(ord(n) - 1)}'] * 9)}]" for n in "bcdefghi"]
    return "\n".join(lines).encode()


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in nested lists and objects, the whole first."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def tree_mutants(
    data: Any, rng: random.Random, count: int, dump: Callable[[Any], bytes], under: tuple[Any, ...] = ()
) -> Iterator[Mutant]:
    """Another value, key or order at a place that is drawn among those below `under`, written with `dump`."""
    found = [place for place in places(data) if place[:len(under)] == under and place]
    # by depth first, or the long lists would get nearly all
    by_depth = {depth: [p for p in found if len(p) == depth] for depth in {len(p) for p in found}}
    for _ in range(count):
        changed = deepcopy(data)
        *parents, key = rng.choice(by_depth[rng.choice(sorted(by_depth))])
        node = changed
        for parent in parents:
            node = node[parent]
        where, kind = ".".join(map(str, (*parents, key))), rng.randrange(12)
        if kind == 0:
            del node[key]
            what = f"{where} left out"
        elif kind == 1 and isinstance(node, dict):
            name = rng.choice(("x", "", "__class__", "x" * 5000, "\x1b[31m", "[/]", "é"))
            node[name] = node.pop(key)
            what = f"{where} renamed {name[:9]!r}"
        elif kind == 2 and isinstance(node, list):
            node *= 2
            what = f"list of {where} doubled"
        elif kind == 3 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
            node[key] = node[key] * rng.choice((-1, 0, 1e3, 1e9, 1e-9, 1e200)) + rng.choice((0, 1))
            what = f"{where} = {node[key]}"
        elif kind == 4:
            other = rng.choice(found)
            value = data
            for part in other:
                value = value[part]
            node[key] = deepcopy(value)
            what = f"{where} = what is at {'.'.join(map(str, other))}"
        elif kind == 5:
            value = node[key]
            for _ in range(depth := rng.choice((1, 3, 200))):
                value = [value]
            node[key] = value
            what = f"{where} in {depth} lists"
        else:
            node[key] = deepcopy(rng.choice(NASTY))
            what = f"{where} = {repr(node[key])[:40]}"
        try:
            yield _bytes(what, dump(changed))
        except (ValueError, RecursionError, TypeError):  # what the writer itself refuses
            continue


def json_bytes(data: Any) -> bytes:
    """JSON with whatever Python writes, NaN and half surrogates included."""
    return json.dumps(data).encode()


def yaml_bytes(data: Any) -> bytes:
    """YAML in block style, as autosplit writes it."""
    return yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False).encode()


def csv_mutants(content: bytes, rng: random.Random, count: int) -> Iterator[Mutant]:
    """A cell, a line or the header of a CSV file changed."""
    lines = content.split(b"\n")
    for _ in range(count):
        changed = list(lines)
        number = rng.randrange(max(1, len(lines) - 1)) if rng.random() < 0.8 else 0
        kind = rng.randrange(5)
        if kind == 0:
            del changed[number]
        elif kind == 1:
            changed.insert(number, changed[number])
        elif kind == 2:
            rng.shuffle(changed)
        else:
            cells = changed[number].split(b",")
            at = rng.randrange(len(cells))
            cells[at] = rng.choice((
                b"", b"nan", b"inf", b"-1", b"1e400", b"1e308", b"x" * 200_000, b"\x00", b'"', b"[/]", b"{", b"9" * 30,
                b"9" * 5000, b"\x1b[31m", b"0", b"1", b"0x10", b"1_0", b"\xff", b"a,b", b'"a\nb"', b" 1 ", b"=1+1",
                b"-0", b"1e-320", b'{"conv": 1}'))
            if kind == 4:
                cells *= 2
            changed[number] = b",".join(cells)
        yield _bytes(f"line {number}, change {kind}", b"\n".join(changed))
