"""Whether a bundle answers on this machine as it did where it was exported: a few images lie in it for that."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import read_arrays
from ..bundle.manifest import CHECK, Manifest
from ..bundle.parts import DevicePart, EdgePart, load_device, load_edge
from ..errors import BundleError, ConfigError
from ..options import PROVIDER
from ..payload.exits import answered_by_both

__all__ = ["Check", "answered", "at_all_rates", "check", "payload_hashes", "predicted", "require_equal_answers"]


@dataclass(frozen=True)
class Check:
    """What the images of a bundle gave.

    Attributes:
        manifest: What the bundle is.
        images: Images.
        answers: Images times rates.
        labels_equal: Answers with the label that was recorded.
        payloads_equal: Answers with the payload that was recorded.
        fallback_equal: Images whose label by the fallback is the recorded one; `None` where there is no fallback.
        logit_error: Largest difference of a logit over answers with the recorded payload.
    """

    manifest: Manifest
    images: int
    answers: int
    labels_equal: int
    payloads_equal: int
    fallback_equal: int | None
    logit_error: float

    @property
    def passed(self) -> bool:
        """Whether all labels are equal, and all payloads where the arithmetic is exact."""
        return (self.labels_equal == self.answers and self.fallback_equal in (None, self.images)
                and (self.payloads_equal == self.answers or not self.manifest.exact))


def check(folder: str | Path, threads: int = 1, provider: str = PROVIDER) -> Check:
    """Run a bundle on its own images.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.
        provider: Execution provider of the edge's networks.

    Raises:
        BundleError: The bundle is incomplete, altered, of another format version, or holds no images.
        ConfigError: A package that it needs is not installed.
    """
    device = load_device(folder, threads)
    path = Path(folder) / CHECK
    if CHECK not in device.manifest.files:
        raise BundleError(f"{folder}: the bundle holds no images to check it with; export it with images")
    recorded = read_arrays(path, error=BundleError)
    _refuse_other(path, recorded, device)
    images = recorded["images"]
    payloads, logits = at_all_rates(device, None if device.answers else load_edge(folder, threads, provider), images)
    same = payload_hashes(payloads) == recorded["payloads"]
    fallback = device.fallback(images)
    # with another payload other logits are right, so they are compared only where payloads are equal
    differences = np.abs(logits - recorded["logits"]).max(axis=1)[same]
    return Check(
        manifest=device.manifest, images=len(images), answers=len(payloads), payloads_equal=int(same.sum()),
        labels_equal=int((predicted(logits) == predicted(recorded["logits"])).sum()),
        fallback_equal=None if fallback is None else int((predicted(fallback) == recorded["fallback"]).sum()),
        logit_error=float(differences.max(initial=0.0)))


def require_equal_answers(folder: str | Path, threads: int, provider: str) -> None:
    """Refuse an execution provider by which the edge answers otherwise than recorded.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.
        provider: As for `check`.

    Raises:
        ConfigError: A label differs.
        BundleError: The bundle cannot be checked.
    """
    found = check(folder, threads, provider)
    if found.labels_equal < found.answers:
        raise ConfigError(f"execution provider {provider!r} answers {found.answers - found.labels_equal} of "
                          f"{found.answers} images otherwise than recorded; serve with --provider {PROVIDER}")


def _refuse_other(path: Path, recorded: dict[str, NDArray[Any]], device: DevicePart) -> None:
    """Refuse arrays that this bundle cannot be checked with.

    Raises:
        BundleError: An array is missing, or of another type or shape.
    """
    images = len(recorded.get("images", ()))
    answers = images * max(1, len(device.manifest.rates))
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("u", (images, *device.manifest.image_shape)), "payloads": ("U", (answers,)),
        "logits": ("f", (answers, device.manifest.num_classes))}
    if device.has_fallback:
        wanted["fallback"] = ("iu", (images,))
    for name, (kinds, shape) in wanted.items():
        found = recorded.get(name)
        if found is None or found.dtype.kind not in kinds or found.shape != shape or not images:
            is_there = "missing" if found is None else f"{found.dtype} {found.shape}"
            raise BundleError(f"{path}: the array {name!r} is {is_there}, expected {shape}; export the bundle again")


def at_all_rates(
    device: DevicePart, edge: EdgePart | None, images: NDArray[np.uint8]
) -> tuple[list[bytes], NDArray[np.float32]]:
    """Payloads and logits of all images at the first rate, then at the next, and so on."""
    found = [answered(device, edge, images, rate) for rate in range(max(1, len(device.manifest.rates)))]
    return [payload for payloads, _ in found for payload in payloads], np.concatenate([logits for _, logits in found])


def answered(
    device: DevicePart, edge: EdgePart | None, images: NDArray[np.uint8], rate: int = 0
) -> tuple[list[bytes], NDArray[np.float32]]:
    """The payload of each image, and the logits of all, by the edge or by a device that needs none."""
    payloads, local = device.begin(images, rate)
    if edge is None:
        return payloads, device.logits(images)
    if local is None:
        return payloads, edge.decode(payloads)
    return payloads, answered_by_both(local, payloads, edge.decode)


def predicted(logits: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each row, the first of equal ones."""
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def payload_hashes(payloads: list[bytes]) -> NDArray[np.str_]:
    """SHA-256 of each payload, hexadecimal."""
    return np.array([hashlib.sha256(payload).hexdigest() for payload in payloads])
