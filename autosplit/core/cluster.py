"""A Ray cluster as workers; imported by nobody who does not ask for one."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pickle
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from typing import Any, TypeVar
from urllib.parse import urlsplit

from autosplit.core.errors import ConfigError, WorkerError
from autosplit.core.shipping import packed
from autosplit.core.workers import Pool

__all__ = ["Cluster"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_S = 5.0
_LOOKS_S = 0.1
_DRIVER = "from autosplit.core.ray_driver import main; main()"


class _WorkerLostError(Exception):
    """Ray says that the worker of a piece is gone."""


class Cluster(Pool):
    """The processors of a Ray cluster, each a worker.

    Ray itself lives in a process of its own (`ray_driver`): it ends the one that it is in when its cluster goes, and
    what this one has under way, a training for example, is to go on.

    Args:
        address: Of the cluster, `HOST:PORT`; `auto` for the one that this machine is part of.
        threads: Threads of torch in each worker, and processors that it takes.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    together = False
    lost = (_WorkerLostError,)

    def __init__(self, address: str, threads: int) -> None:
        super().__init__()
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--cluster needs the package ray: pip install 'autosplit[cluster]'")
        self._address, self.option, self._numbers = address, f" --cluster {address}", itertools.count(1)
        self._asked: dict[int, Future[Any]] = {}
        # two locks: answers must be taken while something large is on its way there
        self._changing, self._sending = threading.Lock(), threading.Lock()
        try:
            _reach(address)
            processors = self._begin(threads)
        except (OSError, ValueError, WorkerError) as e:
            raise ConfigError(f"cluster {address!r}: {e}; start one with `ray start --head`, or name its address"
                              ) from e
        self.number = max(1, processors // threads)
        threading.Thread(target=self._listen, daemon=True).start()

    def _begin(self, threads: int) -> int:
        """Begin the process that speaks with Ray; gives the cluster's processors.

        Raises:
            WorkerError: It could not connect.
        """
        key = secrets.token_bytes(16)
        with Listener(authkey=key) as listener:
            command = [sys.executable, "-c", _DRIVER, str(listener.address), self._address, str(threads), sys.argv[0]]
            self._driver = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))})
            assert self._driver.stdin is not None
            print(key.hex(), file=self._driver.stdin, flush=True)
            self._peer = _accepted(listener, self._driver)
        try:
            _, what, value = self._peer.recv()
        except (EOFError, OSError):
            what, value = "failed", "the process that speaks with Ray ended"
        if what != "done":
            self._driver.wait()
            raise WorkerError(value)
        return int(value)

    def _listen(self) -> None:
        """Hand answers to those who wait for them, until there are no more."""
        while True:
            try:
                number, what, value = self._peer.recv()
            except (EOFError, OSError):
                break
            with self._changing:
                asked = self._asked.pop(number)
            if what == "done":
                asked.set_result(value)
            else:
                asked.set_exception(_WorkerLostError(value) if what == "lost" else self._ended(value))
        with self._changing:
            self._peer.close()
            left, self._asked = list(self._asked.values()), {}
        for asked in left:
            asked.set_exception(self._ended())

    def _ended(self, why: str = "") -> WorkerError:
        reason = f" ({' '.join(why.split())[:200]})" if why else ""
        return WorkerError(f"the Ray cluster {self._address!r} is gone, or refuses work{reason}; everything finished "
                           "is kept: start it again, and run the same command, for a search with --resume")

    def _ask(self, wanted: str, *arguments: Any) -> Future[Any]:
        asked: Future[Any] = Future()
        number = next(self._numbers)
        with self._changing:
            if self._peer.closed:
                raise self._ended()
            self._asked[number] = asked
        with suppress(OSError), self._sending:  # of a process that has ended; whoever listens says so
            self._peer.send((number, wanted, *arguments))
        return asked

    def put(self, shared: Any) -> str:
        """Put an object into the cluster's store; gives its name there."""
        return str(self._ask("put", packed(shared)).result())

    def submit(self, work: Callable[[S, T], R], shipped: str, piece: T) -> Future[tuple[R, list[str]]]:
        """See `Pool.submit`."""
        import cloudpickle

        found: Future[tuple[R, list[str]]] = Future()

        def take(answered: Future[bytes]) -> None:
            try:
                value = pickle.loads(answered.result())
                if isinstance(value, Exception):
                    raise value
                found.set_result(value)
            except Exception as e:
                found.set_exception(e)

        self._ask("do", shipped, cloudpickle.dumps((work, piece))).add_done_callback(take)
        return found

    def abandon(self) -> None:
        """Nothing: Ray replaces workers itself, and ends all with the connection."""

    def close(self) -> None:
        """Leave the cluster."""
        self._shipped.clear()
        with suppress(OSError), self._sending:
            self._peer.send((0, "end"))
        try:
            self._driver.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()


def _accepted(listener: Listener, process: subprocess.Popen[str]) -> Connection:
    """The connection of a process that was told where to call.

    Raises:
        WorkerError: It ended before.
    """
    found: list[Connection] = []
    calling = threading.Thread(target=lambda: found.append(listener.accept()), daemon=True)
    calling.start()
    while process.poll() is None and calling.is_alive():
        calling.join(_LOOKS_S)
    if not found:
        raise WorkerError("the process that speaks with Ray ended before it began")
    return found[0]


def _reach(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for minutes.

    Raises:
        OSError: Nobody does.
        ValueError: It is no address.
    """
    if address != "auto":
        where = urlsplit(address if "://" in address else f"ray://{address}")
        if where.hostname is None or where.port is None:
            raise ValueError("an address is HOST:PORT")
        socket.create_connection((where.hostname, where.port), _PATIENCE_S).close()
