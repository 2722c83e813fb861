"""Division of labelled items into disjoint parts, stratified by class and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autosplit.core.errors import DataError

__all__ = ["IntArray", "TrainingParts", "partition", "random_generator", "split_training"]

IntArray = NDArray[np.int64]

_VALIDATION_SHARE, _VALIDATION_MOST = 0.10, 5_000
# every choice is made on validation images, and a hundred cannot tell two deployments of 94 and 96 % apart
_VALIDATION_WANTED, _VALIDATION_MOST_SHARE = 500, 0.25
_CALIBRATION_SHARE, _CALIBRATION_MOST = 0.05, 1_000


class TrainingParts(NamedTuple):
    """Disjoint indices into a training part, each int64 of shape (N,)."""

    train: IntArray
    calibration: IntArray
    validation: IntArray


def random_generator(seed: int, *purpose: int) -> np.random.RandomState:
    """An independent random generator for a seed and a purpose.

    `RandomState` because numpy guarantees its numbers for ever (NEP 19), which a fingerprint relies on;
    `Generator`'s may change with a release.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, *purpose])))


def partition(
    labels: NDArray[np.integer], class_names: Sequence[str], shares: Sequence[float], rng: np.random.RandomState
) -> list[IntArray]:
    """Divide items into `len(shares) + 1` disjoint parts, each with its share of every class.

    A part gets its share of a class rounded down, but at least one item. Each part is ordered so that any
    prefix holds the classes in proportion, which makes `Split.first` a fair sample.

    Args:
        labels: Class of each item, shape (N,).
        class_names: One a class, for the error message.
        shares: Share of every class that goes to the second, third, ... part; the first gets the rest.
        rng: Source of randomness, consumed.

    Returns:
        Indices of the items of each part, the rest first.

    Raises:
        DataError: A class has too few items to give one to each part.
    """
    drawn: list[list[IntArray]] = [[] for _ in range(len(shares) + 1)]
    for label, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels == label)).astype(np.int64)
        # a product just below a whole number is that number
        counts = [max(1, int(share * len(members) + 1e-9)) for share in shares]
        if sum(counts) >= len(members):
            raise DataError(
                f"class {name!r} has {len(members)} readable images, but at least {len(counts) + 1} are needed "
                "to give one to each part: add images or remove the class"
            )
        *parts, rest = np.split(members, np.cumsum(counts))
        for collected, part in zip(drawn, [rest, *parts], strict=True):
            collected.append(part)
    return [_interleave(by_class, rng) for by_class in drawn]


def split_training(
    labels: NDArray[np.integer], class_names: Sequence[str], seed: int, *, validates: bool = True
) -> TrainingParts:
    """Divide a training part: 10 % (at most 5,000) to validation, 5 % (at most 1,000) to calibration.

    Where 10 % are fewer than 500 images, more go to validation, up to a quarter of all.

    Args:
        labels: Class of each training image, shape (N,).
        class_names: One a class.
        seed: Equal seeds give equal parts.
        validates: Whether validation images are taken; otherwise that part is empty.

    Raises:
        DataError: A class has fewer than three images, or two without validation.
    """
    total = max(len(labels), 1)
    calibration = min(_CALIBRATION_SHARE, _CALIBRATION_MOST / total)
    wanted = max(_VALIDATION_SHARE, min(_VALIDATION_MOST_SHARE, _VALIDATION_WANTED / total))
    validation = min(wanted, _VALIDATION_MOST / total)
    shares = (calibration, validation) if validates else (calibration,)
    parts = partition(labels, class_names, shares, random_generator(seed))
    return TrainingParts(parts[0], parts[1], parts[2] if validates else np.empty(0, dtype=np.int64))


def _interleave(by_class: Sequence[IntArray], rng: np.random.RandomState) -> IntArray:
    """One order of all classes' items in which every prefix holds each class in proportion."""
    # the k-th of n items lands at random within the k-th n-th of the order
    places = [(np.arange(len(items)) + rng.random_sample(len(items))) / max(len(items), 1) for items in by_class]
    order = np.argsort(np.concatenate(places), kind="stable")
    merged: IntArray = np.concatenate(by_class)[order]
    return merged
