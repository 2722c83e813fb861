"""What a data set is: four disjoint splits of uint8 images, and what its images weigh when stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["ImageDataset", "Split", "SplitName"]

SplitName = Literal["train", "calibration", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set.

    Attributes:
        images: uint8, shape (N, C, H, W), RGB or grey.
        labels: int64, shape (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def first(self, n: int) -> Split:
        """The first `n` images (all of them when there are fewer)."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class ImageDataset:
    """A classification data set in memory.

    Data discipline: weights are trained on `train`; quantiser ranges and entropy tables are fitted on
    `calibration`; every choice is made on `validation`; `test` is read once, for final figures.

    Attributes:
        name: As the user wrote it.
        class_names: One a class.
        train: Training images.
        calibration: Images for ranges and tables.
        validation: Images for choices.
        test: Images for the final figure.
        mean: Per-channel mean of the training images in [0, 1], shape (C,).
        std: Per-channel standard deviation, shape (C,).
        fingerprint: Hash of the content, for caches and provenance.
        notes: What happened while loading that the user should know (files skipped, images resized).
        augment: Whether training flips and shifts images.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    calibration: Split
    validation: Split
    test: Split
    mean: Tensor
    std: Tensor
    fingerprint: str
    notes: tuple[str, ...] = ()
    augment: bool = False
    _stored: dict[tuple[str, str, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image."""
        c, h, w = self.train.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def split(self, name: SplitName) -> Split:
        """One of the four parts by name."""
        part: Split = getattr(self, name)
        return part

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images as the network's input: float32, zero mean and unit variance a channel, channels last."""
        x = images.to(torch.float32).div_(255.0)
        x = x.sub_(self.mean.view(1, -1, 1, 1)).div_(self.std.view(1, -1, 1, 1))
        return x.contiguous(memory_format=torch.channels_last)
