"""The processor that computes: its name, and what its arithmetic depends on."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["arithmetic_key", "processor_name"]


@cache
def processor_name() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return (names[0] if names else "") or platform.processor() or platform.machine() or "an unknown processor"


def arithmetic_key() -> str:
    """What the last bits of a sum of floats depend on here: torch, its vector instructions, the processor.

    Measurements on one processor are not those on another: some compute parts of a network in bfloat16, and each adds
    in an order of its own.
    """
    import torch

    return f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {processor_name()}"
