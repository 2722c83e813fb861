"""Recorded rates: a CSV file of time and rate, known by its hash."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.hashing import sha256_of
from autosplit.core.recorded import read_content, rows_of

__all__ = ["Samples", "read_trace"]

_MOST = 1e12  # seconds, kilobits per second
_HEADER = ["time_s", "rate_kbps"]


@dataclass(frozen=True, eq=False)
class Samples:
    """One lap of a trace: rates that hold one after the other.

    Attributes:
        rate_kbps: Shape (S,).
        held_ms: How long each holds, shape (S,); the last one as long as the one before it.
    """

    rate_kbps: Array
    held_ms: Array

    @property
    def mean_kbps(self) -> float:
        """Mean over time, kilobits per second."""
        return float((self.rate_kbps * self.held_ms).sum() / self.held_ms.sum())


@lru_cache(maxsize=32)
def read_trace(file: str, sha256: str) -> Samples:
    """Read a trace.

    Args:
        file: CSV with the header `time_s,rate_kbps`; a rate holds until the next row's time.
        sha256: Its hash when the trace was named.

    Raises:
        ConfigError: The file is absent or has changed, or it is no such CSV; the message names the line.
    """
    content = read_content("trace", file)
    if sha256_of(content) != sha256:
        raise ConfigError(f"trace {file!r} is not the file that was recorded any more; restore it")
    rows = rows_of(f"trace {file!r}", content)
    if [cell.strip() for cell in next(rows, [])] != _HEADER:
        raise ConfigError(f"trace {file!r}: the first line must be {','.join(_HEADER)}")
    table: list[tuple[float, float]] = []
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        try:
            time, rate = map(float, row)
        except ValueError:
            raise ConfigError(f"trace {file!r}, line {number}: {','.join(row)!r} is not a time and a rate") from None
        if not (abs(time) <= _MOST and 0 <= rate <= _MOST):  # NaN is none of it
            raise ConfigError(f"trace {file!r}, line {number}: time and rate must be finite, and the rate at least 0; "
                              f"neither may exceed {_MOST:g}")
        table.append((time, rate))
    if len(table) < 2:
        raise ConfigError(f"trace {file!r}: {len(table)} rows; give at least two")
    time_s, rate_kbps = np.array(table, dtype=np.float64).T
    gaps_s = np.diff(time_s)
    if (gaps_s <= 0).any():
        at = int(np.argmax(gaps_s <= 0)) + 1
        raise ConfigError(f"trace {file!r}: time_s must ascend, but {time_s[at]:g} follows {time_s[at - 1]:g}")
    if not rate_kbps.any():
        raise ConfigError(f"trace {file!r}: every rate is 0, so nothing ever arrives")
    return Samples(rate_kbps, np.append(gaps_s, gaps_s[-1]) * 1000.0)
