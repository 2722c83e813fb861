"""Progress of long phases: bars with the time left on a terminal or in a notebook, else one line a phase on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autosplit.core.progress import Advance, clock, ignore, timed
from autosplit.report.notebook_progress import NotebookProgress
from autosplit.runtime.standalone.errors import printable

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
        quiet: Write nothing at all.
        console: Where to write; stderr by default.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console
        self._bars: Bars | None = None
        self._depth = 0
        self._notebook = NotebookProgress()

    @contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """A phase with a bar (terminal, notebook), a line at its end (neither) or nothing (quiet).

        Args:
            title: What is done, such as `train backbone`.
            total: Number of steps, or `None` when unknown.
        """
        if self._quiet:
            yield ignore
            return
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        shown = (self._notebook.phase(title, total) if self._console.is_jupyter else
                 self._bar(self._console, title, total) if live else _line(self._console, title))
        with shown as advance:
            yield advance

    @contextmanager
    def _bar(self, console: Console, title: str, total: float | None) -> Iterator[Advance]:
        bars = self._bars = self._bars or new_bars(console)
        text = f"{'  ' * self._depth}{printable(title)}".ljust(_DESCRIPTION_WIDTH)
        task = bars.add_task(text, total=total, note="")

        def advance(steps: float = 1, note: str = "") -> None:
            fields: Any = {"note": printable(note)} if note else {}
            bars.update(task, advance=steps, **fields)

        # Nested phases share the lines of one display, which the outermost one starts and stops.
        self._depth += 1
        if self._depth == 1:
            bars.start()

        def end(ending: str, _: float) -> None:
            if ending == "done":
                done = bars.tasks[bars.task_ids.index(task)].completed
                # A phase may end early or count no steps at all; its bar is full all the same.
                bars.update(task, total=total or done or 1, completed=total or done or 1)
            else:
                bars.update(task, note=ending)
            bars.stop_task(task)
            self._depth -= 1
            if self._depth == 0:
                bars.stop()
                self._bars = None

        with timed(end):
            yield advance


@contextmanager
def _line(console: Console, title: str) -> Iterator[Advance]:
    last = ""

    def advance(steps: float = 1, note: str = "") -> None:  # noqa: ARG001
        nonlocal last
        last = note or last

    def end(ending: str, seconds: float) -> None:
        note = f" ({last})" if last else ""
        line = f"{title}: {ending} after {seconds:.1f} s{note}"
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    with timed(end):
        yield advance


def new_bars(console: Console) -> Bars:
    """Bars with the share done, the time so far, the time left and a note, such as `0:34 so far, 0:12 left`."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Times(ProgressColumn):
        max_refresh = 0.5  # an estimate that changes with every step cannot be read

        def render(self, task: Task) -> Text:
            return Text(f"{clock(task.elapsed)} so far, {clock(task.time_remaining)} left", style="progress.elapsed")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        Times(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        console=console,
        # A step may take a minute; rich's default of 30 s would then never show an estimate.
        speed_estimate_period=3600,
        # Data goes to stdout and must not be captured into the bars on stderr.
        redirect_stdout=False,
    )

