"""A process between autosplit and Ray, which ends the process that it lives in when its cluster goes.

    python -c "from autosplit.core.ray_driver import main; main()" SOCKET ADDRESS THREADS SCRIPT

Whoever begins it listens at SOCKET, with the key that goes to its standard input. It connects to the Ray cluster at
ADDRESS, says how many processors that has, and then answers requests, each a tuple of a number and what is wanted:

    (n, "put", bytes)       -> (n, "done", name)
    (n, "do", name, bytes)  -> (n, "done", bytes) | (n, "lost", why) | (n, "failed", why)
    (n, "end")              -> the end, as that of the connection

What is stored is `packed`, work with its piece and what comes of it are pickled; none of it is opened here.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Client, Connection
from typing import Any

from autosplit.core.shipping import begin_worker, call, read_shared

__all__ = ["main"]


def main() -> None:
    """Serve the process that began this one until it goes."""
    socket, address, threads, script = sys.argv[1:]
    key = bytes.fromhex(sys.stdin.readline().strip())
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever began this process says when it is over
    sys.argv[:] = [script]  # Ray lets workers import what lies beside it
    with Client(socket, authkey=key) as peer:
        try:
            driver = _Driver(peer, address, int(threads))
        except Exception as e:  # of many types
            # of a cluster that is not there Ray's own advice names options of its own
            missing = isinstance(e, ConnectionError) and address == "auto"
            peer.send((0, "failed", "none runs here" if missing else " ".join(str(e).split())[:200].rstrip(".")))
            return
        peer.send((0, "done", driver.processors))
        while True:
            try:
                number, wanted, *arguments = peer.recv()
            except (EOFError, OSError):
                break
            if wanted == "end":
                break
            try:
                driver.answer(number, wanted, *arguments)
            except Exception as e:  # of many types, a full store for example
                driver.say(number, "failed", str(e).strip())
    os._exit(0)  # Ray's own end waits for a cluster that may be gone


class _Driver:
    """What Ray calls a driver.

    Attributes:
        processors: Of the cluster.
    """

    def __init__(self, peer: Connection, address: str, threads: int) -> None:
        import ray

        self._ray: Any = ray
        self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        self._peer, self._sending, self._threads = peer, threading.Lock(), threads
        self.processors = int(self._ray.cluster_resources().get("CPU", 1))
        self._lost = (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError,
                      ray.exceptions.OutOfMemoryError)
        # lost pieces are begun anew by `Pool.map`, which knows their names
        self._task: Any = ray.remote(num_cpus=threads, max_retries=0)(_do)
        self._stored: dict[str, Any] = {}

    def answer(self, number: int, wanted: str, *arguments: Any) -> None:
        """Do what is wanted, or begin it."""
        if wanted == "put":
            reference = self._ray.put(*arguments)
            self._stored[reference.hex()] = reference
            self.say(number, "done", reference.hex())
        else:
            name, content = arguments
            # in a list, so that tasks fetch it themselves
            self._task.remote([self._stored[name]], content, self._threads).future().add_done_callback(
                self._teller(number))

    def _teller(self, number: int) -> Callable[[Future[bytes]], None]:
        def tell(done: Future[bytes]) -> None:
            error = done.exception()
            if error is None:
                self.say(number, "done", done.result())
            else:
                self.say(number, "lost" if isinstance(error, self._lost) else "failed", str(error).strip())

        return tell

    def say(self, number: int, what: str, value: Any) -> None:
        """Send an answer."""
        with self._sending:
            self._peer.send((number, what, value))


_begun = False


def _do(shipped: Any, content: bytes, threads: int) -> bytes:
    """A task: workers are processes that do many, one after the other.

    Returns:
        What `call` gives, or the exception that it raised, pickled.
    """
    global _begun
    if not _begun:
        begin_worker(threads)
        _begun = True
    import cloudpickle
    import ray

    (reference,) = shipped
    found: Any
    try:
        shared = read_shared(reference.hex(), lambda: bytes(ray.get(reference)))
        work, piece = pickle.loads(content)  # after what is shared, which brings the code of files
        found = call(work, shared, piece)
    except Exception as e:  # raised again by `Cluster`
        found = e
    pickled: bytes = cloudpickle.dumps(found)
    return pickled
