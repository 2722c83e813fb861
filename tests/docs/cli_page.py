"""docs/cli.md, generated from the same objects that print `--help`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from autosplit.cli.app import app

HEAD = """# Command line

Every command with its arguments and options, generated from `--help` (by `python -m tests.test_docs`; do not edit).
`autosplit COMMAND -h` prints the same. Options marked *repeatable* may be given several times. Data go to stdout,
progress and messages to stderr; exit codes are explained in [results.md](results.md#exit-codes).
"""


def cli_page() -> str:
    """The page, as Markdown."""
    group = typer.main.get_command(app)
    parts = [HEAD, *(_section(name, command) for name, command in _commands("autosplit", group))]
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, found in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {child}", found)


def _section(name: str, command: Any) -> str:
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    title = " ".join([name, *(p.name.upper() for p in arguments)])
    lines = [f"## {title}", "", " ".join((command.help or "").split()), ""]
    rows = [_row(p) for p in shown if _names(p)]
    if rows:
        lines += ["| argument or option | default | meaning |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.name.upper()}`"
    names = [o for o in [*param.opts, *param.secondary_opts] if o not in {"--install-completion", "--show-completion"}]
    return ", ".join(f"`{o}`" for o in names)


def _row(param: Any) -> str:
    many = " (repeatable)" if getattr(param, "multiple", False) or param.nargs == -1 else ""
    default = "*required*" if param.required else _default(param)
    meaning = " ".join((getattr(param, "help", None) or "").split()).replace("|", "\\|")
    return f"| {_names(param)}{many} | {default} | {meaning} |"


def _default(param: Any) -> str:
    value = param.default
    if value is None or callable(value) or isinstance(value, (bool, tuple, list)) or not str(value) \
            or type(value).__name__ in {"Sentinel", "UNSET"}:
        return ""
    return f"`{getattr(value, 'value', value)}`"
