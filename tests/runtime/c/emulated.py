"""Programs in C on an emulated microcontroller: a Cortex-M4 or M7 with the memory of an STM32L4R5, under QEMU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

__all__ = ["BOARD", "MISSING", "STRICT", "Core", "run"]

Core = Literal["m4", "m7"]

BOARD = Path(__file__).parent / "board"
"""Start code, linker script and the header `board.h`, which counts instructions."""

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
"""Flags under which autosplit's own C compiles."""

_COMPILER, _EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
MISSING = [tool for tool in (_COMPILER, _EMULATOR) if shutil.which(tool) is None]
"""What this machine lacks to run such programs."""

_FLAGS: dict[Core, tuple[str, ...]] = {
    "m4": ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"),
    "m7": ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"),
}
_MACHINES: dict[Core, str] = {"m4": "mps2-an386", "m7": "mps2-an500"}


def run(
    sources: Sequence[Path],
    include: Sequence[Path],
    folder: Path,
    core: Core,
    options: Sequence[str] = ("-O2",),
    *,
    limit_s: float = 120.0,
) -> str:
    """Compile a program, run it on the emulated board and return what it prints.

    It has newlib's `printf`, `malloc` and `math.h`, no input, and of `board.h` the number of instructions so far.

    Args:
        sources: C files, with a `main` that returns 0.
        include: Folders of their headers; that of `board.h` is added.
        folder: For the program itself, `program-<core>.elf`.
        core: The processor.
        options: More flags for the compiler.
        limit_s: Seconds after which the program is stopped.

    Raises:
        RuntimeError: It does not compile, does not fit the chip's memory, faults, or returns another number than 0.
        subprocess.TimeoutExpired: It takes too long.
    """
    program = folder / f"program-{core}.elf"
    headers = [f"-I{path}" for path in (BOARD, *include)]
    # no contraction of a * b + c: the same floating-point operations as on other machines
    _checked([_COMPILER, *_FLAGS[core], "-mthumb", "-mfloat-abi=hard", "-ffp-contract=off", "-ffunction-sections",
              "-fdata-sections", *options, *headers, str(BOARD / "start.c"), *map(str, sources), "-o", str(program),
              "-T", str(BOARD / "board.ld"), "-nostartfiles", "--specs=rdimon.specs", "-Wl,--gc-sections", "-lm"],
             limit_s)
    return _checked([_EMULATOR, "-M", _MACHINES[core], "-display", "none", "-serial", "none", "-monitor", "none",
                     "-icount", "shift=0", "-semihosting-config", "enable=on,target=native", "-kernel", str(program)],
                    limit_s)


def _checked(command: Sequence[str], limit_s: float) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} returned {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
