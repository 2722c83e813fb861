"""Payloads: round trips, size, corruption, a second implementation of the format."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autosplit.core.errors import ConfigError, PayloadError
from autosplit.runtime.standalone.payload.coder import PayloadCoder, coded_bytes, payload_bytes, raw_bytes
from autosplit.runtime.standalone.payload.frequencies import PRECISION, FrequencyTables
from autosplit.runtime.standalone.payload.header import HEADER_BYTES, header
from tests.runtime.standalone.payload.codes import QUICK, codes_of, smooth_codes

KEY = b"deployment 1"
TOTAL = 2**PRECISION


def _coder(shape=(4, 3, 3), bits=3, spread=1.0, key=KEY, seed=0):
    codes = codes_of(shape, bits, spread, seed=seed)
    return PayloadCoder(FrequencyTables.fit(codes, bits), shape, key), codes


@pytest.fixture(scope="module")
def coder_and_payloads():
    coder, codes = _coder((8, 4, 4), 4)
    return coder, coder.encode_batch(codes)


@given(shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)), bits=st.integers(1, 8),
       spread=st.sampled_from([0.0, 0.2, 1.0, 99.0, "smooth"]), seed=st.integers(0, 999))
@QUICK
def test_round_trip(shape, bits, spread, seed):
    """Codes like the calibration, and codes it never saw, come back; the order of size is predicted."""
    codes = smooth_codes(shape, bits, seed=seed) if spread == "smooth" else codes_of(shape, bits, spread, seed=seed)
    tables = FrequencyTables.fit(codes, bits)
    coder = PayloadCoder(tables, shape, KEY)
    unseen = np.random.default_rng(seed).integers(0, 2**bits, (3, *shape))
    edges = np.stack([np.zeros(shape, dtype=int), np.full(shape, 2**bits - 1)])
    images = np.concatenate([codes[:4], unseen, edges])
    payloads = coder.encode_batch(images)
    assert np.array_equal(coder.decode_batch(payloads), images)
    upper = np.ceil(tables.entropy_bits(images) / 8 * 1.002) + HEADER_BYTES
    sizes = np.array([len(p) for p in payloads])
    assert (sizes <= upper).all()
    assert (sizes <= coder.max_payload_bytes).all()


def test_decoded_symbols_are_int32_in_the_shape_of_the_code():
    coder, codes = _coder()
    decoded = coder.decode(coder.encode(codes[0].astype(np.uint8)))
    assert decoded.dtype == np.int32
    assert decoded.shape == coder.shape == (4, 3, 3)
    assert coder.decode_batch([]).shape == (0, 4, 3, 3)


def test_strided_symbols_and_any_bytes_like_payload():
    coder, codes = _coder()
    image = np.asfortranarray(codes[0])
    payload = coder.encode(image)
    assert payload == coder.encode(codes[0])
    for view in (bytearray(payload), memoryview(payload)):
        assert np.array_equal(coder.decode(view), image)


def test_a_code_of_one_symbol_is_a_header():
    coder, codes = _coder((4, 4, 4), 1, 0.0)
    assert max(len(p) for p in coder.encode_batch(codes)) <= HEADER_BYTES + 1


@pytest.mark.parametrize(("shape", "bits", "spread"), [
    ((2, 4, 4), 2, 1.0), ((8, 4, 4), 2, 0.5), ((8, 4, 4), 4, 1.0), ((16, 4, 4), 1, 99.0), ((32, 8, 8), 3, 1.0),
])
def test_size_is_entropy_plus_header_plus_half_a_byte_on_average(shape, bits, spread):
    codes = codes_of(shape, bits, spread, 400)
    tables = FrequencyTables.fit(codes[:200], bits)
    sizes = np.array([len(p) for p in PayloadCoder(tables, shape, KEY).encode_batch(codes[200:])])
    entropy = tables.entropy_bits(codes[200:])
    predicted = payload_bytes(tables, codes[200:])
    if spread < 10:  # or they cross as they are
        assert 0 <= (sizes - entropy / 8).mean() - HEADER_BYTES < 0.5
    assert abs((sizes - predicted).mean()) < 0.15
    assert (np.abs(sizes - predicted) <= 1 + 0.02 * predicted).mean() > 0.95
    assert np.abs(sizes - predicted).max() <= 4
    assert np.abs(np.quantile(sizes, 0.95) - np.quantile(predicted, 0.95)) <= 1 + 0.02 * predicted.max()


def test_predicted_size_keeps_shape_and_grows_with_entropy():
    assert float(coded_bytes(0.0)) == HEADER_BYTES
    assert coded_bytes(np.zeros((2, 3))).shape == (2, 3)
    assert (np.diff(coded_bytes(np.linspace(0, 5000, 9999))) >= 0).all()
    np.testing.assert_allclose(coded_bytes(np.arange(8000.0, 9000, 0.01)).mean(), HEADER_BYTES + 8500 / 8 + 0.32,
                               atol=0.01)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_code_that_has_moved_takes_no_more_than_its_plain_symbols(bits):
    """Every symbol is one that calibration never saw; range-coded it would take up to 16 bits."""
    shape = (5, 3, 3)
    tables = FrequencyTables.fit(np.zeros((500, *shape), dtype=int), bits)
    moved = np.random.default_rng(0).integers(1, 2**bits, (20, *shape))
    coder = PayloadCoder(tables, shape, KEY)
    payloads = coder.encode_batch(moved)
    assert np.array_equal(coder.decode_batch(payloads), moved)
    assert {len(p) for p in payloads} == {HEADER_BYTES + -(-45 * bits // 8)} == {coder.max_payload_bytes}
    assert raw_bytes(shape, 2**bits) == coder.max_payload_bytes - HEADER_BYTES
    assert coded_bytes(tables.entropy_bits(moved)).min() > coder.max_payload_bytes
    np.testing.assert_array_equal(payload_bytes(tables, moved), coder.max_payload_bytes)  # predicted as it is sent


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_predictions_hold_where_codes_move_in_part(share, bits):
    shape, rng = (4, 4, 4), np.random.default_rng(0)
    tables = FrequencyTables.fit(np.zeros((500, *shape), dtype=int), bits)
    codes = np.where(rng.random((50, *shape)) < share, rng.integers(0, 2**bits, (50, *shape)), 0)
    sizes = np.array([len(p) for p in PayloadCoder(tables, shape, KEY).encode_batch(codes)])
    assert abs((sizes - payload_bytes(tables, codes)).mean()) < 0.2


def test_plain_symbols_are_refused_where_coding_is_shorter():
    """One code has one payload: what could be coded is not taken as it is, and the last bits are zeros."""
    coder, _ = _coder((3, 3, 3), 3, 0.1)
    raw = bytes(coder.max_payload_bytes - HEADER_BYTES)
    _assert_refused(coder, header(raw, 0, coder._seed) + raw)
    padded = PayloadCoder(FrequencyTables.fit(np.zeros((500, 1, 3, 3), dtype=int), 3), (1, 3, 3), KEY)
    whole = padded.encode(np.full((1, 3, 3), 5))
    body = whole[HEADER_BYTES:-1] + bytes([whole[-1] | 1])
    _assert_refused(padded, header(body, 0, padded._seed) + body)


@pytest.mark.parametrize("symbols", [np.zeros((4, 3, 2), int), np.zeros((1, 4, 3, 3), int), np.full((4, 3, 3), -1),
                                     np.full((4, 3, 3), 2**33), np.zeros((4, 3, 3)), [[0]]])
def test_symbols_that_do_not_fit_the_coder_are_refused(symbols):
    with pytest.raises(ConfigError, match="symbols"):
        _coder()[0].encode(symbols)


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 3), (4, 0, 3)])
def test_a_shape_that_does_not_fit_the_tables_is_refused(shape):
    tables = FrequencyTables.fit(codes_of((4, 3, 3), 3, 1.0), 3)
    with pytest.raises(ConfigError, match="the code's shape"):
        PayloadCoder(tables, shape, KEY)


def test_another_process_decodes_the_same_symbols():
    coder, codes = _coder((3, 4, 4), 4)
    frequencies = FrequencyTables.fit(codes, 4).to_arrays()["frequencies"]
    script = f"""
