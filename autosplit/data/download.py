"""Downloads, with one clear error where there is no network."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import TypeVar

import platformdirs

from autosplit.core.errors import DataError

__all__ = ["data_root", "download"]

_T = TypeVar("_T")
_TIMEOUT_S = 30.0


def data_root(root: Path | None) -> Path:
    """The folder that data sets are downloaded to: `root`, or the user's cache folder of autosplit."""
    return root if root is not None else platformdirs.user_cache_path("autosplit") / "data"


def download(name: str, action: Callable[[], _T], remedy: str) -> _T:
    """Run a download of torchvision's.

    What it prints goes to standard error, and a silent server is given up after 30 seconds.

    Args:
        name: Name of the data set, for the error message.
        action: Downloads the data set, or finds it already there.
        remedy: What the user can do without a network, in the imperative.

    Raises:
        DataError: The data set could neither be found nor downloaded.
    """
    timeout = socket.getdefaulttimeout()
    # torchvision sets none, so that a silent server would hang the program
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return action()
    except (OSError, RuntimeError, HTTPException, TarError, EOFError) as e:  # torchvision raises all of these
        reason = " ".join(str(e).split()) or type(e).__name__
        raise DataError(
            f"data set {name!r} is not on this machine and cannot be downloaded ({reason}): {remedy}"
        ) from e
    finally:
        socket.setdefaulttimeout(timeout)
