"""The command line: `autosplit search`, `compare`, `replay`, `list`, `show`. One thin module a command."""

from __future__ import annotations

from autosplit.cli.app import main

__all__ = ["main"]
