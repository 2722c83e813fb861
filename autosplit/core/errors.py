"""The errors that autosplit raises on purpose; the command line catches them once and prints one line.

Every class is also the builtin exception that a caller would expect, so that a library user can write
`except ValueError` without knowing this module. Those that a deployment raises where autosplit is not installed are
defined in `autosplit.runtime.standalone.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
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
    "UntrustedCodeError",
    "WorkerError",
    "nearest_name",
    "unwritable",
]

_SHOWN_NAMES = 12
_SHOWN_OF_MANY = 6  # torchvision alone has 80 networks
_LEAST_ALIKE, _LEAST_ALIKE_SHORT = 0.75, 0.66  # one letter of three differs; below, suggestions are nonsense
_SHORT = 4


class UnknownNameError(ConfigError, LookupError):
    """A name is in no registry.

    Args:
        kind: What was looked for, in the singular ("device", "channel").
        name: The name that was asked for.
        known: The names that exist.
        hint: What to write instead, where the caller can tell; it takes the place of the nearest name.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = nearest_name(name, names)
        if hint or near:
            hint = f"; {hint}" if hint else f"; did you mean {near!r}?"
        shown = names
        if len(names) > _SHOWN_NAMES:
            shown = sorted(names, key=lambda known: -_likeness(name, known))[:_SHOWN_OF_MANY]
        more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {', '.join(shown) or 'none'}{more})")
        self.kind, self.name, self.known = kind, name, names


class WorkerError(AutosplitError, RuntimeError):
    """A piece of work killed the process that did it, again and again; or nobody is left to do it."""


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


class UntrustedCodeError(ConfigError, PermissionError):
    """A file names code that never ran here and that nobody vouched for."""


class ReplayMismatchError(AutosplitError, RuntimeError):
    """A replayed deployment does not give what the result file recorded."""

    exit_code = 4


class ParityError(AutosplitError, RuntimeError):
    """An exported bundle does not answer as its deployment does."""

    exit_code = 4


class ResumeError(AutosplitError, RuntimeError):
    """A run directory cannot be continued by this scenario."""

    exit_code = 5


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or `None` where none is near enough for a suggestion.

    Near are names that hold the one that was asked for ("digits" is in "digits-m"), or are held by it, and those that
    differ by a slip of the keyboard.
    """
    asked = _letters(name)
    least = _LEAST_ALIKE_SHORT if len(asked) <= _SHORT else _LEAST_ALIKE

    def is_near(candidate: str) -> bool:
        letters = _letters(candidate)
        shorter, longer = sorted((asked, letters), key=len)
        # two or three letters are in many words by chance
        inside = len(shorter) >= _SHORT and shorter in longer
        return inside or (bool(letters) and _likeness(name, candidate) >= least)

    return max(filter(is_near, known), key=lambda candidate: _likeness(name, candidate), default=None)


def _letters(name: str) -> str:
    """A name without what people write differently: capitals, hyphens, underscores."""
    return "".join(c for c in name.lower() if c.isalnum())


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, as `difflib` has it."""
    return SequenceMatcher(None, _letters(one), _letters(other)).ratio()


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The error to raise where an output folder cannot be made or written."""
    return ConfigError(f"cannot write to {folder}: {error.strerror or error}; choose a folder you may write to with "
                       "--out")
