"""Hugging Face's hub: which names mean a folder instead, whether it can be reached, and how to do without."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

__all__ = ["HUB", "means_a_folder", "offline", "reachable"]

HUB = "huggingface.co"
"""Where it is."""

_PATIENCE_S = 5.0


def means_a_folder(name: str) -> bool:
    """Whether a name cannot be one of the hub, which are `NAME` and `OWNER/NAME`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def reachable() -> bool:
    """Whether something can be downloaded from it."""
    try:
        socket.create_connection((HUB, 443), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


@contextmanager
def offline(module: str) -> Iterator[None]:
    """No network for a package that asks the hub: what is in its cache is all there is.

    Args:
        module: That holds the package's constant `HF_HUB_OFFLINE`.
    """
    with mock.patch.object(importlib.import_module(module), "HF_HUB_OFFLINE", True):
        yield
