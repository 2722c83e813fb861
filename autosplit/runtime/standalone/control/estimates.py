"""What a device makes of its exchanges: the numbers behind a `View`, for one device or for many at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from .view import Array, BoolArray

__all__ = ["LEAST_RATE", "RECENT", "carried_kbps", "expected_kbps", "long_mean", "packed_bits"]

Numbers = Array | float
"""One device's, or many's: the result has the shape of the arguments, of one device a numpy scalar."""

RECENT = 8
"""Arrivals that their present rate is estimated from."""

LEAST_RATE = 1e-3
"""That a link is thought to carry, of its profile's mean."""

_MEMORY = 5.0  # deadlines after which the last exchange counts for a third
_SLOW = 0.1  # weight of an exchange in a long mean
_LEAST_MS = 0.1  # that an exchange takes


def packed_bits(payload_bytes: Numbers, packet_bytes: Numbers, overhead_bytes: Numbers) -> Any:
    """What payloads put on the air."""
    return 8.0 * (payload_bytes + np.ceil(payload_bytes / packet_bytes) * overhead_bytes)


def carried_kbps(bits: Numbers, sending_ms: Numbers, came: bool | BoolArray, before: Numbers) -> Any:
    """Rate at which a payload crossed.

    Args:
        bits: What it put on the air.
        sending_ms: From its being ready to the answer, without the delays that no byte causes and the edge's time; or
            until the device gave up.
        came: Whether there was an answer. If not, the link carried at most so much, and no more than it was thought to.
        before: What it was thought to carry.
    """
    carried = bits / np.maximum(sending_ms, _LEAST_MS)
    return np.where(came, carried, np.minimum(carried, before))


def long_mean(before: Numbers, new: Numbers) -> Any:
    """A mean of all that was, in which what is new weighs a tenth."""
    return before + _SLOW * (new - before)


def expected_kbps(
    last_kbps: Numbers, usual_log2: Numbers, since_ms: Numbers, deadline_ms: Numbers, mean_kbps: Numbers
) -> Any:
    """What the link is thought to carry now: what was seen last says less and less of it, and the long mean more.

    Args:
        last_kbps: `carried_kbps` of the last exchange.
        usual_log2: Log2 of the same in the long run.
        since_ms: Time since that exchange.
        deadline_ms: Of a picture, which time is counted in.
        mean_kbps: Of the profile; a thousandth is the least.
    """
    fresh = np.exp(-since_ms / (_MEMORY * deadline_ms))
    found = 2.0 ** (usual_log2 + fresh * (np.log2(last_kbps) - usual_log2))
    return np.maximum(found, LEAST_RATE * mean_kbps)
