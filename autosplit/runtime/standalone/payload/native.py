"""The payload coder as a library in C, compiled on the device: the bytes of `PayloadCoder`, many times as fast.

A bundle that sends a code brings the source along, the one that microcontrollers run. `compile_coder` makes a library
of it, next to the source and named after the machine, so that it is not taken for another one's. The bundle's own copy
of this package uses it from then on, and no other: what lies in a bundle is run by nobody but the bundle itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, ConfigError, printable
from .frequencies import FrequencyTables, check_symbols

if TYPE_CHECKING:
    from .coder import PayloadCoder

__all__ = ["NATIVE", "NATIVE_SOURCES", "NativeCoder", "compile_coder", "cumulative_frequencies", "library_of",
           "native_coder"]

NATIVE = "native"
"""Folder of the source in a bundle."""

NATIVE_SOURCES = ("payload.c", "payload.h")

_HOME = Path(__file__).resolve().parents[2]  # the bundle that this package lies in, if it lies in one
_FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")
_COMPARED = 16  # codes of each coder that a new library is tried on
_MOST_CELLS = 1 << 16


class _Coder(ctypes.Structure):
    """`autosplit_coder` of payload.h."""

    _fields_ = (("channels", ctypes.c_uint16), ("height", ctypes.c_uint16), ("width", ctypes.c_uint16),
                ("levels", ctypes.c_uint16), ("cumulative", ctypes.c_void_p), ("middle", ctypes.c_void_p),
                ("seed", ctypes.c_uint32), ("first", ctypes.c_uint8))


def library_of(bundle: Path) -> Path:
    """Where a bundle keeps the library for this machine; it need not be there."""
    return bundle / NATIVE / f"payload-{platform.system()}-{platform.machine()}.so".lower()


def native_coder(bundle: Path, coder: PayloadCoder) -> NativeCoder | None:
    """The coder of the library that the bundle which this package lies in was given on this machine, if any.

    Args:
        bundle: The bundle that is loaded.
        coder: Whose payloads are made.

    Raises:
        BundleError: The library does not load here.
    """
    library = library_of(bundle)
    return NativeCoder(library, coder) if bundle.resolve() == _HOME and library.is_file() else None


def cumulative_frequencies(tables: FrequencyTables) -> NDArray[np.uint16]:
    """Frequency tables as payload.h takes them: sums of the frequencies before each symbol, row by row, and a 0."""
    rows = tables.frequencies.reshape(-1, tables.levels).astype(np.int64)
    return np.concatenate([(np.cumsum(rows, axis=1) - rows).ravel(), [0]]).astype(np.uint16)


class NativeCoder:
    """Makes the payloads that a `PayloadCoder` makes; immutable, so threads may share one.

    Args:
        library: Made by `compile_coder` on this machine.
        coder: Whose payloads it makes.

    Raises:
        BundleError: The library does not load here.
    """

    def __init__(self, library: Path, coder: PayloadCoder) -> None:
        try:
            # a path with a slash, so that no other place is searched
            self._function = ctypes.CDLL(str(library.resolve())).autosplit_payload
        except (OSError, AttributeError) as e:
            raise BundleError(f"{library} does not load here ({printable(e, 200)}); compile it again with python -m "
                              "coinference compile, or delete it") from e
        self._function.restype = ctypes.c_size_t
        self._coder, tables, self.shape = coder, coder.tables, coder.shape
        # kept, since the structure only points to them
        self._cumulative = cumulative_frequencies(tables)
        self._middle = None if tables.middle is None else np.ascontiguousarray(tables.middle, dtype=np.uint8)
        channels, height, width = coder.shape
        self._structure = _Coder(
            channels, height, width, tables.levels, self._cumulative.ctypes.data,
            None if self._middle is None else self._middle.ctypes.data, coder.seed, coder.first_byte)
        # as AUTOSPLIT_SCRATCH has it
        self._scratch_bytes = channels * (height * ((width + 1) // 2) + 1) + 10 * ((height * width + 1) // 2)

    @staticmethod
    def takes(coder: PayloadCoder) -> bool:
        """Whether the C source can code what this coder codes: its numbers have 16 bits."""
        channels, height, width = coder.shape
        return max(channels, height * width) < _MOST_CELLS

    def encode(self, symbols: NDArray[Any]) -> bytes:
        """The payload of one image; arguments and errors as of `PayloadCoder.encode`."""
        check_symbols(symbols, self._coder.tables.levels)
        if symbols.shape != self.shape:
            raise ConfigError(f"the payload coder was built for symbols of shape {self.shape}, got {symbols.shape}")
        given = np.ascontiguousarray(symbols, dtype=np.uint8)
        payload = ctypes.create_string_buffer(self._coder.max_payload_bytes)
        scratch = ctypes.create_string_buffer(self._scratch_bytes)
        length = self._function(ctypes.byref(self._structure), ctypes.c_void_p(given.ctypes.data), payload, scratch)
        return payload.raw[:length]

    def encode_batch(self, symbols: NDArray[Any]) -> list[bytes]:
        """One payload per image, for symbols of shape (N, K, gh, gw); errors as in `encode`."""
        return [self.encode(image) for image in symbols]


def compile_coder(bundle: Path, coders: Sequence[PayloadCoder]) -> Path:
    """Compile the payload coder of a bundle for this machine, and compare it with Python's.

    Args:
        bundle: Its folder.
        coders: Of the bundle, one for each rate.

    Returns:
        The library, which the bundle's own `load_device` uses from now on.

    Raises:
        ConfigError: There is no C compiler here, or nothing that could be compiled.
        BundleError: The source does not compile here, or the library makes other payloads.
    """
    import tempfile  # these two here, since a device that only loads a bundle has no use for them

    from ..compiling import compiler, run_checked

    library = library_of(bundle)
    source = library.parent / NATIVE_SOURCES[0]
    if not coders or not source.is_file() or not all(map(NativeCoder.takes, coders)):
        raise ConfigError(f"{bundle}: this bundle brings no payload coder to compile; it sends no code, one with too "
                          "many cells for the C source, or was made by an older autosplit")
    cc = compiler()
    if cc is None:
        raise ConfigError("no C compiler here (cc, gcc or clang); install one, such as the package gcc, or do "
                          "without: payloads are then made in Python, with the same bytes")
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    made = Path(name)
    try:
        run_checked([cc, *_FLAGS, str(source), "-o", name], "do without it")
        for coder in coders:
            _compare(NativeCoder(made, coder), coder)
        made.chmod(0o755)
        made.replace(library)
    finally:
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
    return library


def _compare(native: NativeCoder, coder: PayloadCoder) -> None:
    """Compare on codes that are drawn from the coder's tables, and on such that nobody would expect."""
    rng, (channels, height, width) = np.random.default_rng(0), coder.shape
    tables, cells = coder.tables, height * width
    rows = tables.frequencies.reshape(channels, -1, tables.levels)[:, 0] / float(1 << 16)
    for number in range(_COMPARED):
        if number % 4:
            symbols = np.stack([rng.choice(tables.levels, cells, p=row) for row in rows])
        else:
            symbols = rng.integers(0, tables.levels, (channels, cells))
        symbols = symbols.reshape(coder.shape).astype(np.int32)
        if native.encode(symbols) != coder.encode(symbols):
            raise BundleError("the payload coder as it was compiled here makes other payloads than Python's; please "
                              "report this with the name of the machine and its compiler")