import base64, sys
import numpy as np
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
table = np.frombuffer(base64.b64decode({base64.b64encode(frequencies.tobytes())!r}), np.uint16).reshape(3, 16)
coder = PayloadCoder(FrequencyTables.from_arrays({{"frequencies": table}}), (3, 4, 4), {KEY!r})
print(coder.decode(bytes.fromhex(sys.argv[1])).ravel().tolist())
"""
    answer = subprocess.run([sys.executable, "-c", script, coder.encode(codes[0]).hex()], check=True, text=True,
                            capture_output=True).stdout
    assert answer.strip() == str(codes[0].ravel().tolist())


# --- the byte format, written a second time from docs/protocol.md


def _reference_order(code: NDArray[np.int64], tables: FrequencyTables) -> Iterator[tuple[int, list[int]]]:
    """Each symbol with the table that codes it, in coding order."""
    channels, height, width = code.shape
    whole = [0, tables.levels - 1]
    middle = [whole] * channels if tables.middle is None else tables.middle.tolist()
    rows = tables.frequencies.reshape(channels, -1, tables.levels).tolist()
    for k in range(channels):
        if middle[k] == whole:
            yield from ((symbol, rows[k][0]) for symbol in code[k].ravel().tolist())
    step = 1
    while step < max(height, width):
        step *= 2
    passes = [([(0, 0)], [])]
    while step > 1:
        half = step // 2
        passes.append(([(y, x) for y in range(half, height, step) for x in range(half, width, step)],
                       [(-half, -half), (-half, half), (half, -half), (half, half)]))
        passes.append(([(y, x) for y in range(0, height, half) for x in range(0, width, half)
                        if (y // half + x // half) % 2], [(-half, 0), (half, 0), (0, -half), (0, half)]))
        step = half
    pairs = [(a, b) for a in range(5) for b in range(5 - a)]
    for cells, around in passes:
        for k in range(channels):
            for y, x in cells if middle[k] != whole else ():
                near = [int(code[k, y + dy, x + dx]) for dy, dx in around
                        if 0 <= y + dy < height and 0 <= x + dx < width]
                above, below = sum(n > middle[k][1] for n in near), sum(n < middle[k][0] for n in near)
                yield int(code[k, y, x]), rows[k][pairs.index((above, below))]


def _reference_interval(code: NDArray[np.int64], tables: FrequencyTables) -> tuple[int, int, int]:
    """Final interval [low, low + width) of a number of `size` bits, in exact integers of any length."""
    low, width, size = 0, 2**64 - 1, 64
    for symbol, table in _reference_order(code, tables):
        scale = width >> 24
        low += scale * sum(table[:symbol]) * 256
        width = scale * table[symbol] * 256
        if width < 2**32:
            low, width, size = low << 32, width << 32, size + 32
    return low, width, size


def _reference_payload(code: NDArray[np.int64], tables: FrequencyTables, key: bytes) -> bytes:
    low, width, size = _reference_interval(code, tables)
    bits = tables.levels.bit_length() - 1
    text = "".join(f"{symbol:0{bits}b}" for symbol in code.ravel())
    raw = bytes(int(text[i:i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))
    coded, count = b"", 0
    while True:  # the shortest byte string whose number, continued by zeros, is in the interval
        unit = 2 ** (size - 8 * count)
        number = -(-low // unit)
        if number * unit < low + width:
            coded = number.to_bytes(count, "big")
            break
        count += 1
    coded = raw if len(coded) >= len(raw) else coded
    agreed = np.array([2, 16, *code.shape, tables.levels, len(key)], dtype="<u4").tobytes()
    numbers = tables.frequencies
    if tables.middle is not None:
        last = np.zeros((tables.channels, 1, tables.levels), dtype=np.int64)
        last[:, 0, :2] = tables.middle
        numbers = np.concatenate([numbers, last], axis=1)
    digest = hashlib.sha256(agreed + key + numbers.astype("<u4").tobytes()).digest()
    return b"\x20" + (zlib.crc32(digest + coded) % 2**24).to_bytes(3, "big") + coded


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)), bits=st.integers(1, 8),
       spread=st.sampled_from([0.0, 0.3, 1.0, 99.0, "smooth"]), seed=st.integers(0, 999))
@QUICK
def test_a_second_implementation_makes_the_same_bytes(shape, bits, spread, seed):
    """Proves that constriction's models hold exactly our integer frequencies, so any machine agrees."""
    codes = smooth_codes(shape, bits, seed=seed) if spread == "smooth" else codes_of(shape, bits, spread, seed=seed)
    tables = FrequencyTables.fit(codes, bits)
    coder = PayloadCoder(tables, shape, KEY)
    unseen = np.random.default_rng(seed).integers(0, 2**bits, (2, *shape))
    for image in np.concatenate([codes[:2], unseen]):
        assert coder.encode(image) == _reference_payload(image, tables, KEY)


