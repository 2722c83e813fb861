"""Timings of operators on one machine: a CSV file beside the device profile, known by its hash."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

from pydantic import Field

from autosplit.core.errors import ConfigError
from autosplit.core.hashing import sha256_of
from autosplit.core.operators import KINDS, OperatorWork
from autosplit.core.parameters import absent
from autosplit.core.recorded import RecordedFile, read_content, rows_of
from autosplit.core.validation import Frozen

__all__ = ["COLUMNS", "HeldOut", "Timing", "Timings", "read_timings"]

_SHAPE = tuple(f.name for f in fields(OperatorWork))
_NUMBERS = _SHAPE[1:]

COLUMNS = ("node", *_SHAPE)
"""What a table of operators says of each: its name in the network's graph, and its shape."""

_HEADER = ["backbone", "variant", *COLUMNS, "time_ms"]


@dataclass(frozen=True)
class Timing:
    """One operator, timed.

    Attributes:
        backbone: Name of the network that it is in.
        variant: Which pruned version of that network.
        node: Its name in the network's graph.
        work: Its shape.
        time_ms: Median over the passes.
    """

    backbone: str
    variant: str
    node: str
    work: OperatorWork
    time_ms: float


class HeldOut(Frozen):
    """How far the times of operators of one type are from those that the regression predicts for shapes left out.

    Attributes:
        shapes: Different shapes that were timed.
        median_percent: Median relative error over the timings.
        p90_percent: 90th percentile.
    """

    shapes: int = Field(ge=1)
    median_percent: float = Field(ge=0, allow_inf_nan=False)
    p90_percent: float = Field(ge=0, allow_inf_nan=False)


class Timings(RecordedFile):
    """The block `timings` of a device profile: a CSV that `autosplit profile` or a bundle's `profile` wrote.

    Attributes:
        file: See `RecordedFile`.
        factor: What the machine's speed is multiplied by.
        sha256: See `RecordedFile`.
        source: What timed them, on which machine and when.
        held_out: Error of the regression on shapes it has not seen, by operator type.
        processor_share: Share of the time that the timing thread had a processor; far below 1 on a busy machine.
    """

    what = "timings"
    changed = ("are not those that the profile was made of; restore the file, or profile "
               "the machine again")

    source: str = Field(default="timed operators", min_length=3)
    held_out: dict[str, HeldOut] = Field(default_factory=dict)
    processor_share: float | None = Field(default=None, ge=0, le=1, exclude_if=absent)

    @classmethod
    def check(cls, file: str, sha256: str) -> None:
        """See `RecordedFile.check`."""
        read_timings(file, sha256)

    def scaled(self, rate: float) -> Timings:
        """The same machine so many times as fast."""
        return self.model_copy(update={"factor": self.factor * rate})


@lru_cache(maxsize=32)
def read_timings(file: str, sha256: str) -> tuple[Timing, ...]:
    """Read timings.

    Args:
        file: CSV that `autosplit.runtime.standalone.profiling.run.write_profile` wrote.
        sha256: Its hash when the profile was made or first read.

    Raises:
        ConfigError: The file is absent or has changed, or it is no such CSV; the message names the line.
    """
    content = read_content(Timings.what, file)
    if sha256_of(content) != sha256:
        raise ConfigError(f"timings {file!r} are not those that were recorded any more; restore the file, or "
                          "profile the machine again")
    rows = rows_of(f"timings {file!r}", content)
    if [cell.strip() for cell in next(rows, [])] != _HEADER:
        raise ConfigError(f"timings {file!r}: the first line must be {','.join(_HEADER)}; profile the "
                          "machine again")
    found = tuple(_timing(file, number, row) for number, row in enumerate(rows, start=2) if row)
    if not found:
        raise ConfigError(f"timings {file!r} hold no operator; profile the machine again")
    return found


def _timing(file: str, number: int, row: list[str]) -> Timing:
    where = f"timings {file!r}, line {number}"
    if len(row) != len(_HEADER):
        raise ConfigError(f"{where}: {len(row)} cells instead of {len(_HEADER)}; profile the machine again")
    cells = dict(zip(_HEADER, row, strict=True))
    kind = next((k for k in KINDS if k == cells["kind"]), None)
    if kind is None:
        raise ConfigError(f"{where}: operator type {cells['kind']!r} is none of {', '.join(KINDS)}")
    try:
        numbers, time_ms = {name: int(cells[name]) for name in _NUMBERS}, float(cells["time_ms"])
    except ValueError as e:
        raise ConfigError(f"{where}: {e}; profile the machine again") from None
    if min(numbers.values()) < 0 or not (math.isfinite(time_ms) and time_ms > 0):
        raise ConfigError(f"{where}: counts must be at least 0 and time_ms above 0; profile the machine again")
    return Timing(cells["backbone"], cells["variant"], cells["node"], OperatorWork(kind, **numbers), time_ms)
