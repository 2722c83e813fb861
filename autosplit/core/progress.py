"""How code with long phases reports them; `autosplit.report.progress` shows them to a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "NullProgress", "PhaseReporter", "clock", "ignore", "timed"]


class Advance(Protocol):
    """What a phase calls as it proceeds."""

    def __call__(self, steps: float = 1, note: str = "") -> None:
        """Report work.

        Args:
            steps: Steps done since the last call, in the unit of the phase's total; 0 changes the note only.
            note: The present state in a few words, such as `val 97.1 %`; empty keeps the last one.
        """
        ...


class PhaseReporter(Protocol):
    """What code with long phases takes; satisfied by `Progress` and `NullProgress`."""

    def phase(self, title: str, total: float | None = None) -> AbstractContextManager[Advance]:
        """A context that lasts as long as the phase and gives the function to report its steps with.

        Args:
            title: What is done, such as `train backbone`.
            total: Number of steps, or `None` when unknown.
        """
        ...


class NullProgress:
    """Shows no progress; the default of library functions."""

    @contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Advance]:  # noqa: ARG002
        """A phase that nobody watches."""
        yield ignore


@contextmanager
def timed(on_end: Callable[[str, float], None]) -> Iterator[None]:
    """Call something at the end of a phase, however it ends.

    Args:
        on_end: Called with `done`, `failed` or `interrupted`, and the seconds that it took.
    """
    began, ending = time.monotonic(), "done"
    try:
        yield
    except BaseException as error:
        ending = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        on_end(ending, time.monotonic() - began)


def clock(seconds: float | None) -> str:
    """A time as `1:23` or `1:02:03`; dashes where it is not known yet."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ignore(steps: float = 1, note: str = "") -> None:
    """Accept a step and do nothing with it."""
