"""What server and client need of a bundle's two halves, which `bundle.load_edge` and `bundle.load_device` give.

They depend on these interfaces and not on `bundle`, so that anything with the same methods can be served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["DeviceSide", "EdgeSide", "Images", "Logits"]

Images = NDArray[np.uint8]
"""Images of shape (N, C, H, W), or one of shape (C, H, W)."""

Logits = NDArray[np.float32]
"""Logits of shape (N, classes), or of shape (classes,)."""


class EdgeSide(Protocol):
    """Decoder and tail. `decode` is called by one thread at a time."""

    @property
    def manifest(self) -> Any:
        """Has `key`, which identifies the deployment, `image_shape` (C, H, W) and `num_classes`."""

    def decode(self, payloads: Sequence[bytes]) -> Logits:
        """Logits of shape (N, classes) of N payloads.

        Raises:
            PayloadError: One of them is no payload of this deployment.
        """


class DeviceSide(Protocol):
    """Head and encoder, and perhaps a whole network to fall back on."""

    @property
    def manifest(self) -> Any:
        """Has `key`, which identifies the deployment, `image_shape` (C, H, W) and `num_classes`."""

    @property
    def answers(self) -> bool:
        """Whether the whole network runs on the device in this plan, so that no edge is ever asked."""

    def begin(self, images: Images, rate: int | None = None) -> tuple[list[bytes], Logits | None]:
        """One payload for each of the images (N, C, H, W), at a rate of the bundle where it has some.

        Beside them the logits of an exit, where there is one, for the images whose payload is empty.
        """

    def logits(self, images: Images) -> Logits:
        """Logits of shape (N, classes), where `answers` is true."""

    def fallback(self, images: Images) -> Logits | None:
        """Logits of shape (N, classes) without an edge; `None` where the bundle holds no network for it."""
