"""A Ray cluster as workers; imported by nobody who does not ask for one."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

from autosplit.core.errors import ConfigError
from autosplit.core.shipping import begin_worker, call, packed, read_shared
from autosplit.core.workers import Pool

__all__ = ["Cluster"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_S = 5.0


class Cluster(Pool):
    """The processors of a Ray cluster, each a worker.

    Args:
        address: Of the cluster, `HOST:PORT`; `auto` for the one that this machine is part of.
        threads: Threads of torch in each worker, and processors that it takes.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    together = False

    def __init__(self, address: str, threads: int) -> None:
        super().__init__()
        try:
            import ray
        except ImportError as e:
            raise ConfigError("--cluster needs the package ray: pip install 'autosplit[cluster]'") from e
        self._ours = not ray.is_initialized()  # a program that is connected already stays so
        try:
            if self._ours:
                _reach(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as e:  # of many types
            # of a cluster that is not there Ray's own advice names options of its own
            missing = isinstance(e, ConnectionError) and address == "auto"
            reason = "none runs here" if missing else " ".join(str(e).split())[:200].rstrip(".")
            raise ConfigError(f"cluster {address!r}: {reason}; start one with `ray start --head`, or name its address"
                              ) from e
        self._ray: Any = ray
        self.number = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // threads)
        self.lost = (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError,
                     ray.exceptions.OutOfMemoryError)
        # lost pieces are begun anew by `Pool.map`, which knows their names
        self._task: Any = ray.remote(num_cpus=threads, max_retries=0)(_do)
        self._threads = threads

    def put(self, shared: Any) -> Any:
        """Put an object into the cluster's store; gives its reference in a list, so that tasks fetch it themselves."""
        return [self._ray.put(packed(shared))]

    def submit(self, work: Callable[[S, T], R], shipped: Any, piece: T) -> Future[tuple[R, list[str]]]:
        """See `Pool.submit`."""
        found: Future[tuple[R, list[str]]] = self._task.remote(work, shipped, piece, self._threads).future()
        return found

    def abandon(self) -> None:
        """Nothing: Ray replaces workers itself, and ends all with the connection."""

    def close(self) -> None:
        """Let go of what was shipped, and of the cluster if nobody else here had it."""
        self._shipped.clear()
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


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


_begun = False


def _do(work: Callable[[S, T], R], shipped: Any, piece: T, threads: int) -> tuple[R, list[str]]:
    """A task: workers are processes that do many, one after the other."""
    global _begun
    if not _begun:
        begin_worker(threads)
        _begun = True
    import ray

    (reference,) = shipped
    return call(work, read_shared(reference.hex(), lambda: bytes(ray.get(reference))), piece)
