"""The C compiler of this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from .errors import BundleError, printable

__all__ = ["compiler", "run_checked"]

_COMPILERS = ("cc", "gcc", "clang")
_LIMIT_S = 300
_SHOWN = 200  # characters of a compiler's message


def compiler() -> str | None:
    """A C compiler of this machine."""
    return next((found for found in map(shutil.which, _COMPILERS) if found), None)


def run_checked(command: Sequence[str], otherwise: str) -> str:
    """Run a compiler, or what it made; gives what that prints.

    Args:
        command: With its arguments.
        otherwise: What the user may do instead, for the message where it never ends.

    Raises:
        BundleError: It fails, or takes more than five minutes.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise BundleError(f"{command[0]} took more than {_LIMIT_S} s; {otherwise}") from None
    if done.returncode:
        raise BundleError(f"{command[0]} ended with {done.returncode} on the C sources: "
                          f"{printable(done.stderr or done.stdout, _SHOWN)}")
    return done.stdout
