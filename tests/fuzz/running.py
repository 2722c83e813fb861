"""Runs a command on a mutant, and says what it did wrong."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from autosplit.cli.app import app
from autosplit.runtime.standalone.__main__ import main as coinference

CODES = {0, 2, 3, 4, 5}
"""Exit codes that the pages document, but for 1 (a fault of autosplit) and 130 (interrupted)."""

MOST_S, MOST_MB, MOST_CHARACTERS = 5.0, 500, 500
_HANGS_S = 30.0  # of wall time, where nothing is computed either
_FINE = re.compile(r"(warning|estimate|next): |.*: (done|failed) after ")


@cache
def _command() -> Any:
    """The whole command line, put together once: that takes ten times as long as a command."""
    import typer.main

    return typer.main.get_command(app)


def autosplit(*arguments: object) -> None:
    """`autosplit ARGUMENTS`."""
    _command()([str(a) for a in arguments], prog_name="autosplit")


def bundle(*arguments: object) -> None:
    """`python -m coinference ARGUMENTS`."""
    raise SystemExit(coinference([str(a) for a in arguments]))


class TookTooLongError(BaseException):
    """No `Exception`, so that nothing takes it for a damaged file."""


def faults(run: Callable[[], None]) -> tuple[list[str], str]:
    """What a command did that it must not do, and what it wrote to stderr; nothing wrong as a rule."""
    before_mb, stdout, stderr = _peak_mb(reset=True), io.StringIO(), io.StringIO()
    code: object = 0
    wrong: list[str] = []
    start_s = time.process_time()  # other tests run beside this one
    with _alarm(), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            run()
        except SystemExit as e:
            code = e.code or 0
        except TookTooLongError:
            wrong.append(f"has not ended after {_HANGS_S:g} s")
        except BaseException as e:  # a traceback, to whoever runs the command
            wrong.append(f"raised {type(e).__name__}: {e}"[:300])
    took_s, more_mb = time.process_time() - start_s, _peak_mb() - before_mb
    if code not in CODES:
        wrong.append(f"exit code {code}")
    lines = [line for line in stderr.getvalue().splitlines() if not _FINE.match(line)]
    if code and not wrong and len(lines) != 1:
        wrong.append(f"{len(lines)} lines on stderr")
    if not code and lines:
        wrong.append("lines on stderr of a command that succeeded")
    if any(len(line) > MOST_CHARACTERS or not line.isprintable() for line in stderr.getvalue().splitlines()):
        wrong.append("a line on stderr that is too long or not printable")
    if not all(line.isprintable() for line in stdout.getvalue().split("\n")):
        wrong.append("characters on stdout that a terminal obeys")
    if took_s > MOST_S:
        wrong.append(f"took {took_s:.1f} s")
    if more_mb > MOST_MB:
        wrong.append(f"took {more_mb:.0f} MB more")
    return wrong, stderr.getvalue()


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _HANGS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_mb(*, reset: bool = False) -> float:
    """Most memory that this process has had, from the last reset on."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
