"""What all commands share: errors as one line, exit codes, results on stdout and talk on stderr."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from autosplit.core.errors import AutosplitError, ConfigError, PluginError
from autosplit.core.extras import install_command

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario

__all__ = ["EXIT_INFEASIBLE", "EXIT_INTERRUPTED", "RESULTS", "AsJson", "BudgetMs", "DataRoot", "Quiet", "Set", "State",
           "assignments", "changed", "print_rich", "reported", "runtime_commands", "say"]

EXIT_INFEASIBLE = 3
EXIT_INTERRUPTED = 130
RESULTS = Path("results")

BudgetMs = Annotated[float | None, typer.Option(help="Deadline of one inference, end to end.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other key: space.splits=all, "
                                                             "training.backbone_epochs=5.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that data sets lie in.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]

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


def runtime_commands() -> ModuleType:
    """The module with `serve` and `infer`.

    Raises:
        PluginError: The extra `deploy` is not installed.
    """
    from autosplit.runtime.standalone import commands

    try:
        import zmq  # noqa: F401
    except ModuleNotFoundError as e:
        raise PluginError(f"serving needs the package {e.name}: {install_command('deploy')}") from e
    return commands


def changed(
    scenario: Scenario, options: dict[str, Any], assigned: dict[str, Any], *, rename: bool = True
) -> Scenario:
    """A scenario with the options of the command line.

    Args:
        scenario: As loaded.
        options: By dotted keys; `None` = left out.
        assigned: What `--set` gave, which wins.
        rename: Whether another data set or backbone gives the scenario a name made of the two.
    """
    changes = {key: value for key, value in options.items() if value is not None} | assigned
    if rename and {"dataset", "backbone"} & set(changes):
        parts = (str(changes.get(key, getattr(scenario, key))) for key in ("dataset", "backbone"))
        changes = {"name": "-".join(_slug(part) for part in parts)} | changes
    return scenario.replace(**changes) if changes else scenario


def _slug(text: str) -> str:
    stem = Path(text.split(":", 1)[-1].split(".py")[0]).name or text
    return "".join(c if c.isalnum() or c in "._" else "-" for c in stem).strip("-.") or "custom"


def assignments(items: Sequence[str] | None) -> dict[str, Any]:
    """The values of `--set key=value`, each read as YAML.

    Raises:
        ConfigError: There is no key, or the value is no YAML.
    """
    import yaml

    found = {}
    for item in items or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item!r}: write it as key=value, such as space.splits=all")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {item!r}: the value is not valid YAML") from e
    return found
