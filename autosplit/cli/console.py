"""How a command speaks: results on stdout, everything else on stderr, an error as one line and an exit code."""

from __future__ import annotations

import functools
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from autosplit.core.errors import AutosplitError
from autosplit.core.extras import install_command
from autosplit.runtime.standalone.errors import error_line, escaped
from autosplit.runtime.standalone.signals import abandon_stdout

__all__ = ["EXIT_FAULT", "EXIT_INFEASIBLE", "EXIT_INTERRUPTED", "RESULTS", "OneLineGroup", "State", "announce",
           "goes_on", "print_error", "print_rich", "quoted", "reported", "say", "say_next"]

EXIT_FAULT = 1
EXIT_INFEASIBLE = 3
EXIT_INTERRUPTED = 130
RESULTS = Path("results")

P = ParamSpec("P")
R = TypeVar("R")

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer names its own copy of click's nowhere else


class State:
    """Options given before the command.

    Attributes:
        debug: Whether errors show their traceback.
    """

    debug = False


class OneLineGroup(TyperGroup):
    """Commands whose wrong options are reported as all errors are, in one line."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; see `click.Command.main`."""
        if not options.pop("standalone_mode", True):
            return super().main(*args, **options | {"standalone_mode": False})
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except _UsageError as e:
            print_usage_error(e)
            code = AutosplitError.exit_code
        except typer.Abort:
            code = EXIT_FAULT
        sys.exit(code if isinstance(code, int) else 0)


def print_usage_error(error: Any) -> None:
    """Write what is wrong with the options to stderr, and which command's help lists them."""
    message = error.format_message()
    if "\n" in message:  # a group without a command: its help
        say(message)
        return
    path = error.ctx.command_path if error.ctx else "autosplit"
    message = message[:1].lower() + message[1:].rstrip(".")
    print_error(f"{message}{'' if message.endswith('?') else ';'} `{path} --help` lists what it takes")


def say(text: str) -> None:
    """Write a line for people to stderr."""
    with suppress(OSError):  # nobody reads it: the terminal was closed
        typer.echo(text, err=True)


def announce(estimate: str | None) -> None:
    """Write to stderr what will be done and about how long it takes; nothing where nobody can tell."""
    if estimate:
        say(f"estimate: {estimate}")


def quoted(path: str | Path) -> str:
    """A path as a shell takes it, for commands that are printed to be pasted."""
    return shlex.quote(str(path))


def say_next(*commands: str) -> None:
    """Write what one would do next to stderr, a command a line; each may end in `  # why`.

    Args:
        commands: Without the program's name, as in `replay results/best.json`; others as they are, after a `$ `.
    """
    # `python -m autosplit` is for those who have no script `autosplit` on the path
    program = "python -m autosplit" if Path(sys.argv[0]).parts[-2:] == ("autosplit", "__main__.py") else "autosplit"
    for command in commands:
        say(f"next: {command.removeprefix('$ ') if command.startswith('$ ') else f'{program} {command}'}")


def print_error(error: object, where: str = "") -> None:
    """Write an error as one line of printable characters to stderr."""
    say(error_line(f"{where}{error}"))


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors of a command into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            done = command(*args, **kwargs)
            sys.stdout.flush()  # here, where a closed pipe can be told from a fault
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as e:
            say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from e
        except BrokenPipeError as e:  # `autosplit show RUN | head`
            abandon_stdout()
            raise typer.Exit(0) from e
        except Exception as e:
            if State.debug:
                traceback.print_exc()
            message, code = _told(e)
            print_error(message)
            raise typer.Exit(code) from e
        return done

    return run


def _told(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, AutosplitError):
        return str(error), error.exit_code
    # the one optional package that is imported without a look whether it is there
    if isinstance(error, ModuleNotFoundError) and error.name == "zmq":
        return f"serving needs the package zmq: {install_command('deploy')}", AutosplitError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}", AutosplitError.exit_code
    if isinstance(error, MemoryError):
        return "not enough memory for this; choose smaller images, networks or spaces", AutosplitError.exit_code
    at = traceback.extract_tb(error.__traceback__)[-1]
    return (f"{type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno}): a fault of autosplit; "
            "please report it with the traceback, which `autosplit --debug COMMAND` shows"), EXIT_FAULT


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
    """Print tables and text on stdout; names in them come from files and are shown as they are, not obeyed."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # before columns get their widths
            return super().render_str("\n".join(map(escaped, text.split("\n"))), **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment("\n".join(map(escaped, text.split("\n"))), style, control)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # a file or a pipe has no width; tables of 120 columns are what the pages show
    console = Plain(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)
    for item in items:
        console.print(item)
