"""What travels to a worker with its work: objects, and the code of plug-ins, by content.

A worker has autosplit and what is installed. It does not have what this process was handed in memory, nor the modules
of plug-ins that files hold; both come along, so that the names of a scenario mean there what they mean here.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from autosplit.core.held import held_again, held_objects
from autosplit.core.plugins import file_modules, take_file_modules

__all__ = ["begin_worker", "call", "packed", "read_file", "read_shared", "unpacked"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_KEPT = 2  # shared objects that a worker keeps, each with networks and data
_shared: OrderedDict[str, Any] = OrderedDict()


def packed(thing: Any) -> bytes:
    """An object with the surroundings that it needs; `unpacked` in the worker."""
    import cloudpickle

    modules = file_modules()
    for module in modules.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        # apart, since what is in it is read when its surroundings are there
        content: bytes = cloudpickle.dumps((modules, held_objects(), cloudpickle.dumps(thing)))
    finally:
        for module in modules.values():
            cloudpickle.unregister_pickle_by_value(module)
    return content


def unpacked(content: bytes) -> Any:
    """What `packed` took, its surroundings in place."""
    import pickle

    modules, held, thing = pickle.loads(content)
    take_file_modules(modules)
    held_again(held)
    return pickle.loads(thing)


def read_shared(token: str, content: Callable[[], bytes]) -> Any:
    """The shared object of a token, unpacked once in the life of a worker.

    Args:
        token: Its name.
        content: Fetches what `packed` gave.
    """
    if token not in _shared:
        _shared[token] = unpacked(content())
        while len(_shared) > _KEPT:
            _shared.popitem(last=False)
    _shared.move_to_end(token)
    return _shared[token]


def read_file(path: str) -> bytes:
    """Of a worker on the machine that packed it."""
    return Path(path).read_bytes()


class _Kept(logging.Handler):
    """Keeps the texts of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def call(work: Callable[[S, T], R], shared: S, piece: T) -> tuple[R, list[str]]:
    """Do a piece; gives its result and the warnings that were logged meanwhile, which are shown nowhere else."""
    log, kept = logging.getLogger("autosplit"), _Kept()
    propagates, log.propagate = log.propagate, False
    log.addHandler(kept)
    try:
        return work(shared, piece), kept.texts
    finally:
        log.removeHandler(kept)
        log.propagate = propagates


def begin_worker(threads: int) -> None:
    """What a worker does first: whoever asked for it ends it, and it computes with so many threads."""
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from autosplit.core.machine import keep_freed_memory

    with suppress(ImportError):  # of torch.fx: a worker that is ended would leave its lock among processes behind
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())
    torch.set_num_threads(threads)
    keep_freed_memory()
