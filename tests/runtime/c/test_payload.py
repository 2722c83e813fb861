"""The payload coder in C makes the bytes of the one in Python: as a library, with sanitizers, and on a Cortex-M."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import autosplit.runtime
from autosplit.core.errors import PayloadError
from autosplit.runtime.standalone.payload.coder import PayloadCoder, raw_bytes
from autosplit.runtime.standalone.payload.contexts import CONTEXTS
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.runtime.standalone.payload.header import FORMAT_VERSION, HEADER_BYTES, header
from tests.runtime.c import emulated

SOURCES = Path(autosplit.runtime.__file__).parent / "c" / "sources"
KEY = b"a deployment"
CODERS = 250
GUARD, GUARDED = 0xA5, 16  # what stands behind a buffer, and how many bytes of it

PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "payload.h"

/* Memory of just that size, so that a sanitizer sees each byte too many, and of odd alignment if `odd` is 1. */
static uint8_t *get(FILE *file, size_t size, size_t odd) {
    uint8_t *bytes = malloc(size + odd);
    if (bytes == NULL || (file != NULL && fread(bytes + odd, 1, size, file) != size)) {
        exit(3);
    }
    return bytes + odd;
}

int main(void) {
    FILE *file = fopen(CASES, "rb");
    uint32_t n[9];
    if (file == NULL) {
        return 2;
    }
    while (fread(n, sizeof n, 1, file) == 1) {
        const size_t cells = (size_t)n[1] * n[2];
        uint8_t *cumulative = get(file, 2 * AUTOSPLIT_CUMULATIVE(n[0], n[4], n[3]), 0);
        uint8_t *middle = n[4] == 1 ? NULL : get(file, 2 * n[0], 1);
        const autosplit_coder coder = {(uint16_t)n[0], (uint16_t)n[1], (uint16_t)n[2], (uint16_t)n[3],
                                       (const uint16_t *)(void *)cumulative, middle, n[5], (uint8_t)n[6]};
        for (uint32_t code = 0; code < n[7]; code++) {
            uint8_t *symbols = get(file, n[0] * cells, 1);
            uint8_t *payload = get(NULL, AUTOSPLIT_MAX_PAYLOAD(n[0], n[1], n[2], n[8]), 1);
            uint8_t *scratch = middle == NULL ? NULL : get(NULL, AUTOSPLIT_SCRATCH(n[0], n[1], n[2]), 1);
            const size_t length = autosplit_payload(&coder, symbols, payload, scratch);
            for (size_t i = 0; i < length; i++) {
                printf("%02x", payload[i]);
            }
            printf("\n");
            free(symbols - 1);
            free(payload - 1);
            free(scratch == NULL ? NULL : scratch - 1);
        }
        free(cumulative);
        free(middle == NULL ? NULL : middle - 1);
    }
    return 0;
}
"""


def _seed(tables: FrequencyTables, shape: tuple[int, int, int], key: bytes) -> int:
    """CRC-32 of the fingerprint, as docs/protocol.md tells it."""
    numbers = np.array([2, 16, *shape, tables.levels, len(key)], dtype="<u4").tobytes()
    rows = tables.to_arrays()["frequencies"].astype("<u4").tobytes()
    return zlib.crc32(hashlib.sha256(numbers + key + rows).digest())


