"""SHA-256 of values, bytes and files: what makes cached work and recorded files recognisable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from autosplit.runtime.standalone.files import file_sha256

__all__ = ["content_hash", "sha256_of", "sha256_of_file"]


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
