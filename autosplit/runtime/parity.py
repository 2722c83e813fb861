"""Whether a bundle answers as the deployment that it was exported from, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autosplit.core.progress import Advance
from autosplit.data.base import images_at_once, in_batches
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.bundle.check import answered, at_all_rates, payload_hashes, predicted
from autosplit.runtime.standalone.bundle.manifest import Parity
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge

__all__ = ["RELATIVE_TOLERANCE", "compare", "recorded"]

RELATIVE_TOLERANCE = 1e-3
"""Of a logit, in units of the largest one: floating-point sums are taken in another order, which moved those of a
ResNet-50 with random weights by 1.2e-4."""

_LEAST_LOGIT = 0.1  # logits that are smaller, as of networks that were hardly trained, may be off by as much as these


@dataclass
class _Tally:
    """Counts over batches."""

    images: int = 0
    labels_equal: int = 0
    payloads_equal: int = 0
    error: float = 0.0
    largest: float = 0.0

    def add(self, expected: NDArray[Any], found: NDArray[Any], same: NDArray[np.bool_]) -> None:
        """Take in a batch of logits; `same` marks the images with equal payloads."""
        self.images += len(expected)
        self.labels_equal += int((predicted(expected) == predicted(found)).sum())
        self.payloads_equal += int(same.sum())
        # a code that differs by rounding gives other logits by right: only equal payloads are compared
        self.error = max(self.error, float(np.abs(expected - found)[same].max(initial=0.0)))
        self.largest = max(self.largest, float(np.abs(expected).max(initial=0.0)))

    def parity(self, network: str) -> Parity:
        """The counts as the manifest holds them."""
        return Parity(network, self.images, self.labels_equal, self.payloads_equal, self.error,
                      RELATIVE_TOLERANCE * max(self.largest, _LEAST_LOGIT))


def compare(
    folder: Path, rates: Sequence[Deployment], fallback: Deployment | None, images: Tensor, advance: Advance
) -> tuple[Parity, ...]:
    """Run deployments and bundle on the same images.

    Args:
        folder: The bundle.
        rates: What its plan was exported from, or each of its rates.
        fallback: What its fallback was exported from, where it has one.
        images: uint8 (N, C, H, W).
        advance: Called with the number of images done.
    """
    device = load_device(folder)
    edge = None if device.answers else load_edge(folder)
    tallies, whole = [_Tally() for _ in rates], _Tally()
    for batch in in_batches(images, images_at_once(rates[0].blueprint.image_shape)):
        array = batch.numpy()
        for rate, (deployment, tally) in enumerate(zip(rates, tallies, strict=True)):
            expected, payloads = deployment.run(batch)
            sent, found = answered(device, edge, array, rate)
            tally.add(expected.numpy(), found, np.array([a == b for a, b in zip(payloads, sent, strict=True)]))
        answer = device.fallback(array)
        if fallback is not None and answer is not None:
            whole.add(fallback.run(batch)[0].numpy(), answer, np.ones(len(batch), dtype=bool))
        advance(len(batch))
    names = [f"rate {i}" for i in range(len(rates))] if device.manifest.rates else ["plan"]
    found_all = [tally.parity(name) for name, tally in zip(names, tallies, strict=True)]
    return (*found_all, *([whole.parity("fallback")] if fallback is not None else []))


def recorded(folder: Path, images: Tensor) -> dict[str, NDArray[Any]]:
    """What a bundle makes of a few images, for `coinference check` to find again."""
    array = np.ascontiguousarray(images.numpy())
    device = load_device(folder)
    payloads, logits = at_all_rates(device, None if device.answers else load_edge(folder), array)
    found: dict[str, NDArray[Any]] = {"images": array, "logits": logits, "payloads": payload_hashes(payloads)}
    fallback = device.fallback(array)
    return found if fallback is None else {**found, "fallback": predicted(fallback)}
