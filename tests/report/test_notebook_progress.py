"""Progress in a notebook: a table that grows by a row a phase."""

from __future__ import annotations

import pytest

from autosplit.report import notebook_progress
from autosplit.report.notebook_progress import NotebookProgress
from autosplit.report.progress import Progress


class Display:
    """What IPython shows, without it."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, text: str) -> None:
        self.shown.append(text)

    def __call__(self, text: str, display_id: bool) -> Display:
        assert display_id
        self.update(text)
        return self


@pytest.fixture
def display(monkeypatch):
    ipython = pytest.importorskip("IPython.display", reason="needs ipykernel: pip install '.[dev]'")
    shown = Display()
    monkeypatch.setattr(ipython, "display", shown)
    monkeypatch.setattr(ipython, "HTML", str)
    return shown


@pytest.fixture
def time(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(notebook_progress.time, "monotonic", lambda: now[0])
    return now


def test_phases_are_rows_with_bars_and_the_time_left(display, time):
    progress = NotebookProgress()
    with progress.phase("train <the> backbone", total=4) as advance:
        time[0] += 10
        advance(1, note="loss 0.5")
        assert 'value="0.250"' in display.shown[-1]
        assert "0:10 so far, 0:30 left" in display.shown[-1]
        assert "train &lt;the&gt; backbone" in display.shown[-1]
        with progress.phase("of no time"):
            assert "of no time" in display.shown[-1]
        with progress.phase("inner"):
            time[0] += 1
            assert "<progress></progress>" in display.shown[-1]
            assert "&nbsp;&nbsp;&nbsp;&nbsp;inner" in display.shown[-1]
    assert display.shown[-1].count('<progress value="1"></progress>') == 2
    assert "done after 11.0 s</td><td style=text-align:left>loss 0.5" in display.shown[-1]
    with progress.phase("next"):
        pass
    assert display.shown[-1].count("<tr>") == 3
    assert "of no time" not in display.shown[-1]


def test_it_is_not_drawn_at_every_step(display, time):
    with NotebookProgress().phase("search", total=1000) as advance:
        for _ in range(500):
            time[0] += 0.01
            advance(2)
    assert 20 <= len(display.shown) <= 30  # five seconds


@pytest.mark.parametrize(("error", "words"), [(ValueError, "failed after"), (KeyboardInterrupt, "interrupted after")])
def test_what_ends_early_says_so(display, time, error, words):
    progress = NotebookProgress()

    def train():
        with progress.phase("train", total=4) as advance:
            advance(2)
            raise error

    with pytest.raises(error):
        train()
    assert words in display.shown[-1]
    assert 'value="0.500"' in display.shown[-1]


def test_a_notebook_is_known_by_its_console(display):
    class Console:
        is_jupyter, is_terminal, is_dumb_terminal = True, False, False

    with Progress(console=Console()).phase("load data"):  # type: ignore[arg-type]
        pass
    assert "load data" in display.shown[-1]
