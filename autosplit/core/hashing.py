"""SHA-256 of values, bytes and files: what makes cached work and recorded files recognisable."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from autosplit.runtime.standalone.files import file_sha256, parse_json

__all__ = ["content_hash", "read_sealed", "sealed", "sha256_of", "sha256_of_file", "source_hash"]


def content_hash(data: Any) -> str:
    """SHA-256 of a JSON-serialisable value, first 16 hex digits."""
    # one value has one text: keys sorted, no spaces
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return sha256_of(text.encode())[:16]


def sha256_of(content: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        ConfigError: It cannot be read, or is no regular file.
    """
    return file_sha256(path)


def sealed(data: Any, name: str = "") -> str:
    """A JSON value with its checksum, as one line of JSON that `read_sealed` takes.

    Args:
        data: JSON-serialisable.
        name: What the value is kept under, which the checksum covers too: a value under another name is not taken.
    """
    return json.dumps({"checksum": content_hash([name, data]), "content": data}, separators=(",", ":"))


def read_sealed(text: str | bytes, name: str = "") -> Any:
    """The value of `sealed`.

    Args:
        text: As written.
        name: As given to `sealed`.

    Raises:
        ValueError: It is damaged: no such JSON, or another checksum.
    """
    record = parse_json(text)
    if not isinstance(record, dict) or record.get("checksum") != content_hash([name, record.get("content")]):
        raise ValueError("its content does not match its checksum")
    return record["content"]


@cache
def source_hash(*parts: str) -> str:
    """Hash of code of this package, first 16 hex digits: what other code computed is not taken for its own.

    Args:
        parts: Folders and files below `autosplit/`; the whole package where none is named.
    """
    root = Path(__file__).parents[1]
    named = [root / part for part in parts] or [root]
    files = [f for path in named for f in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return content_hash([(f.relative_to(root).as_posix(), sha256_of_file(f)) for f in files])
