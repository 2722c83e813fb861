"""How a command ends from outside: by a signal, or because nobody reads its output any more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["abandon_stdout", "ended_by_signal", "interrupted_by_signals"]

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not on Windows


@contextlib.contextmanager
def ended_by_signal() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; afterwards they do what they did before."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield ended
        return
    # a signal that is ignored stays so: nohup ignores SIGHUP
    before = {number: signal.signal(number, end) for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupted_by_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, from here to the end of the process."""
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def abandon_stdout() -> None:
    """Send what is still to be written nowhere, where the reader of a pipe has left, as in `... | head`."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # or the interpreter complains when it writes the rest at its end
    os.close(nowhere)