def test_known_payload():
    """Bytes written down once: a change of format, or of constriction, must not pass unseen."""
    tables = FrequencyTables(np.array([[1000, 60000, 4000, 536], [16384] * 4]))
    coder = PayloadCoder(tables, (2, 2, 3), b"known")
    symbols = np.array([[[1, 1, 1], [1, 1, 1]], [[3, 0, 1], [2, 2, 3]]])
    assert coder.encode(symbols).hex() == "208a40058804"
    symbols[0] = [[1, 1, 1], [2, 1, 0]]  # three bytes coded, three as they are
    assert coder.encode(symbols).hex() == "2058f4a5564c6b"


# --- whatever is not a payload of this coder is refused


def _assert_refused(coder: PayloadCoder, payload: object) -> None:
    with pytest.raises(PayloadError) as caught:
        coder.decode(payload)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_every_single_bit_flip_is_detected(coder_and_payloads):
    coder, payloads = coder_and_payloads
    for payload in payloads[:4]:
        for bit in range(8 * len(payload)):
            altered = bytearray(payload)
            altered[bit // 8] ^= 1 << bit % 8
            _assert_refused(coder, bytes(altered))


@pytest.mark.parametrize("length", [8, 64, 400])
def test_the_truncated_checksum_tells_all_one_and_two_bit_errors(length):
    """CRC is linear: an error goes unseen only if its own checksum change, whatever the data, is zero."""
    clean, changes = zlib.crc32(bytes(length)), set()
    for bit in range(8 * length):
        error = bytearray(length)
        error[bit // 8] = 1 << bit % 8
        changes.add((zlib.crc32(error) ^ clean) & 0xFFFFFF)
    assert len(changes) == 8 * length
    assert 0 not in changes


def test_every_truncation_and_extension_is_detected(coder_and_payloads):
    coder, payloads = coder_and_payloads
    for payload in payloads[:10]:
        for size in range(len(payload)):
            _assert_refused(coder, payload[:size])
        for more in (b"\0", b"\0\0\0\0", b"\xff", payload):
            _assert_refused(coder, payload + more)


def test_random_damage_is_detected(coder_and_payloads):
    coder, payloads = coder_and_payloads
    rng = np.random.default_rng(0)
    for _ in range(1500):
        payload = bytearray(payloads[rng.integers(len(payloads))])
        start = int(rng.integers(len(payload)))
        burst = rng.bytes(int(rng.integers(1, 9)))
        altered = bytes(payload[:start] + burst + payload[start + len(burst):])
        if altered != bytes(payload):
            _assert_refused(coder, altered)


def test_random_bytes_are_no_payload(coder_and_payloads):
    coder, _ = coder_and_payloads
    rng = np.random.default_rng(1)
    for _ in range(1500):
        _assert_refused(coder, rng.bytes(int(rng.integers(0, coder.max_payload_bytes + 20))))
        _assert_refused(coder, b"\x20" + rng.bytes(int(rng.integers(0, 80))))


def test_random_bytes_behind_a_valid_checksum_give_no_wrong_code(coder_and_payloads):
    """What the checksum lets through by chance or by intent is a real payload, bit for bit, or refused."""
    coder, _ = coder_and_payloads
    rng, refused = np.random.default_rng(2), 0
    for case in range(1500):
        size = int(rng.integers(0, coder.max_payload_bytes - HEADER_BYTES + 1))
        coded = b"\xff" * size if case % 4 == 0 else rng.bytes(size)
        payload = header(coded, coder._rate, coder._seed) + coded
        try:
            assert coder.encode(coder.decode(payload)) == payload
        except PayloadError:
            refused += 1
    assert refused > 0


def test_payloads_of_another_deployment_are_refused():
    coder, codes = _coder()
    tables = FrequencyTables.fit(codes, 3)
    other_tables = FrequencyTables.fit(codes[:30], 3)
    others = [PayloadCoder(tables, (4, 3, 3), b"deployment 2"), PayloadCoder(other_tables, (4, 3, 3), KEY),
              PayloadCoder(tables, (4, 9, 1), KEY), PayloadCoder(tables, (4, 3, 3), b"")]
    for other in others:
        for image in codes[:20]:
            _assert_refused(coder, other.encode(image.reshape(other.shape)))


def test_other_versions_and_flags_are_refused(coder_and_payloads):
    coder, payloads = coder_and_payloads
    for first in set(range(256)) - {0x20}:
        _assert_refused(coder, bytes([first]) + payloads[0][1:])


@pytest.mark.parametrize("thing", [None, 3, "text", [16, 0, 0, 0], b"", bytes(50_000_000), np.zeros(8, np.uint8)])
def test_what_is_no_payload_at_all_is_refused(coder_and_payloads, thing):
    _assert_refused(coder_and_payloads[0], thing)
