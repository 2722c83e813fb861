"""The errors of a running deployment; `autosplit.core.errors` holds these same classes and all others."""

from __future__ import annotations

__all__ = ["AutosplitError", "BundleError", "ConfigError", "LinkError", "PayloadError", "ResultError"]


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
