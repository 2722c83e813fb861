"""The least that balances TCP connections: each new one goes to the next backend that takes it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading


class Balancer:
    """Listens on a free port of this machine until it is closed.

    Args:
        backends: Ports of this machine.
    """

    def __init__(self, backends):
        self._turns = itertools.cycle(backends)
        self._tries = len(backends)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in self._open:
            each.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                front, _ = self._listening.accept()
                for _ in range(self._tries):
                    with contextlib.suppress(OSError):
                        back = socket.create_connection(("127.0.0.1", next(self._turns)), 1)
                        self._open += [front, back]
                        for one, other in ((front, back), (back, front)):
                            threading.Thread(target=_copy, args=(one, other), daemon=True).start()
                        break
                else:
                    front.close()


def _copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
