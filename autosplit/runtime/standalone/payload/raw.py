"""Features that cross as they are: little-endian float32, channel by channel, whatever the machine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PayloadError

__all__ = ["pack_features", "unpack_feature"]

_FLOAT = np.dtype("<f4")


def pack_features(features: NDArray[Any]) -> list[bytes]:
    """A payload for each feature of an array (N, ...)."""
    plain = features + 0.0  # no negative zeros: engines differ in them
    return [feature.tobytes() for feature in plain.astype(_FLOAT)]


def unpack_feature(payload: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The feature in a payload, float32 of this shape.

    Raises:
        PayloadError: The payload is of another size.
    """
    size = math.prod(shape) * _FLOAT.itemsize
    if len(payload) != size:
        raise PayloadError(f"a payload of {len(payload)} bytes where a feature of {size} bytes was expected; "
                           "encode it with the deployment that decodes it")
    return np.frombuffer(payload, dtype=_FLOAT).astype(np.float32).reshape(shape)
