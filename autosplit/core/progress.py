"""How code with long phases reports them; `autosplit.report.progress` shows them to a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "NullProgress", "PhaseReporter", "ending_of", "ignore"]


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


def ending_of(error: BaseException) -> str:
    """How a phase ended that an exception passed through, in a word."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def ignore(steps: float = 1, note: str = "") -> None:
    """Accept a step and do nothing with it."""
