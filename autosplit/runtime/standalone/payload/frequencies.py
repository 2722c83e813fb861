"""Integer frequency tables: how often each symbol occurs, which is all that the entropy coder knows of a code.

`FrequencyTables.fit` counts the symbols of calibration codes; `entropy_bits` then predicts what coding any code costs,
without coding it. Probabilities are integers over 2**16, so that every machine computes with exactly the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ResultError

__all__ = ["MAX_BITS", "PRECISION", "FrequencyTables", "check_symbols", "levels"]

MAX_BITS = 8
"""Most bits a symbol can have before entropy coding."""

PRECISION = 16
"""Bits of a table's resolution: the frequencies of a channel sum to 2**16, and each fits in a uint16."""

_TOTAL = 1 << PRECISION
_PSEUDO_COUNT = 0.5  # Krichevsky and Trofimov 1981: worst-case redundancy of about half a log2(n) bits a level


def levels(bits: int) -> int:
    """Number of quantisation levels, `2**bits`.

    Args:
        bits: Bits of a symbol before entropy coding, 1 to 8.

    Raises:
        ConfigError: `bits` is no integer from 1 to 8.
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= MAX_BITS:
        raise ConfigError(f"bits must be an integer from 1 to {MAX_BITS}, got {bits!r}")
    return 1 << bits


def check_symbols(symbols: NDArray[Any], count: int) -> None:
    """Refuse what is no array of symbols in [0, count - 1].

    Raises:
        ConfigError: Wrong type or range.
    """
    if not isinstance(symbols, np.ndarray) or not np.issubdtype(symbols.dtype, np.integer):
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise ConfigError(f"symbols must be a numpy array of integers, got {kind}")
    if symbols.size and not (symbols.min() >= 0 and symbols.max() < count):
        raise ConfigError(f"symbols must lie in [0, {count - 1}], got {symbols.min()} to {symbols.max()}; -1 marks "
                          "a NaN in the code (the encoder diverged)")


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """How often each symbol occurs in each channel of the code, as integers; immutable.

    Attributes:
        frequencies: uint32 of shape (channels, levels); every entry at least 1, every row sums to 2**PRECISION.
            The probability of a symbol is its frequency over 2**PRECISION, exactly.

    Raises:
        ConfigError: The array is none of these things.
    """

    frequencies: NDArray[np.uint32]

    def __post_init__(self) -> None:
        table = np.asarray(self.frequencies)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise ConfigError(f"frequency tables must be integers of shape (channels, levels), got {table.dtype} "
                              f"{table.shape}")
        if table.shape[0] < 1 or table.shape[1] not in [1 << b for b in range(1, MAX_BITS + 1)]:
            raise ConfigError(f"frequency tables must have a power of two from 2 to {1 << MAX_BITS} levels and at "
                              f"least one channel, got shape {table.shape}")
        # a symbol of frequency 0 could not be coded at all, and one of frequency 2**16 would not fit in a uint16
        if table.min() < 1 or table.max() >= _TOTAL:
            raise ConfigError(f"frequencies must lie in [1, {_TOTAL - 1}], got {table.min()} to {table.max()}")
        wrong = np.flatnonzero(table.sum(axis=1, dtype=np.int64) != _TOTAL)
        if wrong.size:
            k = int(wrong[0])
            raise ConfigError(f"frequencies of channel {k} sum to {table[k].sum(dtype=np.int64)}, not {_TOTAL}")
        table = table.astype(np.uint32)
        table.setflags(write=False)
        object.__setattr__(self, "frequencies", table)

    @classmethod
    def fit(cls, symbols: NDArray[Any], bits: int, expected: NDArray[Any] | None = None) -> FrequencyTables:
        """Tables for the codes of calibration images.

        Half a count is added to every symbol, so one that calibration never saw costs about `log2(2 n)` bits, n
        being the calibration symbols of a channel, and never more than 16. Where a model of the code says how often
        each symbol is to be expected, as many counts in all are added in these proportions (a Dirichlet prior).

        Args:
            symbols: Integers of shape (N, K, gh, gw) in [0, 2**bits - 1], at least one image.
            bits: Bits of a symbol before entropy coding, 1 to 8.
            expected: Probability of each symbol, shape (K, 2**bits).

        Raises:
            ConfigError: Wrong shape, type or range.
        """
        count = levels(bits)
        check_symbols(symbols, count)
        if symbols.ndim != 4 or 0 in symbols.shape:
            raise ConfigError(f"calibration symbols must be (images, channels, height, width) with at least one of "
                              f"each, got {symbols.shape}")
        rows = []
        added = np.full((symbols.shape[1], count), _PSEUDO_COUNT)
        if expected is not None:
            added = _PSEUDO_COUNT * count * np.asarray(expected, dtype=np.float64)
            if added.shape != (symbols.shape[1], count) or not np.all(added >= 0):
                raise ConfigError(f"expected must be probabilities of shape ({symbols.shape[1]}, {count}), got "
                                  f"{added.shape}")
        for k in range(symbols.shape[1]):
            weights = np.bincount(symbols[:, k].ravel(), minlength=count).astype(np.float64) + added[k]
            # each symbol has 1 for certain; the rest is shared out in proportion, largest remainders first, with a
            # stable sort so that equal counts give equal tables on every machine
            ideal = weights / weights.sum() * (_TOTAL - count)
            floor = np.floor(ideal)
            missing = int(_TOTAL - count - floor.sum())
            floor[np.argsort(floor - ideal, kind="stable")[:missing]] += 1
            rows.append(floor + 1)
        return cls(np.stack(rows).astype(np.uint32))

    @property
    def channels(self) -> int:
        """Channels of the code."""
        return int(self.frequencies.shape[0])

    @property
    def levels(self) -> int:
        """Symbols a value can take, 2**bits."""
        return int(self.frequencies.shape[1])

    @property
    def symbol_bits(self) -> NDArray[np.float64]:
        """Bits each symbol costs, shape (channels, levels)."""
        return np.asarray(PRECISION - np.log2(self.frequencies.astype(np.float64)))

    def entropy_bits(self, symbols: NDArray[Any]) -> NDArray[np.float64]:
        """Cross-entropy of each image's code under these tables: what coding it costs, in bits.

        Args:
            symbols: Integers of shape (N, channels, gh, gw) in [0, levels - 1].

        Returns:
            Bits of each image, shape (N,).

        Raises:
            ConfigError: Wrong shape, type or range.
        """
        check_symbols(symbols, self.levels)
        if symbols.ndim != 4 or symbols.shape[1] != self.channels:
            raise ConfigError(f"symbols must be (images, {self.channels} channels, height, width) for these "
                              f"frequency tables, got {symbols.shape}")
        total = np.zeros(len(symbols))
        for k, cost in enumerate(self.symbol_bits):
            total += cost[symbols[:, k]].sum(axis=(1, 2))
        return total

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a safetensors file: `frequencies`, uint16 of shape (channels, levels)."""
        return {"frequencies": self.frequencies.astype(np.uint16)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FrequencyTables:
        """The tables that `to_arrays` stored.

        Raises:
            ResultError: The array is missing or is not a frequency table; the stored file is damaged.
        """
        if "frequencies" not in arrays:
            raise ResultError(f"the stored codec has no array 'frequencies' (found: {sorted(arrays) or 'none'}); "
                              "export the deployment again")
        try:
            return cls(arrays["frequencies"])
        except ConfigError as error:
            raise ResultError(f"the stored codec is damaged: {error}; export the deployment again") from error
