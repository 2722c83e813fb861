"""Memory that a process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from autosplit.core.machine import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for number in range(32):  # the first few may lie behind one another
    torch.ones(1 << 24)  # 64 MiB
    if number == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_of_a_freed_tensor_serves_the_next_one_without_new_pages() -> None:
    pages = 16 * 16_384
    assert _faults("given back") > 0.9 * pages
    assert _faults("kept") < 0.5 * pages
