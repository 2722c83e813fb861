import io

import pytest
from rich.console import Console

from autosplit.core.progress import NullProgress
from autosplit.report.progress import Progress


def terminal(width=120):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None,
                   _environ={"TERM": "xterm"})


def plain():
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def test_bar_shows_title_share_and_note():
    console = terminal()
    with Progress(console=console).phase("train backbone", total=4) as advance:
        for step in range(4):
            advance(1, note=f"val {96 + step} %")
    text = console.file.getvalue()
    assert "train backbone" in text
    assert "100%" in text
    assert "val 99 %" in text
    assert "left" in text


def test_one_plain_line_a_phase_without_a_terminal():
    console = plain()
    progress = Progress(console=console)
    with progress.phase("train backbone", total=4) as advance:
        advance(4, note="val 97.1 %")
        advance()
    with progress.phase("search [1/2]"):
        pass
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("train backbone: done after 0.0 s (val 97.1 %)")
    assert second.startswith("search [1/2]: done after")


def test_quiet_says_nothing(capfd):
    with Progress(quiet=True).phase("x", total=1) as advance:
        advance(1, note="y")
    assert capfd.readouterr() == ("", "")


def test_default_console_is_stderr(capfd):
    with Progress().phase("x", total=1) as advance:
        advance()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("x: done")


@pytest.mark.parametrize("make", [terminal, plain])
def test_nested_phases_and_a_second_use(make):
    console = make()
    progress = Progress(console=console)
    for _ in range(2):
        with progress.phase("outer", total=2) as outer:
            for _ in range(2):
                with progress.phase("inner") as inner:
                    inner(3, note="[bold]raw")
                outer()
    text = console.file.getvalue()
    assert "outer" in text
    assert "inner" in text
    assert "[bold]raw" in text


@pytest.mark.parametrize("make", [terminal, plain])
@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_exceptions_pass_through_and_are_marked(make, error, word):
    console = make()
    progress = Progress(console=console)

    def work():
        with progress.phase("outer", 2), progress.phase("inner", 2) as advance:
            advance(1, note="half")
            raise error

    with pytest.raises(error):
        work()
    assert word in console.file.getvalue()
    with progress.phase("after", 1) as advance:  # usable again
        advance()
    assert "after" in console.file.getvalue()


def test_data_on_stdout_is_not_captured_by_the_bars(capfd):
    with Progress(console=terminal()).phase("x", 1):
        print("data")
    assert capfd.readouterr().out == "data\n"


def test_steps_beyond_the_total_do_no_harm():
    with Progress(console=terminal()).phase("x", 1) as advance:
        advance(5)


def test_null_progress_takes_the_same_calls(capfd):
    with NullProgress().phase("x", total=3) as advance:
        advance(1, note="n")
        advance()
    assert capfd.readouterr() == ("", "")
