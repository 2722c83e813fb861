"""Progress in a notebook: one table that grows by a row a phase, redrawn in place."""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autosplit.core.progress import Advance, clock, timed

__all__ = ["NotebookProgress"]

_REDRAWN_S = 0.2  # at most so often: every drawing is a message to the browser
_WORTH_A_ROW_S = 0.1  # of a phase within another, once it is done


@dataclass(eq=False)
class _Row:
    """A phase as it is shown."""

    title: str
    depth: int
    total: float | None
    began: float
    done: float = 0.0
    note: str = ""
    ended: str = ""
    seconds: float = 0.0


class NotebookProgress:
    """Phases with bars, as HTML without script, so that a saved notebook shows how they ended."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._depth = 0
        self._drawn = 0.0
        self._handle: Any = None

    @contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """See `autosplit.report.progress.Progress.phase`."""
        row = _Row(title, self._depth, total, time.monotonic())
        self._rows.append(row)
        self._depth += 1
        self._draw()

        def advance(steps: float = 1, note: str = "") -> None:
            row.done, row.note = row.done + steps, note or row.note
            if time.monotonic() - self._drawn >= _REDRAWN_S:
                self._draw()

        def end(ending: str, seconds: float) -> None:
            self._depth -= 1
            row.ended, row.seconds = ending, seconds
            if row.depth and ending == "done" and seconds < _WORTH_A_ROW_S:
                self._rows.remove(row)
            self._draw()

        with timed(end):
            yield advance

    def html(self) -> str:
        """The table as it is now."""
        rows = "".join(f"<tr>{''.join(f'<td style=text-align:left>{cell}</td>' for cell in self._cells(row))}</tr>"
                       for row in self._rows)
        return f"<table>{rows}</table>"

    def _cells(self, row: _Row) -> tuple[str, str, str, str]:
        indent = "&nbsp;" * 4 * row.depth
        title, note = indent + html.escape(row.title), html.escape(row.note)
        if row.ended:
            full = 'value="1"' if row.ended == "done" else f'value="{self._share(row) or 0:.3f}"'
            return title, f"<progress {full}></progress>", f"{row.ended} after {row.seconds:.1f} s", note
        share, so_far = self._share(row), time.monotonic() - row.began
        left = so_far * (1 - share) / share if share else None
        value = "" if share is None else f' value="{share:.3f}"'
        return (title, f"<progress{value}></progress>",
                f"{clock(so_far)} so far, {clock(left)} left", note)

    @staticmethod
    def _share(row: _Row) -> float | None:
        return min(1.0, row.done / row.total) if row.total else None

    def _draw(self) -> None:
        shown: Any = importlib.import_module("IPython.display")  # there is no notebook without it
        self._drawn = time.monotonic()
        if self._handle is None:
            self._handle = shown.display(shown.HTML(self.html()), display_id=True)
        else:
            self._handle.update(shown.HTML(self.html()))
