"""The file under a ledger: Optuna's journal, written by one process at a time, and whole again after a kill."""

from __future__ import annotations

import json
import logging
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, cast

from autosplit.core.errors import AutosplitError, ConfigError

__all__ = ["RunLock", "first_bad_line", "journal_storage", "mend", "released_on_error", "sync_directory", "writing"]

_STALE_SECONDS = 2.0

_log = logging.getLogger(__name__)


def journal_storage(path: Path) -> Any:
    """Optuna's storage in a journal file."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(path), lock_obj=cast("Any", _JournalLock(path)))
    return JournalStorage(backend)


def first_bad_line(path: Path) -> int | str:
    """Number of the first line that is no record, from 1, for messages."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not _is_record(line):
            return number
    return "an unknown place"


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def mend(path: Path) -> str | None:
    """Complete or drop a last line that a killed process left unfinished; says what it dropped."""
    lock = _JournalLock(path)
    lock.acquire()
    try:
        data = path.read_bytes()
        start = data.rstrip(b"\n").rfind(b"\n") + 1
        last = data[start:]
        if not last or (last.endswith(b"\n") and _is_record(last)):
            return None
        with path.open("r+b") as file:
            if _is_record(last):  # only the line end is missing: nothing is lost
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                file.truncate(start)
            file.flush()
            os.fsync(file.fileno())
    finally:
        lock.release()
    if _is_record(last):
        return None
    note = f"{path}: dropped an incomplete last line of {len(last)} bytes; every finished measurement is kept"
    _log.warning(note)
    return note


def sync_directory(folder: Path) -> None:
    """Make a new name in a folder durable."""
    with suppress(OSError):  # some file systems cannot sync a directory
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


class _JournalLock:
    """Optuna's journal lock (`<journal>.lock` exists while someone writes), safe against killed owners.

    Optuna's own waits 30 s for a dead owner, and forever when the lock is a dangling relative symlink. A write
    takes milliseconds, so a lock that stands unchanged for two seconds has no owner.
    """

    def __init__(self, journal: Path) -> None:
        self._path = Path(f"{journal}.lock")

    def acquire(self) -> bool:
        seen: tuple[int, int] | None = None
        since = time.monotonic()
        while True:
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return True
            now, stamp = time.monotonic(), self._stamp()
            if stamp != seen:
                seen, since = stamp, now
            elif now - since > _STALE_SECONDS:
                self._path.unlink(missing_ok=True)
            time.sleep(0.005)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            state = self._path.lstat()
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_mtime_ns


class RunLock:
    """Exclusive use of a run directory; the kernel releases it however the process ends."""

    _held: ClassVar[weakref.WeakSet[RunLock]] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        import fcntl

        self._file = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigError(f"{path.parent}: in use by another autosplit process (pid {owner}); "
                              "wait for it to end, or give another directory with --out") from None
        except OSError as e:
            _log.warning("%s: this file system has no locks (%s); do not use the run twice at a time",
                         path.parent, e.strerror)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        self._held.add(self)

    def release(self) -> None:
        """Give the directory free."""
        self._held.discard(self)
        self._file.close()

    @classmethod
    def forget_all(cls) -> None:
        """In a forked child: a worker that outlives its killed parent must not keep the run locked."""
        for lock in list(cls._held):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RunLock.forget_all)


@contextmanager
def released_on_error(lock: RunLock) -> Iterator[None]:
    """A context that gives a lock back if it fails."""
    try:
        yield
    except BaseException:
        lock.release()
        raise
