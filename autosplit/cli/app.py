"""The Typer application and its entry point. Heavy libraries are imported by the commands, not here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli import (
    adapt,
    bench,
    compare,
    controller,
    export,
    gateway,
    infer,
    list_,
    map_,
    policy,
    profile,
    replay,
    report,
    search,
    serve,
    show,
)
from autosplit.cli.console import OneLineGroup, State
from autosplit.core.machine import keep_freed_memory
from autosplit.runtime.standalone.signals import interrupted_by_signals

__all__ = ["app", "main"]

app = typer.Typer(
    name="autosplit",
    cls=OneLineGroup,
    help="Find the best way to run a CNN on a weak device and an edge server: whether and where to cut it, what to "
         "prune, how to compress.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    """Read the options before the command."""
    State.debug = debug
    if version:
        from autosplit.core.version import __version__

        typer.echo(f"autosplit {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("no command is named")


_COMMANDS: dict[str, Callable[..., None]] = {
    "search": search.command, "compare": compare.command, "map": map_.command, "replay": replay.command,
    "report": report.command,
    "profile": profile.command, "export": export.command, "adapt": adapt.command, "list": list_.command,
    "show": show.command, "train-policy": policy.train, "decide": policy.decide,
    "train-controller": controller.command, "serve": serve.command,
    "infer": infer.command, "gateway": gateway.command,
}
for name, command in _COMMANDS.items():
    app.command(name=name)(command)
app.add_typer(bench.app)


def main() -> None:
    """Entry point of the console script."""
    interrupted_by_signals()
    keep_freed_memory()
    # modules beside the working directory can be named as `module:Name`; last, so that they hide nothing
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    # Threads that wait by spinning for long stall one another when anything else runs on the machine: with one busy
    # process on two cores a training step took 1,800 ms, with this short spin 230 ms (and 49 ms alone, where threads
    # that sleep at once take 58 ms). Read by OpenMP when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    app()