@dataclass(frozen=True)
class Case:
    """A coder, some codes and what Python makes of them."""

    tables: FrequencyTables
    shape: tuple[int, int, int]
    rate: int
    seed: int
    codes: NDArray[np.uint8]
    payloads: list[bytes]

    @classmethod
    def of(
        cls, tables: FrequencyTables, shape: tuple[int, int, int], codes: Sequence[NDArray[Any]], rate: int = 0,
        key: bytes = KEY,
    ) -> Case:
        """With the payloads of `PayloadCoder`."""
        coder = PayloadCoder(tables, shape, key, rate)
        whole = np.stack([np.asarray(code, dtype=np.uint8).reshape(shape) for code in codes])
        return cls(tables, shape, rate, _seed(tables, shape, key), whole, coder.encode_batch(whole))

    @property
    def bits(self) -> int:
        return self.tables.levels.bit_length() - 1

    @property
    def first(self) -> int:
        return FORMAT_VERSION << 4 | self.rate

    @property
    def cumulative(self) -> NDArray[np.uint16]:
        """The tables as C has them."""
        sums = np.cumsum(self.tables.frequencies, axis=-1) - self.tables.frequencies
        return np.append(sums.ravel(), 0).astype(np.uint16)

    @property
    def middle(self) -> NDArray[np.uint8] | None:
        return None if self.tables.middle is None else self.tables.middle.astype(np.uint8)

    @property
    def scratch_bytes(self) -> int:
        """As `AUTOSPLIT_SCRATCH` counts them."""
        channels, height, width = self.shape
        return channels * (height * -(-width // 2) + 1) + 10 * -(-height * width // 2)

    def to_bytes(self) -> bytes:
        """What `PROGRAM` reads."""
        rows = 1 if self.middle is None else CONTEXTS
        numbers = struct.pack("<9I", *self.shape, self.tables.levels, rows, self.seed, self.first, len(self.codes),
                              self.bits)
        middle = b"" if self.middle is None else self.middle.tobytes()
        return numbers + self.cumulative.astype("<u2").tobytes() + middle + self.codes.tobytes()


def _random_tables(rng: np.random.Generator, channels: int, levels: int) -> FrequencyTables:
    """From peaked to nearly flat, with contexts in all channels, in some of them or in none."""
    contexts = rng.random() < 0.65
    shape = (channels, CONTEXTS, levels) if contexts else (channels, levels)
    weights = rng.dirichlet(np.full(levels, rng.choice([0.02, 0.3, 3.0, 1e5])), size=shape[:-1])
    frequencies = 1 + np.floor(weights * (2**16 - levels)).astype(np.uint32)
    frequencies[..., -1] += np.uint32(2**16) - frequencies.sum(axis=-1, dtype=np.uint32)
    if not contexts:
        return FrequencyTables(frequencies)
    middle = np.sort(rng.integers(0, levels, (channels, 2)), axis=1)
    middle[rng.random(channels) < rng.choice([0.0, 0.4, 1.0])] = 0, levels - 1
    return FrequencyTables(frequencies, middle)


def _random_case(number: int) -> Case:
    rng = np.random.default_rng(number)
    levels = 2 << number % 8
    channels = int(rng.integers(1, 10))
    height, width = (int(side) for side in rng.integers(1, 8, 2))
    shape, cells = (channels, height, width), height * width
    tables = _random_tables(rng, channels, levels)
    rows = tables.frequencies.reshape(channels, -1, levels)
    likely = np.stack([rng.choice(levels, cells, p=rows[k, -1] / 2**16) for k in range(channels)])
    # after some symbols only the first: what it narrows leaves the lower end where it was, however rare it is
    ending = likely.copy()
    ending.ravel()[int(rng.integers(0, 4)) :] = 0
    codes = [likely, ending, rng.integers(0, levels, shape), np.zeros(shape), np.full(shape, levels - 1),
             np.repeat(rows[:, 0].argmin(axis=1), cells), np.repeat(rows[:, 0].argmax(axis=1), cells)]
    # and codes of short byte strings, whose interval may be far narrower
    rate = number % 16
    coder, seed = PayloadCoder(tables, shape, KEY, rate), _seed(tables, shape, KEY)
    for length in {1, 3, raw_bytes(shape, levels) - 1}:
        body = rng.bytes(length) if length > 0 else b""
        try:
            codes.append(coder.decode(header(body, rate, seed) + body))
        except PayloadError:  # no shortest string
            continue
    return Case.of(tables, shape, codes, rate)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Tables and codes of many kinds, the same in each run."""
    return [_random_case(number) for number in range(CODERS)]


@pytest.fixture(scope="module")
def few_cases(cases: list[Case]) -> list[Case]:
    """Twenty payloads: each of another coder, each kind of code twice."""
    some = cases[3::7][:20]
    assert len(some) == 20
    chosen = [n % 7 for n in range(20)]
    return [Case(case.tables, case.shape, case.rate, case.seed, case.codes[n : n + 1], case.payloads[n : n + 1])
            for n, case in zip(chosen, some, strict=True)]


def test_the_cases_are_of_all_kinds(cases: list[Case]) -> None:
    """Else the comparisons below would show little."""
    kinds: dict[str, int] = {}
    for case in cases:
        aware = case.tables.aware
        contexts = "no" if not aware.any() else "all" if aware.all() else "some"
        plain = HEADER_BYTES + raw_bytes(case.shape, case.tables.levels)
        entropy = case.tables.entropy_bits(case.codes) / 8
        for payload, coded_bytes in zip(case.payloads, entropy, strict=True):
            size = "empty" if len(payload) == HEADER_BYTES else "plain" if len(payload) == plain else "coded"
            beyond = ", beyond" if size != "plain" and coded_bytes > plain else ""
            kinds[f"{contexts}, {size}{beyond}"] = kinds.get(f"{contexts}, {size}{beyond}", 0) + 1
    assert sum(kinds.values()) > 2000
    sizes = ["empty", "plain", "coded", "empty, beyond", "coded, beyond"]
    assert all(kinds.get(f"{contexts}, {size}", 0) >= 5 for contexts in ("no", "some", "all") for size in sizes), kinds
    assert {case.bits for case in cases} == set(range(1, 9))
    assert {case.shape[0] for case in cases} == set(range(1, 10))
    for axis in (1, 2):
        assert {case.shape[axis] for case in cases} == set(range(1, 8))
    assert sum(case.shape[1:] == (1, 1) and bool(case.tables.aware.any()) for case in cases) > 0


# --- as a library


class _Coder(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_uint16), ("height", ctypes.c_uint16), ("width", ctypes.c_uint16),
        ("levels", ctypes.c_uint16), ("cumulative", ctypes.c_void_p), ("middle", ctypes.c_void_p),
        ("seed", ctypes.c_uint32), ("first", ctypes.c_uint8),
    )


class _Library:
    """`autosplit_payload` of a shared library; it fails where bytes beyond a buffer are changed."""

    def __init__(self, path: Path) -> None:
        self._function = ctypes.CDLL(str(path)).autosplit_payload
        self._function.restype = ctypes.c_size_t
        self._function.argtypes = [ctypes.c_void_p] * 4

    def payload(self, case: Case, code: NDArray[np.uint8]) -> bytes | None:
        """Of one code; `None` if it is refused, with its memory as it was."""
        cumulative, middle, symbols = case.cumulative, case.middle, code.copy()
        most = HEADER_BYTES + raw_bytes(case.shape, case.tables.levels)
        payload = np.full(most + GUARDED, GUARD, dtype=np.uint8)
        scratch = np.full(case.scratch_bytes + GUARDED, GUARD, dtype=np.uint8)
        coder = _Coder(*case.shape, case.tables.levels, cumulative.ctypes.data,
                       None if middle is None else middle.ctypes.data, case.seed, case.first)
        size = self._function(ctypes.addressof(coder), symbols.ctypes.data, payload.ctypes.data,
                              None if middle is None else scratch.ctypes.data)
        assert np.array_equal(symbols, code)
        assert (scratch[case.scratch_bytes :] == GUARD).all()
        assert (payload[most if size else 0 :] == GUARD).all()
        return payload[:size].tobytes() if size else None


@pytest.fixture(scope="module", params=["gcc -O2", "gcc -O3", "clang -O2", "clang -O3"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Library:
    """The coder, which compiles without a warning."""
    compiler, level = str(request.param).split()
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} on this machine")
    path = tmp_path_factory.mktemp("payload") / "payload.so"
    done = subprocess.run([compiler, *emulated.STRICT, level, "-shared", "-fPIC", str(SOURCES / "payload.c"), "-o",
                           str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return _Library(path)


def test_payloads_are_those_of_python(library: _Library, cases: list[Case]) -> None:
    for number, case in enumerate(cases):
        for code, expected in zip(case.codes, case.payloads, strict=True):
            assert library.payload(case, code) == expected, f"case {number}, symbols {code.ravel().tolist()}"


def test_known_payloads(library: _Library) -> None:
    """Those of docs/protocol.md."""
    tables = FrequencyTables(np.array([[1000, 60000, 4000, 536], [16384] * 4], dtype=np.uint32))
    second = [3, 0, 1, 2, 2, 3]
    case = Case.of(tables, (2, 2, 3), [np.array([1] * 6 + second), np.array([1, 1, 1, 2, 1, 0, *second])], key=b"known")
    made = [library.payload(case, code) for code in case.codes]
    assert made == [bytes.fromhex("208a40058804"), bytes.fromhex("2058f4a5564c6b")]


def test_a_symbol_out_of_range_is_refused(library: _Library, cases: list[Case]) -> None:
    """Wherever it is, and whether or not the code would be plain; the payload's memory stays as it was."""
    rng = np.random.default_rng(0)
    refused = 0
    for case in cases:
        if case.tables.levels == 256:
            continue
        for code in case.codes[:3]:
            for symbol in (case.tables.levels, 255):
                wrong = code.copy()
                wrong.ravel()[rng.choice([0, wrong.size - 1, rng.integers(wrong.size)])] = symbol
                assert library.payload(case, wrong) is None
                refused += 1
    assert refused > 500


# --- as a program


def _written(cases: list[Case], folder: Path) -> tuple[Path, str]:
    """The program's source, and the option that names its cases."""
    program, data = folder / "program.c", folder / "cases.bin"
    program.write_text(PROGRAM)
    data.write_bytes(b"".join(case.to_bytes() for case in cases))
    return program, f'-DCASES="{data}"'


def _expected(cases: list[Case]) -> list[str]:
    return [payload.hex() for case in cases for payload in case.payloads]


def test_no_undefined_behaviour(cases: list[Case], tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers, with memory of exactly the sizes that payload.h names."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler, `cc`, on this machine")
    sanitized = ["cc", "-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if subprocess.run([*sanitized, str(empty), "-o", str(tmp_path / "empty")], capture_output=True).returncode:
        pytest.skip("the C compiler of this machine has no sanitizers")
    program, option = _written(cases, tmp_path)
    built = tmp_path / "program"
    subprocess.run([*sanitized, option, f"-I{SOURCES}", str(program), str(SOURCES / "payload.c"), "-o", str(built)],
                   check=True)
    # leaks are looked for with ptrace, which containers forbid
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(built)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.split() == _expected(cases)


@pytest.mark.skipif(bool(emulated.MISSING), reason=f"not on this machine: {', '.join(emulated.MISSING)}")
@pytest.mark.parametrize("core", ["m4", "m7"])
def test_a_microcontroller_makes_the_same_payloads(few_cases: list[Case], tmp_path: Path, core: emulated.Core) -> None:
    program, option = _written(few_cases, tmp_path)
    printed = emulated.run([program, SOURCES / "payload.c"], [SOURCES], tmp_path, core, ("-O2", option))
    assert printed.split() == _expected(few_cases)
