"""What an exit is sure of, and how the answers of device and edge are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["answered_by_both", "confidence", "payloads_of_all"]

Floats = NDArray[np.float32]


def confidence(logits: Floats) -> Floats:
    """The largest probability of each row of logits (N, classes), shape (N,)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(1 / shifted.sum(axis=1), dtype=np.float32)


def payloads_of_all(sent: NDArray[np.bool_], payloads: Sequence[bytes]) -> list[bytes]:
    """Payloads of all images from those that are sent; empty ones of the others.

    Args:
        sent: Which images are sent, shape (N,).
        payloads: Of these, in order.
    """
    each = iter(payloads)
    return [next(each) if goes else b"" for goes in sent.tolist()]


def answered_by_both(local: Floats, payloads: Sequence[bytes], decode: Callable[[list[bytes]], Floats]) -> Floats:
    """Logits of all images: the edge's of what was sent, else the exit's.

    Args:
        local: The exit's logits of all images, (N, classes).
        payloads: Of all images; empty ones of what was not sent.
        decode: The edge: payloads to logits.
    """
    logits: Floats = local.copy()
    sent = [i for i, payload in enumerate(payloads) if payload]
    if sent:
        logits[sent] = decode([payloads[i] for i in sent])
    return logits
