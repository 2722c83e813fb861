"""What a data set is: four disjoint parts of uint8 images, and how many bytes its images take as files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from autosplit.core.accelerator import CPU, Accelerator
from autosplit.data.partition import split_training
from autosplit.data.stored import StoredFormat, bodies, decode_images, encode_images, is_grey

__all__ = [
    "PART_NAMES",
    "ImageDataset",
    "Split",
    "SplitName",
    "StoredFormat",
    "build_dataset",
    "build_from_official",
    "channel_statistics",
    "content_fingerprint",
    "images_at_once",
    "in_batches",
    "normalise",
]

SplitName = Literal["train", "calibration", "validation", "test"]

PART_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation"}
"""What people call the parts of data that they hand over."""

_CHUNK_IMAGES = 512  # images that statistics and fingerprints look at together, for memory
_IMAGES_AT_ONCE = 256
_PIXELS_AT_ONCE = 32 * 224 * 224  # as in 32 images of ImageNet


# eq=False: tensors have no single truth value to compare by
@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one part of a data set.

    The parts of a data set are ordered so that `first(n)` is a fair sample of the classes.

    Attributes:
        images: uint8, shape (N, C, H, W), RGB or grey.
        labels: int64, shape (N,).
        sources: What each image was made from, int64, shape (N,): images of one source are not independent, so
            intervals of accuracy are taken over sources. `None` where every image stands for itself.
        file_bytes: Length of the file that each image was read from, as the user has it: int64, shape (N,); `None`
            where images did not come as files.
    """

    images: Tensor
    labels: Tensor
    sources: Tensor | None = None
    file_bytes: Tensor | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def first(self, n: int | None) -> Split:
        """The first `n` images (all of them when there are fewer, or when `n` is `None`)."""
        return self.chosen(slice(n))

    def chosen(self, which: Tensor | slice) -> Split:
        """Some of the images: by index (int64), by choice (bool), or a slice."""
        sources, lengths = (None if t is None else t[which] for t in (self.sources, self.file_bytes))
        return Split(self.images[which], self.labels[which], sources, lengths)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A classification data set in memory.

    Data discipline: weights are trained on `train`; quantiser ranges and entropy tables are fitted on
    `calibration`; every choice is made on `validation`; `test` is read once, for the final accuracy.

    Attributes:
        name: As the user wrote it.
        class_names: One a class.
        train: Training images.
        calibration: Images for ranges and tables.
        validation: Images for choices.
        test: Images for the final accuracy.
        mean: Per-channel mean of the training images in [0, 1], shape (C,).
        std: Per-channel standard deviation, shape (C,).
        fingerprint: Hash of the content, for caches and provenance.
        notes: What happened while loading that the user should know (files skipped, images resized).
        augment: Whether training flips and shifts images.
        accelerator: Where the networks are that its images go into. Images and labels stay in the machine's memory, and
            are moved as they are needed.
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
    accelerator: Accelerator = CPU
    _files: dict[tuple[str, StoredFormat], list[bytes]] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image."""
        c, h, w = self.train.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def images_at_once(self) -> int:
        """Images that evaluation sends through a network together: few where they are large, for memory."""
        return images_at_once(self.shape)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def grey(self) -> bool:
        """Whether no image has a colour: one channel, or three that are equal. Such images are stored as grey files."""
        parts = (self.train, self.calibration, self.validation, self.test)
        return all(is_grey(chunk) for part in parts for chunk in in_batches(part.images, _CHUNK_IMAGES))

    def in_colour(self) -> ImageDataset:
        """The same grey images with three equal channels, for networks that take no others."""
        def repeated(part: Split) -> Split:
            return replace(part, images=part.images.repeat(1, 3, 1, 1))

        return build_dataset(
            self.name, self.class_names, train=repeated(self.train), calibration=repeated(self.calibration),
            validation=repeated(self.validation), test=repeated(self.test), notes=self.notes, augment=self.augment)

    def split(self, name: SplitName) -> Split:
        """One of the four parts by name."""
        part: Split = getattr(self, name)
        return part

    def normalise(self, images: Tensor) -> Tensor:
        """Images in 0..255 as the network's input: float32, zero mean, unit variance a channel, channels last.

        Args:
            images: uint8 or float, shape (N, C, H, W), on any device; left unchanged.

        Returns:
            On the accelerator.
        """
        return normalise(self.moved(images), self.mean, self.std)

    def moved(self, tensor: Tensor) -> Tensor:
        """A tensor on the accelerator: itself where it is there already."""
        return tensor.to(self.accelerator.device)

    def on(self, accelerator: Accelerator) -> ImageDataset:
        """The same data for networks on another accelerator; files that were encoded are shared."""
        if accelerator == self.accelerator:
            return self
        found = replace(self, accelerator=accelerator)
        object.__setattr__(found, "_files", self._files)
        return found

    def stored_files(
        self, split: SplitName, format: StoredFormat, limit: int | None = None  # noqa: A002
    ) -> list[bytes]:
        """The images as the files that a device would store or send.

        Headers and tables are included, except where both ends know them (`autosplit.data.stored`). Images are encoded
        at the network's input resolution. Files are kept, so each image is encoded once a format.

        Args:
            split: Which part.
            format: What they become.
            limit: Only the first so many images.

        Raises:
            ConfigError: A format that cannot be encoded here.
        """
        if format.shared:
            return bodies(self.stored_files(split, format.whole, limit), self.shape, format)
        # encoded as far as anybody asked for: most uses need the first few
        files = self._files.setdefault((split, format.whole), [])
        images = self.split(split).images[:limit]
        if len(files) < len(images):
            files.extend(encode_images(images[len(files) :], format))
        return files[: len(images)]

    def stored_bytes(
        self, split: SplitName, format: StoredFormat, limit: int | None = None  # noqa: A002
    ) -> Tensor:
        """Size of each of `stored_files`, bytes: int64, shape (N,)."""
        return torch.tensor([len(f) for f in self.stored_files(split, format, limit)], dtype=torch.int64)

    def coded_images(
        self, split: SplitName, format: StoredFormat, limit: int | None = None  # noqa: A002
    ) -> Split:
        """The images as the edge sees them: what `stored_files` decodes to, with the same labels.

        Only the compressed files are kept: they are a fraction of the images, and decoding is quick.
        """
        part = self.split(split).first(limit)
        files = self.stored_files(split, format.whole, limit)
        return Split(decode_images(files, self.shape, format.downscale), part.labels, part.sources, part.file_bytes)


def images_at_once(shape: tuple[int, int, int]) -> int:
    """Images of one shape (C, H, W) that go through a network together: few where they are large, for memory."""
    return max(1, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // (shape[1] * shape[2])))


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images in 0..255 (N, C, H, W) as float32, channels last: (images / 255 - mean) / std by channel."""
    x = images.to(torch.float32, memory_format=torch.channels_last, copy=True).div_(255.0)
    mean, std = (t.to(x.device).view(1, -1, 1, 1) for t in (mean, std))
    return x.sub_(mean).div_(std)


