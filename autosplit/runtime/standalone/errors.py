"""The errors of a running deployment; `autosplit.core.errors` holds these same classes and all others."""

from __future__ import annotations

__all__ = ["AutosplitError", "BundleError", "ConfigError", "LinkError", "PayloadError", "ResultError",
           "WorkerLostError", "error_line", "escaped", "printable"]

_LONGEST = 500  # characters of an error's line: some causes quote whole files
_END = 160  # of which so many show the end of the message, where the remedy stands


class AutosplitError(Exception):
    """Root of every error of autosplit.

    The message is one line: what was wrong, where, and what to do about it.

    Attributes:
        exit_code: Exit status of the command line when this error ends a command.
    """

    exit_code = 2


class ConfigError(AutosplitError, ValueError):
    """A scenario, profile, option or file of the user does not make sense."""


class PayloadError(AutosplitError, ValueError):
    """Bytes that are no payload of this deployment: truncated, altered or foreign."""


class ResultError(AutosplitError, ValueError):
    """A result file is truncated, of another schema version, or its weights are missing or altered."""


class BundleError(AutosplitError, ValueError):
    """A bundle is incomplete, altered, of another format version, or cannot run here."""


class LinkError(AutosplitError, ConnectionError):
    """The other end cannot be reached, does not answer in time, or refuses to answer."""


class WorkerLostError(AutosplitError, RuntimeError):
    """A process that computed died."""


def printable(text: object, most: int | None = None) -> str:
    """Text as one line that a terminal shows and does not obey: names in files come from anywhere.

    Args:
        text: What to show.
        most: Most characters; what is longer loses its middle. Any number when left out.
    """
    line = escaped(" ".join(str(text).split()))
    if most is None or len(line) <= most:
        return line
    end = min(_END, most // 3)
    return f"{line[:most - end - 5]} ... {line[-end:]}"


def escaped(text: str) -> str:
    """Text with what is not printable as Python writes it in strings."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def error_line(error: object) -> str:
    """The line on stderr that ends a command."""
    return printable(f"error: {error}", _LONGEST)
