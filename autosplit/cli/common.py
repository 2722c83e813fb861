"""What all commands share: errors as one line, exit codes, results on stdout and talk on stderr."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer

from autosplit.errors import AutosplitError

__all__ = ["EXIT_INFEASIBLE", "EXIT_INTERRUPTED", "State", "reported", "say"]

EXIT_INFEASIBLE = 3
EXIT_INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")


class State:
    """Options given before the command.

    Attributes:
        debug: Whether errors show their traceback.
    """

    debug = False


def say(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors of a command into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AutosplitError as e:
            if State.debug:
                traceback.print_exc()
            say(f"error: {' '.join(str(e).split())}")
            raise typer.Exit(e.exit_code) from e
        except KeyboardInterrupt as e:
            say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from e
        except BrokenPipeError as e:  # `autosplit show RUN | head`
            sys.stderr.close()
            raise typer.Exit(0) from e

    return run


def print_rich(*items: Any) -> None:
    """Tables and text on stdout."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for item in items:
        console.print(item)
