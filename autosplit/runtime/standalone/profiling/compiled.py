"""How long the C sources of a bundle take: compiled and run here, or timed on a board by the same program."""

from __future__ import annotations

import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..compiling import compiler, run_checked
from ..errors import BundleError, ConfigError
from ..files import MOST_TEXT_BYTES, read_file
from .clock import ROUNDS

__all__ = ["Steps", "read_steps", "run_steps"]

_SOURCES = ("network.c", "kernels.c", "payload.c", "time.c")
_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-DAUTOSPLIT_TIMED")
_OTHERWISE = "take --engine onnxruntime"
_LINE = re.compile(r"\b(step|payload) (\d{1,6}) (\d{1,20}|-)(?!\S)")
_KEY = re.compile(r"\bbundle ([0-9a-f]{8})\b")
_MOST_TICKS = 1 << 31


@dataclass(frozen=True)
class Steps:
    """What `time.c` printed.

    Attributes:
        seconds: Of each step that ran, by its number.
        payload_seconds: Of the payload coder at each rate that sent something.
        processor_share: Of the time that it ran; `None` = not known.
    """

    seconds: dict[str, float]
    payload_seconds: dict[int, float]
    processor_share: float | None = None


def run_steps(sources: Path, key: str, steps: int, rates: int) -> Steps:
    """Compile the program that times the C sources of a bundle, and run it here, three times; the quickest counts.

    Args:
        sources: The bundle's folder `c`.
        key: Names the bundle, eight hexadecimal digits.
        steps: Of all networks.
        rates: Of the bundle, at least one.

    Raises:
        ConfigError: There is no C compiler here.
        BundleError: There are no C sources, or they do not compile or run here.
    """
    if not (sources / "time.c").is_file():
        raise BundleError(f"{sources}: no C sources that can be timed; export the bundle with --target c")
    cc = compiler()
    if cc is None:
        raise ConfigError("no C compiler here (cc, gcc or clang); install one, or take --engine onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "time")
        run_checked([cc, *_FLAGS, f"-I{sources}", *(str(sources / name) for name in _SOURCES), "-o", program],
                    _OTHERWISE)
        computed, begun = _children_s(), time.perf_counter()
        found = [_steps("what the C sources print", run_checked([program], _OTHERWISE), 1e-9, key, steps, rates)
                 for _ in range(ROUNDS)]
        passed, computed = time.perf_counter() - begun, _children_s() - computed
    return Steps({n: min(one.seconds[n] for one in found) for n in found[0].seconds},
                 {n: min(one.payload_seconds[n] for one in found) for n in found[0].payload_seconds},
                 min(1.0, computed / passed))


def read_steps(log: Path, clock_mhz: float, key: str, steps: int, rates: int) -> Steps:
    """What the program printed on a board, from a log of its serial line; whatever else is in it is passed over.

    Args:
        log: The text.
        clock_mhz: Ticks a microsecond of the counter that it read, above 0.
        key: See `run_steps`.
        steps: See `run_steps`.
        rates: See `run_steps`.

    Raises:
        ConfigError: The file cannot be read, or does not hold all that the program prints for this bundle.
    """
    content = read_file(log, f"log {str(log)!r}", most_bytes=MOST_TEXT_BYTES)
    text = content.replace(b"\0", b"").decode("utf-8", errors="replace")  # noise, or two bytes a letter
    return _steps(str(log), text, 1e-6 / clock_mhz, key, steps, rates)


def _steps(what: str, text: str, tick_s: float, key: str, steps: int, rates: int) -> Steps:
    remedy = "; give all that the time.c of this bundle prints"
    keys = set(_KEY.findall(text))
    if keys != {key}:
        said = f"is of bundle {', '.join(sorted(keys))}, this one is {key}" if keys else "has no line such as bundle "
        raise ConfigError(f"{what} {said}{'' if keys else key}{remedy}")
    found = {(kind, int(number)): value for kind, number, value in _LINE.findall(text)}
    wanted = [("step", n) for n in range(steps)] + [("payload", n) for n in range(rates)]
    for line in wanted:
        if line not in found:
            raise ConfigError(f"{what} has no line such as {line[0]} {line[1]} 1234{remedy}")
    ticks = {line: int(found[line]) for line in wanted if found[line] != "-"}
    for (kind, number), value in ticks.items():
        if value >= _MOST_TICKS:
            raise ConfigError(f"{what}: {kind} {number} took {value} ticks, as if the counter counted down; let "
                              "AUTOSPLIT_TICKS count up, and give AUTOSPLIT_TICKS_MASK if it has fewer than 32 bits")
    if not any(ticks.values()):
        raise ConfigError(f"{what}: no step took a tick; let AUTOSPLIT_TICKS read a faster counter")
    return Steps({str(n): value * tick_s for (kind, n), value in ticks.items() if kind == "step"},
                 {n: value * tick_s for (kind, n), value in ticks.items() if kind == "payload"})


def _children_s() -> float:
    """Seconds of a processor that programs have had which ran here."""
    spent = os.times()
    return spent.children_user + spent.children_system
