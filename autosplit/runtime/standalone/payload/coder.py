"""From symbols to payload bytes and back: integer frequency tables, range coder, header, checksum.

`FrequencyTables.fit` counts the symbols of calibration codes; `entropy_bits` and `payload_bytes` then predict how
large any code will be without coding it. `PayloadCoder` makes the bytes that really cross the channel.
`docs/protocol.md` describes them so that another implementation can read them.

The coder is constriction's range coder (Bamler 2022, arXiv 2201.01741) with models of integer frequencies, so the
same symbols give the same bytes on every machine. Of the numbers in the coder's final interval the payload carries
the one with the shortest byte string: about a third of a byte above the entropy instead of up to two 32-bit words.

This module needs numpy and constriction alone, so that a device can run it beside another inference engine.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.rates import MAX_RATES
from ..errors import ConfigError, PayloadError, ResultError

__all__ = ["FORMAT_VERSION", "HEADER_BYTES", "MAX_BITS", "PRECISION", "FrequencyTables", "PayloadCoder", "levels",
           "payload_bytes"]

MAX_BITS = 8
"""Most bits a symbol can have before entropy coding."""

PRECISION = 16
"""Bits of a table's resolution: the frequencies of a channel sum to 2**16, and each fits in a uint16."""

FORMAT_VERSION = 1
"""Version of the byte format, 0 to 15."""

HEADER_BYTES = 4
"""Bytes in front of the coded symbols: version and rate, then a 24-bit checksum."""

_TOTAL = 1 << PRECISION
_PSEUDO_COUNT = 0.5  # Krichevsky and Trofimov 1981: worst-case redundancy of about half a log2(n) bits a level
_CODER_PRECISION = 24  # fixed-point bits of constriction's default coders
_WORD_BITS = 32
_STATE_WORDS = 2


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


def payload_bytes(entropy_bits: ArrayLike) -> NDArray[np.float64]:
    """Expected payload size of codes whose entropy under the tables is known.

    A final interval of width 2**-b always holds a number of n = ceil(b / 8) bytes, and holds one of m < n bytes
    with probability 2**(8 m - b); the expectation over the interval's place follows.

    Args:
        entropy_bits: Bits of each code (`FrequencyTables.entropy_bits`), any shape.

    Returns:
        Expected bytes including the header, the shape of `entropy_bits`. One payload is off by less than a byte
        as a rule; the mean over many by a few hundredths, at most about a tenth, of a byte.
    """
    bits = np.asarray(entropy_bits, dtype=np.float64)
    whole = np.ceil(bits / 8)
    saved = (np.exp2(8 * whole - bits) - np.exp2(-bits)) / 255
    return np.asarray(HEADER_BYTES + whole - saved, dtype=np.float64)


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
        given = np.asarray(self.frequencies)
        _check_frequencies(given)
        table = given.astype(np.uint32)
        table.setflags(write=False)
        object.__setattr__(self, "frequencies", table)

    @classmethod
    def fit(cls, symbols: NDArray[Any], bits: int) -> FrequencyTables:
        """Tables for the codes of calibration images.

        Half a count is added to every symbol, so one that calibration never saw costs about `log2(2 n)` bits, n
        being the calibration symbols of a channel, and never more than 16.

        Args:
            symbols: Integers of shape (N, K, gh, gw) in [0, 2**bits - 1], at least one image.
            bits: Bits of a symbol before entropy coding, 1 to 8.

        Raises:
            ConfigError: Wrong shape, type or range.
        """
        count = levels(bits)
        _check_symbols(symbols, count)
        if symbols.ndim != 4 or 0 in symbols.shape:
            raise ConfigError(f"calibration symbols must be (images, channels, height, width) with at least one of "
                              f"each, got {symbols.shape}")
        rows = [np.bincount(symbols[:, k].ravel(), minlength=count) for k in range(symbols.shape[1])]
        return cls(np.stack([_integer_frequencies(row) for row in rows]))

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
        _check_symbols(symbols, self.levels)
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