def in_batches(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """A tensor's rows, `size` at a time; the last part may be smaller."""
    for start in range(0, len(tensor), size):
        yield tensor[start : start + size]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, both in units of full scale.

    Computed from integer histograms, hence exact and the same on every machine. The deviation is at least
    one grey level, so that a constant channel does not divide by zero.

    Args:
        images: uint8, shape (N, C, H, W), N at least 1.

    Returns:
        Two float32 tensors of shape (C,).
    """
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for start in range(0, len(images), _CHUNK_IMAGES):
        for c in range(channels):
            values = images[start : start + _CHUNK_IMAGES, c].reshape(-1)
            counts[c] += torch.bincount(values, minlength=256)
    # sums of integers are exact in any order
    share = counts / counts.sum(dim=1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255.0
    mean = share @ level
    variance = (share * (level - mean[:, None]) ** 2).sum(dim=1)
    return mean.float(), variance.sqrt().clamp_min(1 / 255).float()


def content_fingerprint(class_names: Sequence[str], parts: Sequence[Split]) -> str:
    """SHA-256 of class names, shapes, labels and pixels in order, first 16 hex digits.

    Depends on neither the data set's name nor its path; about 1 GB a second.
    """
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    for part in parts:
        digest.update(json.dumps(list(part.images.shape)).encode())
        # little-endian, so that machines agree
        digest.update(part.labels.numpy().astype("<i8").tobytes())
        for start in range(0, len(part), _CHUNK_IMAGES):
            digest.update(part.images[start : start + _CHUNK_IMAGES].contiguous().numpy().data)
    return digest.hexdigest()[:16]


def build_dataset(
    name: str,
    class_names: Sequence[str],
    *,
    train: Split,
    calibration: Split,
    validation: Split,
    test: Split,
    notes: Sequence[str] = (),
    augment: bool = False,
) -> ImageDataset:
    """A data set from its four parts; adds statistics of the training images and the fingerprint."""
    mean, std = channel_statistics(train.images)
    return ImageDataset(
        name=name,
        class_names=tuple(class_names),
        train=train,
        calibration=calibration,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        fingerprint=content_fingerprint(class_names, (train, calibration, validation, test)),
        notes=tuple(notes),
        augment=augment,
    )


def build_from_official(
    name: str, class_names: Sequence[str], training: Split, test: Split, *, seed: int, limit: int | None
) -> ImageDataset:
    """A data set that comes as a training and a test part, to be augmented when trained on.

    Args:
        name: As the user wrote it.
        class_names: One a class.
        training: The official training part, divided by `split_training`.
        test: The official test part, kept as it is.
        seed: Seed of the division.
        limit: At most so many images in each of the four parts.
    """
    parts = split_training(training.labels.numpy(), class_names, seed)
    rest, calibration, validation = (torch.from_numpy(part[:limit]) for part in parts)
    return build_dataset(
        name,
        class_names,
        train=Split(training.images[rest], training.labels[rest]),
        calibration=Split(training.images[calibration], training.labels[calibration]),
        validation=Split(training.images[validation], training.labels[validation]),
        test=test.first(limit),
        augment=True,
    )
