"""What this machine computes with, for the source of what was timed on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["processor_name"]


@cache
def processor_name() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return (names[0] if names else "") or platform.processor() or platform.machine() or "an unknown processor"