class PayloadCoder:
    """Turns the symbols of one image into payload bytes and back; immutable, so threads may share one.

    Built once per deployment, on the device and on the edge, from the same tables, shape and key: the per-channel
    models are made here. Payloads of a coder that differs in any of the three are refused.

    Args:
        tables: Frequency tables of the code, one a channel.
        shape: Shape (K, gh, gw) of one image's code.
        key: Identifies the deployment, such as a hash of its weights; not a secret, and no protection against
            somebody who forges payloads on purpose.
        rate: Number of the rate in its bundle, which payloads carry.

    Raises:
        ConfigError: The tables do not fit the shape, or there can be no such rate.
    """

    def __init__(self, tables: FrequencyTables, shape: tuple[int, int, int], key: bytes, rate: int = 0) -> None:
        if not 0 <= rate < MAX_RATES:
            raise ConfigError(f"a bundle has at most {MAX_RATES} rates; there is no rate {rate}")
        if len(shape) != 3 or min(shape) < 1 or shape[0] != tables.channels:
            raise ConfigError(f"the code's shape must be ({tables.channels}, height, width) for these frequency "
                              f"tables, got {tuple(shape)}")
        self._shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self._cells = self._shape[1] * self._shape[2]
        self._levels, self._first = tables.levels, FORMAT_VERSION << 4 | rate
        self._models = [_model(row) for row in tables.frequencies]
        self._seed = zlib.crc32(_fingerprint(tables, self._shape, key))
        self._max_coded = _max_coded_bytes(tables, self._cells)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (K, gh, gw) of one image's code."""
        return self._shape

    @property
    def max_payload_bytes(self) -> int:
        """No payload of this coder is longer, whatever the symbols."""
        return HEADER_BYTES + self._max_coded

    def encode(self, symbols: NDArray[Any]) -> bytes:
        """The payload of one image, decoded once before it is returned.

        Args:
            symbols: Integers of shape (K, gh, gw) in [0, levels - 1].

        Raises:
            ConfigError: Wrong shape, type or range.
            PayloadError: The payload would not decode to these symbols (a fault of the range coder).
        """
        _check_symbols(symbols, self._levels)
        if symbols.shape != self._shape:
            raise ConfigError(f"the payload coder was built for symbols of shape {self._shape}, got {symbols.shape}")
        flat = np.ascontiguousarray(symbols, dtype=np.int32).reshape(self._shape[0], self._cells)
        coded = self._to_coded(flat)
        if not np.array_equal(self._to_symbols(coded), flat):
            raise PayloadError("the range coder's output does not decode to its input; check the installed version "
                               "of constriction (autosplit is tested with 0.4.2 and 0.5)")
        return self._header(coded) + coded

    def decode(self, payload: bytes) -> NDArray[np.int32]:
        """The symbols of a payload.

        Accepts exactly the bytes that `encode` makes: version and checksum are compared, and the symbols are coded
        again and must give the same bytes. Random bytes pass with a probability below 2**-24.

        Args:
            payload: The whole payload (a bytes-like object) as it was sent.

        Returns:
            Symbols of shape (K, gh, gw).

        Raises:
            PayloadError: The bytes are truncated, altered or foreign; nothing else is ever raised.
        """
        coded = self._checked_coded(payload)
        flat = self._to_symbols(coded)
        if self._to_coded(flat) != coded:
            raise PayloadError(f"payload of {HEADER_BYTES + len(coded)} bytes is not what this deployment's coder "
                               "makes of its symbols; it was altered on the way")
        return flat.reshape(self._shape)

    def encode_batch(self, symbols: NDArray[Any]) -> list[bytes]:
        """One payload an image, for symbols of shape (N, K, gh, gw); errors as in `encode`."""
        return [self.encode(image) for image in symbols]

    def decode_batch(self, payloads: Iterable[bytes]) -> NDArray[np.int32]:
        """Symbols of shape (N, K, gh, gw) of N payloads; errors as in `decode`."""
        images = [self.decode(payload) for payload in payloads]
        return np.stack(images) if images else np.zeros((0, *self._shape), dtype=np.int32)

    def _header(self, coded: bytes) -> bytes:
        checksum = zlib.crc32(coded, self._seed) & 0xFFFFFF
        return bytes([self._first]) + checksum.to_bytes(HEADER_BYTES - 1, "big")

    def _checked_coded(self, payload: bytes) -> bytes:
        """The coded symbols behind a header that fits them."""
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise PayloadError(f"a payload is bytes, got {type(payload).__name__}")
        size = memoryview(payload).nbytes
        if not HEADER_BYTES <= size <= self.max_payload_bytes:
            raise PayloadError(f"payload of {size} bytes; this deployment's have {HEADER_BYTES} to "
                               f"{self.max_payload_bytes}")
        data = bytes(payload)
        if data[0] != self._first:
            raise PayloadError(f"payload starts with 0x{data[0]:02x}, expected 0x{self._first:02x}: not a payload, of "
                               f"another rate, or of another format version; use one autosplit version at both ends")
        coded = data[HEADER_BYTES:]
        if data[:HEADER_BYTES] != self._header(coded):
            raise PayloadError(f"checksum of a payload of {size} bytes does not match: it was truncated or altered, "
                               "or comes from another deployment")
        return coded

    def _to_coded(self, flat: NDArray[np.int32]) -> bytes:
        """Range-code symbols of shape (K, cells)."""
        encoder = constriction.stream.queue.RangeEncoder()
        for row, model in zip(flat, self._models, strict=True):
            encoder.encode(row, model)
        return _shortest_bytes(encoder)

    def _to_symbols(self, coded: bytes) -> NDArray[np.int32]:
        """Symbols of shape (K, cells) of coded bytes, which zeros continue."""
        room = -(-self._max_coded // 4) + _STATE_WORDS
        words = np.frombuffer(coded.ljust(4 * room, b"\0"), dtype=">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        flat = np.empty((self._shape[0], self._cells), dtype=np.int32)
        try:
            for k, model in enumerate(self._models):
                flat[k] = decoder.decode(model, self._cells)
        except (AssertionError, ValueError) as error:  # bytes that no encoder makes
            raise PayloadError(f"payload of {HEADER_BYTES + len(coded)} bytes holds no valid code; "
                               "it was altered on the way") from error
        return flat


def _check_frequencies(table: NDArray[Any]) -> None:
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ConfigError(f"frequency tables must be integers of shape (channels, levels), got {table.dtype} "
                          f"{table.shape}")
    if table.shape[0] < 1 or table.shape[1] not in [1 << b for b in range(1, MAX_BITS + 1)]:
        raise ConfigError(f"frequency tables must have a power of two from 2 to {1 << MAX_BITS} levels and at least "
                          f"one channel, got shape {table.shape}")
    if table.min() < 1 or table.max() >= _TOTAL:
        raise ConfigError(f"frequencies must lie in [1, {_TOTAL - 1}], got {table.min()} to {table.max()}")
    wrong = np.flatnonzero(table.sum(axis=1, dtype=np.int64) != _TOTAL)
    if wrong.size:
        k = int(wrong[0])
        raise ConfigError(f"frequencies of channel {k} sum to {table[k].sum(dtype=np.int64)}, not {_TOTAL}")


def _check_symbols(symbols: NDArray[Any], count: int) -> None:
    if not isinstance(symbols, np.ndarray) or not np.issubdtype(symbols.dtype, np.integer):
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise ConfigError(f"symbols must be a numpy array of integers, got {kind}")
    if symbols.size and not (symbols.min() >= 0 and symbols.max() < count):
        raise ConfigError(f"symbols must lie in [0, {count - 1}], got {symbols.min()} to {symbols.max()}; -1 marks "
                          "a NaN in the code (the encoder diverged)")


def _integer_frequencies(counts: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
    """Integers of at least 1 that sum to 2**PRECISION, in proportion to smoothed counts (largest remainder)."""
    weights = counts.astype(np.float64) + _PSEUDO_COUNT
    ideal = weights / weights.sum() * (_TOTAL - len(weights))
    floor = np.floor(ideal)
    missing = int(_TOTAL - len(weights) - floor.sum())
    floor[np.argsort(floor - ideal, kind="stable")[:missing]] += 1
    return np.asarray(floor + 1, dtype=np.uint32)


def _model(frequencies: NDArray[np.uint32]) -> Any:
    """Model for constriction's coders of exactly these frequencies.

    With `perfect=False` it gives symbol i the fixed-point weight 1 + w_i * (2**24 - levels) / sum(w). For
    w_i = frequency * 2**8 - 1 that factor is exactly 1 and every intermediate an integer that a double holds.
    """
    weights = (frequencies.astype(np.float64) * (1 << (_CODER_PRECISION - PRECISION))) - 1.0
    return constriction.stream.model.Categorical(weights, perfect=False)


def _shortest_bytes(encoder: Any) -> bytes:
    """Shortest byte string that, continued by zeros, lies in a range encoder's final interval.

    The interval is [low, low + width) of a number of `size` bits. `low - 1` and the last member agree up to a bit
    in which the latter has a one: no member has more trailing zeros than are behind that bit. Of the members with
    as few bytes the smallest is taken.
    """
    words, (state, width) = encoder.pos()
    size = _WORD_BITS * (int(words) + _STATE_WORDS)
    low = _interval_start(encoder.get_compressed(), size, int(state))
    if low == 0:
        return b""
    last = low + int(width) - 1
    zeros = ((low - 1) ^ last).bit_length() - 1
    count = -(-(size - zeros) // 8)
    return (-(-low >> (size - 8 * count))).to_bytes(count, "big")


def _interval_start(compressed: NDArray[np.uint32], size: int, state: int) -> int:
    """Lower end of the final interval, from a number inside it and its own last 64 bits.

    The words already written may still await a carry, so they cannot be read off directly.
    """
    inside = int.from_bytes(compressed.astype(">u4").tobytes(), "big")
    shift = size - _WORD_BITS * len(compressed)
    inside = inside << shift if shift >= 0 else inside >> -shift
    return inside - (inside - state) % (1 << (_WORD_BITS * _STATE_WORDS))


def _max_coded_bytes(tables: FrequencyTables, cells: int) -> int:
    """Bytes of the costliest code, with what the coder's rounding can add (below 2**-7 bits a symbol)."""
    bits = float(tables.symbol_bits.max(axis=1).sum()) * cells + tables.channels * cells / 128
    return int(bits / 8) + 2


def _fingerprint(tables: FrequencyTables, shape: Sequence[int], key: bytes) -> bytes:
    """SHA-256 of all that both ends must agree on."""
    numbers = np.array([FORMAT_VERSION, PRECISION, *shape, tables.levels, len(key)], dtype="<u4")
    return hashlib.sha256(numbers.tobytes() + key + tables.frequencies.astype("<u4").tobytes()).digest()
