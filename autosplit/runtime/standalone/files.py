"""Files that come from somebody else: read whole, but only regular ones of a bounded size; JSON of a bounded depth.

Everything that reads a file of the user, a run or a bundle begins here, so that a pipe, a device, a directory, a file
of gigabytes or a thousand brackets is refused in one line, by the error class of whoever asks.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import AutosplitError, ConfigError

__all__ = ["MOST_BYTES", "MOST_TEXT_BYTES", "check_regular", "contains", "file_sha256", "parse_json", "read_file",
           "read_json", "read_text", "reason_of"]

MOST_BYTES = 2 << 30
"""Largest file of weights that is read, which is the largest that an ONNX file can be."""

MOST_TEXT_BYTES = 16 << 20
"""Largest file of text that is read; the longest that autosplit writes has a few hundred kilobytes."""

MOST_DEPTH = 64
"""Deepest nesting of JSON and YAML; autosplit's own files reach 10."""

_MOST_CONTAINERS, _MOST_VALUES = 100_000, 2_000_000  # of JSON: a policy has 2,000 and 10,000
_KINDS = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def check_regular(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError,
                  most_bytes: int = MOST_BYTES) -> int:
    """The size of a file, bytes, for those that a library opens by name; arguments and errors as of `read_file`."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a path may hold a NUL, which Path.stat takes for absent)
    except (OSError, ValueError) as e:
        raise error(f"{what or path}: {reason_of(e)}") from e
    return _checked(found, what or str(path), error, most_bytes)


def read_file(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError,
              most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        path: The file; links are followed.
        what: How messages name it; its path when left out.
        error: Class of the error.
        most_bytes: Largest size that is accepted.

    Raises:
        AutosplitError: Of class `error`: the file is absent, unreadable, no regular one, or too large.
    """
    what = what or str(path)
    with _opened(path, what, error, most_bytes) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:  # of a size that the file system does not state, as in /proc
        raise error(_too_large(what, len(content), most_bytes))
    return content


def file_sha256(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError) -> str:
    """SHA-256 of a regular file, 64 hex digits; arguments and errors as of `read_file`."""
    with _opened(path, what or str(path), error, MOST_BYTES) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def contains(path: str | Path, part: bytes, what: str = "", *, error: type[AutosplitError] = ConfigError,
             most_bytes: int = MOST_BYTES) -> bool:
    """Whether a regular file holds some bytes, without reading all of it at once; the rest as of `read_file`."""
    with _opened(path, what or str(path), error, most_bytes) as file:
        if not os.fstat(file.fileno()).st_size:  # of which there is no map
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(part) >= 0


def read_text(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError,
              most_bytes: int = MOST_TEXT_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark; arguments and errors as of `read_file`."""
    content = read_file(path, what, error=error, most_bytes=most_bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise error(f"{what or path}: not UTF-8 text ({e.reason} at byte {e.start}); save it as UTF-8") from e


def read_json(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError) -> Any:
    """What is in a JSON file; arguments and errors as of `read_file`."""
    text = read_text(path, what, error=error)
    try:
        return parse_json(text)
    except ValueError as e:
        raise error(f"{what or path}: not valid JSON, probably truncated ({e})") from e


def parse_json(text: str | bytes) -> Any:
    """JSON of a bounded depth, with finite numbers and text that can be written again.

    Raises:
        ValueError: It is none.
    """
    if isinstance(text, bytes):
        text = text.decode()
    # counted before anything is built: millions of empty lists fit into a small file
    opened, values = text.count("[") + text.count("{"), text.count(",")
    if opened > _MOST_CONTAINERS or values > _MOST_VALUES:
        raise ValueError(f"{opened:,} lists and objects with {values:,} values")
    try:
        data = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels") from None
    # flat text, which nearly all is, needs no walk
    if opened > MOST_DEPTH and _is_deep(data):
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
    if "\\u" in text:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is no character") from None
    return data


def reason_of(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


@contextmanager
def _opened(path: str | Path, what: str, error: type[AutosplitError], most_bytes: int) -> Iterator[BinaryIO]:
    try:
        # without O_NONBLOCK the opening of a pipe waits for somebody to write into it
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            _checked(os.fstat(handle), what, error, most_bytes)
            yield file
    except (OSError, ValueError) as e:
        if isinstance(e, AutosplitError):
            raise
        raise error(f"{what}: {reason_of(e)}") from e


def _checked(found: os.stat_result, what: str, error: type[AutosplitError], most_bytes: int) -> int:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for fits, name in _KINDS if fits(found.st_mode)), "something else")
        raise error(f"{what}: {kind}, not a file")
    if found.st_size > most_bytes:
        raise error(_too_large(what, found.st_size, most_bytes))
    return found.st_size


def _too_large(what: str, size: int, most_bytes: int) -> str:
    return f"{what}: {size:,} bytes; at most {most_bytes:,} are read of such a file"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MOST_DEPTH):
        level = [child for item in level if isinstance(item, (dict, list))
                 for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)
