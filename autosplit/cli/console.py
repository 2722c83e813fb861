"""How a command speaks: results on stdout, everything else on stderr, an error as one line and an exit code."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from autosplit.core.errors import AutosplitError
from autosplit.core.extras import install_command

__all__ = ["EXIT_INFEASIBLE", "EXIT_INTERRUPTED", "RESULTS", "State", "announce", "goes_on", "print_error",
           "print_rich", "reported", "say", "say_next"]

EXIT_INFEASIBLE = 3
EXIT_INTERRUPTED = 130
RESULTS = Path("results")
_LONGEST_ERROR = 500  # characters: some causes quote whole files

P = ParamSpec("P")
R = TypeVar("R")


class State:
    """Options given before the command.

    Attributes:
        debug: Whether errors show their traceback.
    """

    debug = False


def say(text: str) -> None:
    """Write a line for people to stderr."""
    typer.echo(text, err=True)


def announce(estimate: str | None) -> None:
    """Write to stderr what will be done and about how long it takes; nothing where nobody can tell."""
    if estimate:
        say(f"estimate: {estimate}")


def say_next(*commands: str) -> None:
    """Write what one would do next to stderr, a command a line; each may end in `  # why`.

    Args:
        commands: Without the program's name, as in `replay results/best.json`; others as they are, after a `$ `.
    """
    # `python -m autosplit` is for those who have no script `autosplit` on the path
    program = "python -m autosplit" if Path(sys.argv[0]).parts[-2:] == ("autosplit", "__main__.py") else "autosplit"
    for command in commands:
        say(f"next: {command.removeprefix('$ ') if command.startswith('$ ') else f'{program} {command}'}")


def print_error(error: Exception, where: str = "") -> None:
    """Write an error as one line of printable characters to stderr."""
    text = " ".join(f"{where}{error}".split())
    text = "".join(c if c.isprintable() else "?" for c in text)  # a name may hold codes that a terminal obeys
    say(f"error: {text if len(text) <= _LONGEST_ERROR else f'{text[:_LONGEST_ERROR - 4]} ...'}")


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors of a command into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AutosplitError as e:
            if State.debug:
                traceback.print_exc()
            print_error(e)
            raise typer.Exit(e.exit_code) from e
        except ModuleNotFoundError as e:
            if e.name != "zmq":  # the one optional package that is imported without a look whether it is there
                raise
            say(f"error: serving needs the package zmq: {install_command('deploy')}")
            raise typer.Exit(AutosplitError.exit_code) from e
        except KeyboardInterrupt as e:
            say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from e
        except BrokenPipeError as e:  # `autosplit show RUN | head`
            sys.stderr.close()
            raise typer.Exit(0) from e

    return run


@contextmanager
def goes_on(kept: Callable[[], str]) -> Iterator[None]:
    """End with the exit code of an interrupted command, and say that the same command continues it.

    Args:
        kept: Says what is kept, such as "the searches that are done are in out".
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; {kept()}, and the same command goes on from there")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def print_rich(*items: Any) -> None:
    """Print tables and text on stdout."""
    from rich.console import Console

    # a file or a pipe has no width; tables of 120 columns are what the pages show
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for item in items:
        console.print(item)
