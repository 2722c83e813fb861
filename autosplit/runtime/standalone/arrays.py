"""Arrays in files: .npy and .npz of plain numbers and text, read without trusting what their headers say."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import AutosplitError, ConfigError, printable
from .files import read_file

__all__ = ["MOST_BYTES", "read_array", "read_arrays"]

MOST_BYTES = 256 << 20
"""Largest array, or set of arrays, that is read; images in it are uint8."""

_KINDS = "biufU"  # objects would be pickles


def read_array(path: Path, *, error: type[AutosplitError] = ConfigError) -> NDArray[Any]:
    """The array in a .npy file.

    Args:
        path: The file.
        error: Class of the error.

    Raises:
        AutosplitError: Of class `error`: the file is absent, too large, or holds no array of numbers or text.
    """
    content = read_file(path, error=error, most_bytes=MOST_BYTES)
    try:
        return _parsed(content)
    except Exception as e:  # numpy's reading of a damaged header raises what its parser does
        raise error(f"{path}: no numpy array ({printable(e)})") from e


def read_arrays(path: Path, *, error: type[AutosplitError] = ConfigError) -> dict[str, NDArray[Any]]:
    """The arrays in a .npz file, by name; arguments and errors as of `read_array`."""
    content = read_file(path, error=error, most_bytes=MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # what is packed says how long it is before it is unpacked
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes when unpacked")
            return {name.removesuffix(".npy"): _parsed(archive.read(name)) for name in archive.namelist()}
    except Exception as e:  # zipfile's errors have no common type either
        raise error(f"{path}: no set of numpy arrays ({printable(e)})") from e


def _parsed(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    # numpy makes room for whatever the header says; here the bytes that follow have to be as many
    left = len(content) - file.tell()
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{dtype} {shape} in {left} bytes")
    array = np.frombuffer(content, dtype, offset=file.tell()) if left else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
