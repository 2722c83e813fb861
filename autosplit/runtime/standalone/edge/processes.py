"""Processes that compute for one edge, so that it has more than one processor and outlives a fault of its networks.

The server's process keeps the socket, the sessions and the queue; each of these has a copy of the bundle's edge side
and decodes one batch at a time. One that dies is replaced, and its batch goes to another.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ..errors import AutosplitError, WorkerLostError
from ..protocol.interfaces import EdgeSide, Logits

__all__ = ["EdgeProcess"]

_LOADING_S, _ENDING_S = 120.0, 5.0


class EdgeProcess:
    """An edge side in a process of its own; `decode` is called by one thread at a time.

    Args:
        load: Gives the edge side, in that process: a function that can be pickled.

    Attributes:
        manifest: Of the edge side.

    Raises:
        AutosplitError: It cannot be loaded.
    """

    def __init__(self, load: Callable[[], EdgeSide]) -> None:
        self._load = load
        self._process: Any = None
        self._pipe: Connection | None = None
        self.restart()

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid)

    def restart(self) -> None:
        """Begin a process, in place of the one that there was.

        Raises:
            AutosplitError: The edge side cannot be loaded there.
        """
        self.close()
        # spawned: what runs in this process already, threads above all, does not survive a fork
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._load), name="edge-worker", daemon=True)
        self._process.start()
        theirs.close()
        self.manifest = self._ask(None, _LOADING_S)

    def decode(self, payloads: Sequence[bytes]) -> Logits:
        """See `EdgeSide.decode`.

        Raises:
            PayloadError: As there.
            WorkerLostError: The process died meanwhile.
        """
        logits: Logits = self._ask(list(payloads), None)
        return logits

    def _ask(self, question: list[bytes] | None, timeout_s: float | None) -> Any:
        pipe = self._pipe
        try:
            if pipe is None:
                raise EOFError
            if question is not None:
                pipe.send(question)
            if not pipe.poll(timeout_s):
                raise EOFError
            answer = pipe.recv()
        except (EOFError, OSError) as e:
            raise WorkerLostError(f"a process of the edge died ({self._ended()})") from e
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _ended(self) -> str:
        if self._process is None:
            return "it had been ended"
        self._process.join(_ENDING_S)
        code = self._process.exitcode
        return "it does not answer" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(_ENDING_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None


def _work(pipe: Connection, load: Callable[[], EdgeSide]) -> None:
    """Of the process: the manifest, then logits or an error for each batch, until the other end is closed."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the server ends when it has answered what is queued, and then this
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            edge = load()
        except AutosplitError as e:
            pipe.send(e)
            return
        pipe.send(edge.manifest)
        while True:
            payloads = pipe.recv()
            try:
                answer: Any = edge.decode(payloads)
            except Exception as e:  # the server decides what it means
                answer = e
            pipe.send(answer)
    sys.stderr.flush()
    os._exit(0)  # onnxruntime's threads have nothing to say to the exit of a daemon
