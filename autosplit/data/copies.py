"""Pictures that are in two parts of a data set: they would be tested on after they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autosplit.core.errors import DataError
from autosplit.data.base import Split, SplitName

__all__ = ["apart", "first_alike"]


def first_alike(images: Tensor) -> Tensor:
    """For each picture (N, C, H, W) the number of the first that shows the same, pixel by pixel: int64 (N,)."""
    seen: dict[bytes, int] = {}
    return torch.tensor([seen.setdefault(digest, i) for i, digest in enumerate(_digests(images))], dtype=torch.int64)


def apart(
    name: str, class_names: Sequence[str], splits: Mapping[SplitName, Split]
) -> tuple[dict[SplitName, Split], list[str]]:
    """Leave pictures out of a part that are, pixel by pixel, in a later one too.

    The test part is kept whole, and gives way to none.

    Args:
        name: The data set's name, for the error.
        class_names: One a class.
        splits: The parts that there are.

    Returns:
        The parts, and a sentence for each that lost something.

    Raises:
        DataError: A class would have no picture left in a part.
    """
    seen: set[bytes] = set()
    kept: dict[SplitName, Split] = {}
    remarks: list[str] = []
    order: tuple[SplitName, ...] = ("test", "validation", "calibration", "train")
    for part in (part for part in order if part in splits):
        split = splits[part]
        digests = _digests(split.images)
        new = torch.tensor([digest not in seen for digest in digests], dtype=torch.bool)
        seen.update(digests)
        if not new.all():
            gone = int((~new).sum())
            remarks.append(f"{gone} of {len(split)} {part} images show what is in another part too, and were left out "
                           f"of {part}")
            if lost := sorted(set(split.labels.tolist()) - set(split.labels[new].tolist())):
                raise DataError(f"data set {name!r}: all {part} images of class {class_names[lost[0]]!r} show pictures "
                                "of another part: add other images")
            split = split.chosen(new)
        kept[part] = split
    return kept, remarks


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in images.contiguous()]
