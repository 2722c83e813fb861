"""Append-only records on disk: JSON lines that survive `kill -9`, and a lock for the one process that writes them.

The ledger of a run and the measurements in the cache are such files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.runtime.standalone.files import parse_json

__all__ = ["append_record", "drop_incomplete_line", "parse_record", "run_lock", "writing"]

_log = logging.getLogger(__name__)


def parse_record(line: bytes | str) -> dict[str, Any] | None:
    """The JSON object of one line; `None` where the line is damaged."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def append_record(path: Path, text: str) -> None:
    """Write one line; when this returns, it is on the disk.

    Raises:
        OSError: The file cannot be written (no space, no permission). It then ends as it did before.
    """
    with path.open("ab") as file:
        size = file.tell()
        try:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # A disk that fills up takes half a line; the next record must not be glued to it.
            with suppress(OSError):
                file.truncate(size)
            raise


def drop_incomplete_line(path: Path) -> str | None:
    """Complete or drop a last line that a killed process left unfinished; returns a note of what was dropped."""
    data = path.read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    last = data[start:]
    whole = parse_record(last)
    if not last or (last.endswith(b"\n") and whole):
        return None
    with path.open("r+b") as file:
        if whole:  # only the end of the line is missing: nothing is lost
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(start)
        file.flush()
        os.fsync(file.fileno())
    if whole:
        return None
    note = f"{path}: dropped an incomplete last line of {len(last)} bytes; every finished measurement is kept"
    _log.warning(note)
    return note


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which failures to write are `ConfigError`s that say what to do."""
    try:
        yield
    except AutosplitError:
        raise
    except OSError as e:
        raise ConfigError(f"cannot write {e.filename or path}: {e.strerror or e}; make room or get permission, "
                          "or give another directory with --out") from e


def run_lock(folder: Path) -> FileLock:
    """Take a run directory for this process alone; the operating system gives it back however the process ends.

    Raises:
        ConfigError: Another process has it; the message names its number.
    """
    path = folder / ".lock"
    path.open("a").close()  # a folder that cannot be written is told as such, not as one that is in use
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        owner = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise ConfigError(f"{folder}: in use by another autosplit process (pid {owner}); "
                          "wait for it to end, or give another directory with --out") from None
    except NotImplementedError:
        _log.warning("%s: this file system has no locks; do not use the run twice at a time", folder)
        return lock
    with suppress(OSError):
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    return lock
