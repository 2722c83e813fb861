"""Processes of this machine as workers, by loky: they start clean, and one that is killed is noticed."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from loky import process_executor
from loky.backend import resource_tracker
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from autosplit.core.shipping import begin_worker, call, packed, read_file, read_shared
from autosplit.core.workers import Pool

__all__ = ["Processes"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ANY_SIZE = 1 << 60
_LOOKS_S = 1.0
_SHARED_MEMORY = Path("/dev/shm")


class Processes(Pool):
    """Processes that end with this one; begun with the first piece.

    Args:
        number: How many.
        threads: Threads of torch in each.
    """

    lost = (BrokenProcessPool,)

    def __init__(self, number: int, threads: int) -> None:
        super().__init__()
        self.number, self._threads, self.option = number, threads, f" --jobs {number}"
        self._pool: ProcessPoolExecutor | None = None
        self._folder: Path | None = None

    def put(self, shared: Any) -> str:
        """Put an object into a file in memory, where the system has such a thing; gives its path."""
        if self._folder is None:
            there = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
            self._folder = Path(tempfile.mkdtemp(prefix="autosplit-", dir=_SHARED_MEMORY if there else None))
            resource_tracker.register(str(self._folder), "folder")  # deleted too if this process is killed
        path = self._folder / f"{len(self._shipped)}.pickle"
        path.write_bytes(packed(shared))
        return str(path)

    def submit(self, work: Callable[[S, T], R], shipped: str, piece: T) -> Future[tuple[R, list[str]]]:
        """See `Pool.submit`."""
        if self._pool is None:
            environment = dict.fromkeys(_OF_THREADS, str(self._threads))
            self._pool = ProcessPoolExecutor(self.number, initializer=_begin, initargs=(self._threads,),
                                             env=environment)
        found: Future[tuple[R, list[str]]] = self._pool.submit(_do, work, shipped, piece)
        return found

    def abandon(self) -> None:
        """See `Pool.abandon`."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None

    def close(self) -> None:
        """End the processes, and delete what was shipped to them."""
        self.abandon()
        self._shipped.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            resource_tracker.unregister(str(self._folder), "folder")
            self._folder = None


def _begin(threads: int) -> None:
    # loky takes a process for leaking that grows by 300 MB, and replaces it; networks and features are as large as that
    process_executor._MAX_MEMORY_LEAK_SIZE = _ANY_SIZE
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    begin_worker(threads)


def _end_with(parent: int) -> None:
    """End this process when the one that began it is gone, which may have had no time to say so."""
    while os.getppid() == parent:
        time.sleep(_LOOKS_S)
    os._exit(1)


def _do(work: Callable[[S, T], R], shipped: str, piece: T) -> tuple[R, list[str]]:
    return call(work, read_shared(shipped, partial(read_file, shipped)), piece)
