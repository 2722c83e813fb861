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
from .contexts import CONTEXTS, symbol_contexts

__all__ = ["MAX_BITS", "PRECISION", "FrequencyTables", "check_symbols", "levels"]

MAX_BITS = 8
"""Most bits a symbol can have before entropy coding."""

PRECISION = 16
"""Bits of a table's resolution: the frequencies of a channel sum to 2**16, and each fits in a uint16."""

_TOTAL = 1 << PRECISION
_PSEUDO_COUNT = 0.5  # Krichevsky and Trofimov 1981: worst-case redundancy of about half a log2(n) bits a level
_CONTEXT_COUNT = 8.0  # symbols that a context's table has seen of the whole channel before it has seen any of its own
_WORTH_CONTEXTS = 0.02  # bits a symbol that contexts must save in a channel: coding takes several times as long
_WORTH_ANY = 0.01  # share of all bits that they must save
_IMAGES_AT_ONCE = 256


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

    Where neighbours say something of a symbol (`contexts`), a channel has a table for each of their contexts.

    Attributes:
        frequencies: uint32 of shape (channels, levels), or (channels, `CONTEXTS`, levels); every entry at least 1,
            every row sums to 2**PRECISION. The probability of a symbol is its frequency over 2**PRECISION, exactly.
        middle: First and last symbol of each channel's middle, int64 (channels, 2), where there are contexts. A channel
            in which it holds all symbols has one context, the first.

    Raises:
        ConfigError: The arrays are none of these things.
    """

    frequencies: NDArray[np.uint32]
    middle: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        table = np.asarray(self.frequencies)
        shaped = table.ndim == 2 if self.middle is None else table.ndim == 3 and table.shape[1] == CONTEXTS
        if not shaped or not np.issubdtype(table.dtype, np.integer):
            raise ConfigError(f"frequency tables must be integers of shape (channels, levels), or (channels, "
                              f"{CONTEXTS}, levels) with a middle for each channel, got {table.dtype} {table.shape}")
        if table.shape[0] < 1 or table.shape[-1] not in [1 << b for b in range(1, MAX_BITS + 1)]:
            raise ConfigError(f"frequency tables must have a power of two from 2 to {1 << MAX_BITS} levels and at "
                              f"least one channel, got shape {table.shape}")
        # a symbol of frequency 0 could not be coded at all, and one of frequency 2**16 would not fit in a uint16
        if table.min() < 1 or table.max() >= _TOTAL:
            raise ConfigError(f"frequencies must lie in [1, {_TOTAL - 1}], got {table.min()} to {table.max()}")
        sums = table.sum(axis=-1, dtype=np.int64)
        wrong = np.flatnonzero(sums != _TOTAL)
        if wrong.size:
            k = int(wrong[0]) // (sums.size // len(sums))
            raise ConfigError(f"frequencies of channel {k} sum to {sums.ravel()[wrong[0]]}, not {_TOTAL}")
        table = table.astype(np.uint32)
        table.setflags(write=False)
        object.__setattr__(self, "frequencies", table)
        if self.middle is not None:
            object.__setattr__(self, "middle", _checked_middle(self.middle, table.shape[0], table.shape[-1]))

    @classmethod
    def fit(
        cls, symbols: NDArray[Any], bits: int, expected: NDArray[Any] | None = None, *, contexts: bool = True
    ) -> FrequencyTables:
        """Tables for the codes of calibration images.

        Half a count is added to every symbol, so one that calibration never saw costs about `log2(2 n)` bits, n
        being the calibration symbols of a channel, and never more than 16. Where a model of the code says how often
        each symbol is to be expected, as many counts in all are added in these proportions (a Dirichlet prior).

        A channel has contexts where they pay: where tables of every other image code the rest with at least 0.02 bits
        less a symbol. A code has some where that saves at least 1 % of its bits. A context's table begins as that of
        the whole channel, with the weight of eight symbols.

        Args:
            symbols: Integers of shape (N, K, gh, gw) in [0, 2**bits - 1], at least one image.
            bits: Bits of a symbol before entropy coding, 1 to 8.
            expected: Probability of each symbol, shape (K, 2**bits).
            contexts: Whether there may be contexts.

        Raises:
            ConfigError: Wrong shape, type or range.
        """
        count = levels(bits)
        check_symbols(symbols, count)
        if symbols.ndim != 4 or 0 in symbols.shape:
            raise ConfigError(f"calibration symbols must be (images, channels, height, width) with at least one of "
                              f"each, got {symbols.shape}")
        added = np.full((symbols.shape[1], count), _PSEUDO_COUNT)
        if expected is not None:
            added = _PSEUDO_COUNT * count * np.asarray(expected, dtype=np.float64)
            if added.shape != (symbols.shape[1], count) or not np.all(added >= 0):
                raise ConfigError(f"expected must be probabilities of shape ({symbols.shape[1]}, {count}), got "
                                  f"{added.shape}")
        if contexts and len(symbols) > 1 and symbols[0, 0].size > 1:
            some, rest = symbols[::2], symbols[1::2]
            every = np.ones(symbols.shape[1], dtype=np.bool_)
            plain = cls._plain(some, added)._bits(rest).sum(axis=0)
            saved = plain - cls._aware(some, added, every)._bits(rest).sum(axis=0)
            worth = saved >= _WORTH_CONTEXTS * rest[:, 0].size
            if worth.any() and saved[worth].sum() >= _WORTH_ANY * plain.sum():
                return cls._aware(symbols, added, worth)
        return cls._plain(symbols, added)

    @classmethod
    def _plain(cls, symbols: NDArray[Any], added: NDArray[np.float64]) -> FrequencyTables:
        """One table a channel, with counts that are added to those of the symbols."""
        return cls(_integers(_counts(symbols, added.shape[1]) + added))

    @classmethod
    def _aware(
        cls, symbols: NDArray[Any], added: NDArray[np.float64], which: NDArray[np.bool_]
    ) -> FrequencyTables:
        """A table for each context, in some channels; in the others all symbols are in the middle."""
        channels, count = added.shape
        occurring = _counts(symbols, count)
        whole = occurring + added
        middle = _middle(occurring)
        middle[~which] = 0, count - 1
        found = symbol_contexts(symbols, middle)
        flat = symbols.reshape(len(symbols), channels, -1)
        begin = _CONTEXT_COUNT * whole / whole.sum(axis=1, keepdims=True)
        tables = [np.bincount((found[:, k].astype(np.int64) * count + flat[:, k]).ravel(), minlength=CONTEXTS * count)
                  .reshape(CONTEXTS, count) + begin[k] for k in range(channels)]
        return cls(_integers(np.stack(tables)), middle)

    @property
    def channels(self) -> int:
        """Channels of the code."""
        return int(self.frequencies.shape[0])

    @property
    def levels(self) -> int:
        """Symbols a value can take, 2**bits."""
        return int(self.frequencies.shape[-1])

    @property
    def aware(self) -> NDArray[np.bool_]:
        """Which channels have contexts, (channels,)."""
        if self.middle is None:
            return np.zeros(self.channels, dtype=np.bool_)
        return (self.middle != [0, self.levels - 1]).any(axis=1)  # type: ignore[no-any-return]

    @property
    def symbol_bits(self) -> NDArray[np.float64]:
        """Bits each symbol costs, of the shape of `frequencies`."""
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
        return self._bits(symbols).sum(axis=1)  # type: ignore[no-any-return]

    def _bits(self, symbols: NDArray[Any]) -> NDArray[np.float64]:
        """Bits of each channel of each image's code, (N, channels)."""
        total = np.zeros(symbols.shape[:2])
        for start in range(0, len(symbols), _IMAGES_AT_ONCE):
            some = slice(start, start + _IMAGES_AT_ONCE)
            flat = symbols[some].reshape(len(symbols[some]), self.channels, -1)
            found = None if self.middle is None else symbol_contexts(symbols[some], self.middle)
            for k, cost in enumerate(self.symbol_bits):
                each = cost[flat[:, k]] if found is None else cost[found[:, k], flat[:, k]]
                total[some, k] = each.sum(axis=1)
        return total

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a safetensors file: `frequencies`, uint16 of shape (channels, levels).

        With contexts (channels, CONTEXTS + 1, levels): the last row of a channel begins with its `middle`.
        """
        stored = self.frequencies.astype(np.uint16)
        if self.middle is not None:
            last = np.zeros((self.channels, 1, self.levels), dtype=np.uint16)
            last[:, 0, :2] = self.middle
            stored = np.concatenate([stored, last], axis=1)
        return {"frequencies": stored}

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
            return cls.from_array(arrays["frequencies"])
        except ConfigError as error:
            raise ResultError(f"the stored codec is damaged: {error}; export the deployment again") from error

    @classmethod
    def from_array(cls, stored: NDArray[Any]) -> FrequencyTables:
        """The tables that `to_arrays` made an array of.

        Raises:
            ConfigError: It is none.
        """
        if stored.ndim == 3 and stored.shape[1] == CONTEXTS + 1 and stored.shape[2] > 1:
            return cls(stored[:, :-1], stored[:, -1, :2].astype(np.int64))
        return cls(stored)


def _middle(occurring: NDArray[np.float64]) -> NDArray[np.int64]:
    """From the symbol at which a third of all is reached to that of two thirds; where one symbol is most, it alone."""
    share = np.cumsum(occurring, axis=1) / occurring.sum(axis=1, keepdims=True)
    found = np.stack([(share < third).sum(axis=1) for third in (1 / 3, 2 / 3)], axis=1)
    seen = occurring > 0
    first, last = seen.argmax(axis=1), occurring.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    # two symbols, each of them a half: the upper one is not in the middle
    found[:, 1] -= (found[:, 0] == first) & (found[:, 1] == last) & (first < last)
    return found


def _checked_middle(middle: NDArray[Any], channels: int, count: int) -> NDArray[np.int64]:
    found = np.asarray(middle)
    if found.shape != (channels, 2) or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(f"the middle of frequency tables must be integers of shape ({channels}, 2), got "
                          f"{found.dtype} {found.shape}")
    if found.min() < 0 or found.max() >= count or (found[:, 0] > found[:, 1]).any():
        raise ConfigError(f"the middle of frequency tables must be a first and a last symbol below {count} for each "
                          f"channel, got {found.tolist()}")
    found = found.astype(np.int64)
    found.setflags(write=False)
    return found


def _counts(symbols: NDArray[Any], count: int) -> NDArray[np.float64]:
    """How often each symbol occurs in each channel, (K, count)."""
    return np.stack([np.bincount(symbols[:, k].ravel(), minlength=count) for k in range(symbols.shape[1])]).astype(
        np.float64)


def _integers(weights: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Frequencies in proportion to weights, along the last axis.

    Each symbol has 1 for certain; the rest is shared out in proportion, largest remainders first, with a stable sort so
    that equal counts give equal tables on every machine.
    """
    count = weights.shape[-1]
    rows = []
    for row in weights.reshape(-1, count):
        ideal = row / row.sum() * (_TOTAL - count)
        floor = np.floor(ideal)
        missing = int(_TOTAL - count - floor.sum())
        floor[np.argsort(floor - ideal, kind="stable")[:missing]] += 1
        rows.append(floor + 1)
    return np.stack(rows).astype(np.uint32).reshape(weights.shape)
