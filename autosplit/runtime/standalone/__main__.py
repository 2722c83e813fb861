"""`python -m coinference` in a bundle: each sub-command is a function that adds its own arguments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .commands import add_commands
from .errors import AutosplitError

__all__ = ["main"]

Command = Callable[[argparse.Namespace], int]

_MISMATCH = 4
_INTERRUPTED = 130
_HOME = Path(__file__).resolve().parents[1]


def _check_parser(commands: Any) -> None:
    parser = commands.add_parser("check", help="run the images in the bundle and compare with what was recorded")
    add_bundle(parser)
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime [1]")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.set_defaults(command=_check)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The argument that every sub-command takes."""
    parser.add_argument("bundle", nargs="?", type=Path, default=_HOME, help="folder of the bundle [this one]")


def _check(options: argparse.Namespace) -> int:
    from .bundle.check import check

    found = check(options.bundle, options.threads)
    if options.json:
        figures = {name: value for name, value in asdict(found).items() if name != "manifest"}
        print(json.dumps({"plan": found.manifest.label, "passed": found.passed, **figures}))
    else:
        print(f"plan      {found.manifest.label}")
        print(f"labels    {found.labels_equal} of {found.answers} as recorded")
        print(f"payloads  {found.payloads_equal} of {found.answers} equal to the byte"
              + ("" if found.manifest.exact else " (floating point and image libraries may differ in the last bits)"))
        if found.fallback_equal is not None:
            print(f"fallback  {found.fallback_equal} of {found.images} labels as recorded")
        print(f"logits    differ by at most {found.logit_error:.2g}")
    if not found.passed:
        print("error: this bundle does not answer as recorded; use the onnxruntime that the manifest names",
              file=sys.stderr)
    return 0 if found.passed else _MISMATCH


_COMMANDS: tuple[Callable[[Any], None], ...] = (_check_parser, add_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; gives the exit code: 0 done, 2 wrong input, 4 another answer than recorded."""
    parser = argparse.ArgumentParser(prog="python -m coinference", description="Run a bundle of autosplit.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except AutosplitError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
