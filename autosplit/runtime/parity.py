"""Whether a bundle answers as the deployment that it was made of, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autosplit.datasets.base import images_at_once, in_batches
from autosplit.report.progress import Advance
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.bundle import load_device, load_edge
from autosplit.runtime.standalone.check import answered, payload_hashes, predicted
from autosplit.runtime.standalone.manifest import Parity

__all__ = ["RELATIVE_TOLERANCE", "compare", "recorded"]

RELATIVE_TOLERANCE = 1e-4
"""Of a logit, in units of the largest one: floating-point sums are taken in another order."""


@dataclass
class _Tally:
    """Counts over batches."""

    images: int = 0
    labels_equal: int = 0
    payloads_equal: int = 0
    error: float = 0.0
    largest: float = 0.0

    def add(self, expected: NDArray[Any], found: NDArray[Any], same: NDArray[np.bool_]) -> None:
        """Take in a batch of logits; `same` tells whose payloads are equal."""
        self.images += len(expected)
        self.labels_equal += int((predicted(expected) == predicted(found)).sum())
        self.payloads_equal += int(same.sum())
        self.error = max(self.error, float(np.abs(expected - found)[same].max(initial=0.0)))
        self.largest = max(self.largest, float(np.abs(expected).max(initial=0.0)))

    def parity(self, network: Any) -> Parity:
        """The counts as the manifest holds them."""
        return Parity(network, self.images, self.labels_equal, self.payloads_equal, self.error,
                      RELATIVE_TOLERANCE * self.largest)


def compare(
    folder: Path, deployment: Deployment, fallback: Deployment | None, images: Tensor, advance: Advance
) -> tuple[Parity, ...]:
    """Run deployment and bundle on the same images.

    Args:
        folder: The bundle.
        deployment: What its plan was exported from.
        fallback: What its fallback was exported from, where it has one.
        images: uint8 (N, C, H, W).
        advance: Told of every image.
    """
    device = load_device(folder)
    edge = None if device.answers else load_edge(folder)
    plan, whole = _Tally(), _Tally()
    for batch in in_batches(images, images_at_once(deployment.blueprint.image_shape)):
        array = batch.numpy()
        expected, payloads = deployment.run(batch)
        sent, found = answered(device, edge, array)
        same = np.array([a == b for a, b in zip(payloads, sent, strict=True)])
        plan.add(expected.numpy(), found, same)
        answer = device.fallback(array)
        if fallback is not None and answer is not None:
            whole.add(fallback.run(batch)[0].numpy(), answer, np.ones(len(batch), dtype=bool))
        advance(len(batch))
    return (plan.parity("plan"), *([whole.parity("fallback")] if fallback is not None else []))


def recorded(folder: Path, images: Tensor) -> dict[str, NDArray[Any]]:
    """What a bundle makes of a few images, for `coinference check` to find again."""
    array = np.ascontiguousarray(images.numpy())
    device = load_device(folder)
    payloads, logits = answered(device, None if device.answers else load_edge(folder), array)
    found: dict[str, NDArray[Any]] = {"images": array, "logits": logits, "payloads": payload_hashes(payloads)}
    fallback = device.fallback(array)
    return found if fallback is None else {**found, "fallback": predicted(fallback)}
