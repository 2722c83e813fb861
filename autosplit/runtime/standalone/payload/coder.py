"""From symbols to payload bytes and back: range coder, header, checksum.

`PayloadCoder` makes the bytes that cross the channel; `payload_bytes` predicts their number. `docs/protocol.md`
describes them so that another implementation can read them.

The coder is constriction's range coder (Bamler 2022, arXiv 2201.01741) with models of integer frequencies, so the
same symbols give the same bytes on every machine. Symbols that are rare under the tables cost many bits, up to 16: a
code that has moved away from the calibration data would take several times the bits that it has. So no payload is
longer than the plain symbols, `raw_bytes`: where range coding does not make a code shorter, it crosses as it is.

A range coder narrows an interval symbol by symbol, each
symbol taking a part as wide as its probability; any number in the final interval identifies all symbols. The payload
carries the one with the shortest byte string: about a third of a byte above the entropy, not up to two 32-bit words.

This module needs numpy and constriction alone, so that a device can run it beside another inference engine.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, PayloadError
from .contexts import coding_passes, contexts_of, sides
from .frequencies import PRECISION, FrequencyTables, check_symbols
from .header import FORMAT_VERSION, HEADER_BYTES, MAX_RATES, header

__all__ = ["PayloadCoder", "coded_bytes", "payload_bytes", "raw_bytes", "shortest_bytes"]

_CODER_PRECISION = 24  # fixed-point bits of constriction's default coders
_WORD_BITS = 32
_STATE_WORDS = 2


def raw_bytes(shape: Sequence[int], levels: int) -> int:
    """Bytes of a code's plain symbols, and so the most that any payload has behind its header.

    Args:
        shape: Of one image's code, (K, gh, gw).
        levels: Symbols that a value can take, a power of two.
    """
    return -(-math.prod(shape) * (levels.bit_length() - 1) // 8)


def payload_bytes(tables: FrequencyTables, symbols: NDArray[Any]) -> NDArray[np.float64]:
    """Expected payload size of codes, without coding them.

    Args:
        tables: What they are coded with.
        symbols: Integers of shape (N, K, gh, gw).

    Returns:
        Expected bytes including the header, shape (N,). One payload is off by less than a byte as a rule; the mean
        over many by a few hundredths, at most about a tenth, of a byte.

    Raises:
        ConfigError: Wrong shape, type or range.
    """
    most = HEADER_BYTES + raw_bytes(symbols.shape[1:], tables.levels)
    return np.minimum(coded_bytes(tables.entropy_bits(symbols)), most)


def coded_bytes(entropy_bits: ArrayLike) -> NDArray[np.float64]:
    """Expected size of range-coded payloads, whatever the size of the plain symbols.

    A final interval of width 2**-b always holds a number of n = ceil(b / 8) bytes, and holds one of m < n bytes
    with probability 2**(8 m - b); the expectation over the interval's place follows.

    Args:
        entropy_bits: Bits of each code (`FrequencyTables.entropy_bits`), any shape.

    Returns:
        Expected bytes including the header, the shape of `entropy_bits`.
    """
    bits = np.asarray(entropy_bits, dtype=np.float64)
    whole = np.ceil(bits / 8)
    saved = (np.exp2(8 * whole - bits) - np.exp2(-bits)) / 255
    return np.asarray(HEADER_BYTES + whole - saved, dtype=np.float64)


class PayloadCoder:
    """Turns the symbols of one image into payload bytes and back; immutable, so threads may share one.

    Built once per deployment, on the device and on the edge, from the same tables, shape and key: the per-channel
    models are made here. Payloads of a coder that differs in any of the three are refused.

    Args:
        tables: Frequency tables of the code, one per channel.
        shape: Shape (K, gh, gw) of one image's code.
        key: Identifies the deployment, such as a hash of its weights; not a secret, and no protection against
            somebody who forges payloads on purpose.
        rate: Number of the rate in its bundle, which payloads carry.

    Attributes:
        tables: As given.

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
        self.tables, self._levels, self._rate = tables, tables.levels, rate
        # With `perfect=False` constriction gives symbol i the fixed-point weight 1 + w_i * (2**24 - levels) / sum(w).
        # For w_i = frequency * 2**8 - 1 that factor is exactly 1 and every intermediate an integer that a double
        # holds: the coder uses exactly the table's frequencies, whatever the machine's floating point does.
        weights = (tables.frequencies.astype(np.float64) * (1 << (_CODER_PRECISION - PRECISION))) - 1.0
        plain, self._aware = np.flatnonzero(~tables.aware), np.flatnonzero(tables.aware)
        self._middle = np.zeros((0, 2), dtype=np.int64) if tables.middle is None else tables.middle[self._aware]
        by_channel = weights.reshape(tables.channels, -1, tables.levels)
        self._models = {int(k): constriction.stream.model.Categorical(by_channel[k, 0], perfect=False) for k in plain}
        self._by_context = constriction.stream.model.Categorical(perfect=False)
        self._weights = by_channel[self._aware].astype(np.float32)  # exact: below 2**24
        # all that both ends must agree on goes into the seed of the checksum instead of into the payload
        numbers = np.array([FORMAT_VERSION, PRECISION, *self._shape, tables.levels, len(key)], dtype="<u4")
        stored = tables.to_arrays()["frequencies"].astype("<u4")
        fingerprint = hashlib.sha256(numbers.tobytes() + key + stored.tobytes()).digest()
        self._seed = zlib.crc32(fingerprint)
        self._raw_bytes = raw_bytes(self._shape, tables.levels)
        # the costliest code, with what the coder's rounding can add (below 2**-7 bits a symbol)
        dearest = tables.symbol_bits.reshape(tables.channels, -1).max(axis=1)
        most_bits = float(dearest.sum()) * self._cells + tables.channels * self._cells / 128
        self._max_coded = int(most_bits / 8) + 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (K, gh, gw) of one image's code."""
        return self._shape

    @property
    def seed(self) -> int:
        """CRC-32 of all that both ends must agree on: what the checksum of a payload begins with."""
        return self._seed

    @property
    def first_byte(self) -> int:
        """What every payload begins with: format version and rate."""
        return FORMAT_VERSION << 4 | self._rate

    @property
    def max_payload_bytes(self) -> int:
        """No payload of this coder is longer, whatever the symbols."""
        return HEADER_BYTES + self._raw_bytes

    def encode(self, symbols: NDArray[Any]) -> bytes:
        """The payload of one image, decoded once before it is returned.

        Args:
            symbols: Integers of shape (K, gh, gw) in [0, levels - 1].

        Raises:
            ConfigError: Wrong shape, type or range.
            PayloadError: The payload would not decode to these symbols (a fault of the range coder).
        """
        check_symbols(symbols, self._levels)
        if symbols.shape != self._shape:
            raise ConfigError(f"the payload coder was built for symbols of shape {self._shape}, got {symbols.shape}")
        flat = np.ascontiguousarray(symbols, dtype=np.int32).reshape(self._shape[0], self._cells)
        coded = self._to_body(flat)
        if not np.array_equal(self._to_symbols(coded), flat):
            raise PayloadError("the range coder's output does not decode to its input; check the installed version "
                               "of constriction (autosplit is tested with 0.4.2 and 0.5)")
        return header(coded, self._rate, self._seed) + coded

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
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise PayloadError(f"a payload is bytes, got {type(payload).__name__}")
        size = memoryview(payload).nbytes
        if not HEADER_BYTES <= size <= self.max_payload_bytes:
            raise PayloadError(f"payload of {size} bytes; this deployment's have {HEADER_BYTES} to "
                               f"{self.max_payload_bytes}")
        data = bytes(payload)
        coded = data[HEADER_BYTES:]
        expected = header(coded, self._rate, self._seed)
        if data[0] != expected[0]:
            raise PayloadError(f"payload starts with 0x{data[0]:02x}, expected 0x{expected[0]:02x}: not a payload, of "
                               "another rate, or of another format version; use one autosplit version at both ends")
        if not data.startswith(expected):
            raise PayloadError(f"checksum of a payload of {size} bytes does not match: it was truncated or altered, "
                               "or comes from another deployment")
        flat = self._to_symbols(coded)
        if self._to_body(flat) != coded:  # a longer string in the same interval decodes too, but nobody sends it
            raise PayloadError(f"payload of {size} bytes is not what this deployment's coder makes of its symbols; it "
                               "was altered on the way")
        return flat.reshape(self._shape)

    def encode_batch(self, symbols: NDArray[Any]) -> list[bytes]:
        """One payload per image, for symbols of shape (N, K, gh, gw); errors as in `encode`."""
        return [self.encode(image) for image in symbols]

    def decode_batch(self, payloads: Iterable[bytes]) -> NDArray[np.int32]:
        """Symbols of shape (N, K, gh, gw) of N payloads; errors as in `decode`."""
        images = [self.decode(payload) for payload in payloads]
        return np.stack(images) if images else np.zeros((0, *self._shape), dtype=np.int32)

    def _to_body(self, flat: NDArray[np.int32]) -> bytes:
        """What stands behind the header: the symbols range-coded, or as they are where that is not shorter."""
        coded = self._to_coded(flat)
        if len(coded) < self._raw_bytes:
            return coded
        bits = self._levels.bit_length() - 1
        return np.packbits(flat.reshape(-1, 1) >> np.arange(bits - 1, -1, -1) & 1).tobytes()

    def _to_coded(self, flat: NDArray[np.int32]) -> bytes:
        """Range-code symbols of shape (K, cells)."""
        encoder = constriction.stream.queue.RangeEncoder()
        for k, model in self._models.items():
            encoder.encode(flat[k], model)
        if len(self._aware):
            some = flat[self._aware]
            known = np.zeros((len(some), self._cells + 1), dtype=np.uint8)
            known[:, :-1] = sides(some, self._middle)
            for cells, neighbours in coding_passes(*self._shape[1:]):
                encoder.encode(some[:, cells].ravel(), self._by_context, self._rows(contexts_of(known, neighbours)))
        return shortest_bytes(encoder)

    def _rows(self, contexts: NDArray[np.intp]) -> NDArray[np.float32]:
        """The coder's weights for symbols in these contexts: (channels that have some, n) -> (all of them, levels)."""
        found = self._weights[np.arange(len(contexts))[:, None], contexts]
        return found.reshape(-1, self._levels)

    def _to_symbols(self, coded: bytes) -> NDArray[np.int32]:
        """Symbols of shape (K, cells) of what stands behind the header; range-coded bytes are continued by zeros."""
        if len(coded) == self._raw_bytes:
            bits = self._levels.bit_length() - 1
            count = math.prod(self._shape) * bits
            each = np.unpackbits(np.frombuffer(coded, np.uint8), count=count).reshape(-1, bits)
            return (each @ (1 << np.arange(bits - 1, -1, -1))).astype(np.int32).reshape(self._shape[0], self._cells)
        # the decoder reads ahead, so it gets as many zero bytes as the longest code could need
        room = -(-self._max_coded // 4) + _STATE_WORDS
        words = np.frombuffer(coded.ljust(4 * room, b"\0"), dtype=">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        flat = np.empty((self._shape[0], self._cells), dtype=np.int32)
        try:
            for k, model in self._models.items():
                flat[k] = decoder.decode(model, self._cells)
            if len(self._aware):
                known = np.zeros((len(self._aware), self._cells + 1), dtype=np.uint8)
                for cells, neighbours in coding_passes(*self._shape[1:]):
                    rows = self._rows(contexts_of(known, neighbours))
                    found = decoder.decode(self._by_context, rows).reshape(len(self._aware), len(cells))
                    flat[np.ix_(self._aware, cells)] = found
                    known[:, cells] = sides(found, self._middle)
        except (AssertionError, ValueError) as error:  # bytes that no encoder makes
            raise PayloadError(f"payload of {HEADER_BYTES + len(coded)} bytes holds no valid code; "
                               "it was altered on the way") from error
        return flat


def shortest_bytes(encoder: Any) -> bytes:
    """Shortest byte string that, continued by zeros, lies in the final interval of constriction's `RangeEncoder`.

    The interval is [low, low + width) of a number of `size` bits. `low - 1` and the last member agree up to a bit
    in which the latter has a one: no member has more trailing zeros than are behind that bit. Of the members with
    as few bytes the smallest is taken.
    """
    words, (state, width) = encoder.pos()
    size = _WORD_BITS * (int(words) + _STATE_WORDS)
    # `state` is the interval's lower end without its leading words. Those already written may still await a carry, so
    # they cannot be read off directly: they are taken from a number that lies inside of the interval for certain.
    compressed = encoder.get_compressed()
    inside = int.from_bytes(compressed.astype(">u4").tobytes(), "big")
    shift = size - _WORD_BITS * len(compressed)
    inside = inside << shift if shift >= 0 else inside >> -shift
    low = inside - (inside - int(state)) % (1 << (_WORD_BITS * _STATE_WORDS))
    if low == 0:
        return b""
    last = low + int(width) - 1
    zeros = ((low - 1) ^ last).bit_length() - 1
    count = -(-(size - zeros) // 8)
    return (-(-low >> (size - 8 * count))).to_bytes(count, "big")
