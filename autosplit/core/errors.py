"""The errors that autosplit raises on purpose; the command line catches them once and prints one line.

Every class is also the builtin exception that a caller would expect, so that a library user can write
`except ValueError` without knowing this module. Those that a deployment raises where autosplit is not installed are
defined in `autosplit.runtime.standalone.errors`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from autosplit.runtime.standalone.errors import (
    AutosplitError,
    BundleError,
    ConfigError,
    LinkError,
    PayloadError,
    ResultError,
)

__all__ = [
    "AutosplitError",
    "BundleError",
    "ConfigError",
    "DataError",
    "LinkError",
    "ParityError",
    "PayloadError",
    "PluginError",
    "PruningError",
    "ReplayMismatchError",
    "ResultError",
    "ResumeError",
    "SplitError",
    "TraceError",
    "UnknownNameError",
    "unwritable",
]

_SHOWN_NAMES = 12


class UnknownNameError(ConfigError, LookupError):
    """A name is in no registry.

    Args:
        kind: What was looked for, in the singular ("device", "channel").
        name: The name that was asked for.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = names if len(names) <= _SHOWN_NAMES else difflib.get_close_matches(name, names, _SHOWN_NAMES, cutoff=0)
        more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {', '.join(shown) or 'none'}{more})")
        self.kind, self.name, self.known = kind, name, names


class DataError(AutosplitError, OSError):
    """A data set is absent, unreadable or too small."""


class TraceError(AutosplitError, TypeError):
    """torch.fx cannot trace a network; the message names the node or module."""


class SplitError(ConfigError):
    """A split point does not exist in this backbone."""


class PruningError(AutosplitError, RuntimeError):
    """Structured pruning of a network failed or was refused; the message names the layer."""


class PluginError(AutosplitError, RuntimeError):
    """A user's plugin could not be loaded, raised, or gave an impossible answer."""


class ReplayMismatchError(AutosplitError, RuntimeError):
    """A replayed deployment does not give what the result file recorded."""

    exit_code = 4


class ParityError(AutosplitError, RuntimeError):
    """An exported bundle does not answer as its deployment does."""

    exit_code = 4


class ResumeError(AutosplitError, RuntimeError):
    """A run directory cannot be continued by this scenario."""

    exit_code = 5


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The error to raise where an output folder cannot be made or written."""
    return ConfigError(f"cannot write to {folder}: {error.strerror or error}; choose a folder you may write to with "
                       "--out")
