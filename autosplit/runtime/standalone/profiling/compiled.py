"""How long the C sources of a bundle take: compiled and run here, or timed on a board by the same program."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, ConfigError, printable
from ..files import read_text

__all__ = ["Steps", "read_steps", "run_steps"]

_COMPILERS = ("cc", "gcc", "clang")
_SOURCES = ("network.c", "kernels.c", "payload.c", "time.c")
_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-DAUTOSPLIT_TIMED")
_LIMIT_S = 300
_SHOWN = 200  # characters of a compiler's message
_END = "timed"


@dataclass(frozen=True)
class Steps:
    """What `time.c` printed.

    Attributes:
        seconds: Of each step that ran, by its number.
        payload_seconds: Of the payload coder at each rate that sent something.
    """

    seconds: dict[str, float]
    payload_seconds: dict[int, float]


def run_steps(sources: Path) -> Steps:
    """Compile the program that times the C sources of a bundle, and run it here.

    Args:
        sources: The bundle's folder `c`.

    Raises:
        ConfigError: There is no C compiler here.
        BundleError: There are no C sources, or they do not compile or run here.
    """
    if not (sources / "time.c").is_file():
        raise BundleError(f"{sources}: no C sources that can be timed; export the bundle with --target c")
    compiler = next((found for found in map(shutil.which, _COMPILERS) if found), None)
    if compiler is None:
        raise ConfigError("no C compiler here (cc, gcc or clang); install one, or take --engine onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "time")
        _checked([compiler, *_FLAGS, f"-I{sources}", *(str(sources / name) for name in _SOURCES), "-o", program])
        return _steps("what the C sources print", _checked([program]), 1e-9)


def read_steps(log: Path, clock_mhz: float) -> Steps:
    """What the program printed on a board, from a log of its serial line; lines of others are passed over.

    Args:
        log: The text.
        clock_mhz: Ticks a microsecond of the counter that it read, above 0.

    Raises:
        ConfigError: The file cannot be read, or does not hold all that the program prints.
    """
    return _steps(str(log), read_text(log, f"log {str(log)!r}"), 1e-6 / clock_mhz)


def _steps(what: str, text: str, tick_s: float) -> Steps:
    steps: dict[str, float] = {}
    payloads: dict[int, float] = {}
    ended = False
    for line in text.splitlines():
        words = line.split()
        if words == [_END]:
            ended = True
        if len(words) == 3 and words[0] in {"step", "payload"} and all(w.isdecimal() for w in words[1:]):
            if words[0] == "step":
                steps[str(int(words[1]))] = int(words[2]) * tick_s
            else:
                payloads[int(words[1])] = int(words[2]) * tick_s
    if not steps or not ended:
        raise ConfigError(f"{what}: {'its last line is missing' if steps else 'no line such as step 0 1234'}; "
                          "give all that the program time.c prints")
    return Steps(steps, payloads)


def _checked(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise BundleError(f"{command[0]} took more than {_LIMIT_S} s; take --engine onnxruntime") from None
    if done.returncode:
        raise BundleError(f"{command[0]} ended with {done.returncode} on the C sources: "
                          f"{printable(done.stderr or done.stdout, _SHOWN)}")
    return done.stdout
