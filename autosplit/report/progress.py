"""Progress of long phases on stderr: bars with the time left on a terminal, one plain line a phase elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autosplit.core.progress import Advance, ignore

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

__all__ = ["Progress"]

_DESCRIPTION_WIDTH = 24


class Progress:
    """Shows phases to a person.

    Phases may be nested: an inner one gets a line below the outer one. An exception that passes through marks
    the phase as failed (or interrupted), takes the bars down and goes on unchanged.

    Args:
        quiet: Say nothing at all.
        console: Where to write; stderr by default.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console
        self._bars: Bars | None = None
        self._depth = 0

    @contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """A phase with a bar (terminal), a line at its end (no terminal) or nothing (quiet).

        Args:
            title: What is done, such as `train backbone`.
            total: Number of steps, or `None` when unknown.
        """
        if self._quiet:
            yield ignore
            return
        console = self._console = self._console or _stderr()
        live = console.is_terminal and not console.is_dumb_terminal
        with self._bar_phase(console, title, total) if live else _line_phase(console, title) as advance:
            yield advance

    @contextmanager
    def _bar_phase(self, console: Console, title: str, total: float | None) -> Iterator[Advance]:
        bars = self._bars = self._bars or _new_bars(console)
        text = f"{'  ' * self._depth}{title}".ljust(_DESCRIPTION_WIDTH)
        task = bars.add_task(text, total=total, note="")

        def advance(steps: float = 1, note: str = "") -> None:
            if note:
                bars.update(task, advance=steps, note=note)
            else:
                bars.update(task, advance=steps)

        self._depth += 1
        if self._depth == 1:
            bars.start()
        try:
            yield advance
            done = bars.tasks[bars.task_ids.index(task)].completed
            bars.update(task, total=total or done or 1, completed=total or done or 1)
        except BaseException as error:
            bars.update(task, note=_ending(error))
            raise
        finally:
            bars.stop_task(task)
            self._depth -= 1
            if self._depth == 0:
                bars.stop()
                self._bars = None


@contextmanager
def _line_phase(console: Console, title: str) -> Iterator[Advance]:
    last = ""

    def advance(steps: float = 1, note: str = "") -> None:  # noqa: ARG001
        nonlocal last
        last = note or last

    start, ending = time.monotonic(), "done"
    try:
        yield advance
    except BaseException as error:
        ending = _ending(error)
        raise
    finally:
        note = f" ({last})" if last else ""
        line = f"{title}: {ending} after {time.monotonic() - start:.1f} s{note}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _ending(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _new_bars(console: Console) -> Bars:
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        console=console,
        # A step may take a minute; rich's default of 30 s would then never show an estimate.
        speed_estimate_period=3600,
        # Data goes to stdout and must not be captured into the bars on stderr.
        redirect_stdout=False,
    )
