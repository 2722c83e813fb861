"""A folder of images as a data set: `image-folder:PATH`.

Either `PATH/train/<class>/*` with `PATH/test/<class>/*` and `PATH/val/<class>/*` or one of them (in any case, or by
another usual name), or `PATH/<class>/*`. A stratified fifth of the training images becomes the test part where the
folder has none. Images are RGB afterwards, whatever they were, or have one channel where all are grey; see
`autosplit.runtime.standalone.image_file` for how other modes and sizes are brought there. All files' headers are read
first, so that sizes, memory and most broken files are known before the first image is decoded. No picture is used
twice.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autosplit.core.errors import DataError
from autosplit.data.base import ImageDataset, Split, SplitName, build_dataset
from autosplit.data.copies import apart
from autosplit.data.folder_scan import Folder, ImageFile, PartFiles, attempt, in_threads, scan_folder
from autosplit.data.partition import partition, random_generator, split_training
from autosplit.runtime.standalone.image_file import read_pixels

__all__ = ["DEFAULT_SIDE", "MAX_BYTES", "TEST_SHARE", "decoded", "load", "size_for", "warn_once"]

MAX_BYTES = 8 * 10**9
"""Most memory that the decoded images of a data set may take, bytes."""

TEST_SHARE = 0.2
"""Of each class, that becomes the test part where data have none."""

DEFAULT_SIDE = 224
"""Height and width of pictures that have several sizes, as most networks take them."""

_LARGEST_OWN_SIDE = 64  # larger pictures of one size are photographs
_TEST_DRAW, _VALIDATION_DRAW = 1, 2
_ONE_SIDED = 0.8  # share of a class from which naming it always looks like a good network

_log = logging.getLogger(__name__)


def load(name: str, path: Path, *, seed: int, image_size: int | None = None, limit: int | None = None) -> ImageDataset:
    """Load a folder of images.

    What is not used is reported in the data set's `notes`, which are logged as warnings too, once a process: files that
    are no images or cannot be read, copies of other files, folders that are no part; and a class that nearly all images
    belong to.

    Args:
        name: Name to give it.
        path: The folder.
        seed: Seed of the division into parts.
        image_size: Height and width to bring images to, pixels; `None` = their own size where all have the same
            and it is at most 64, else 224.
        limit: At most so many images in each part; the others are not decoded.

    Raises:
        DataError: No such folder, no images, fewer than two classes, too few readable images in a class, or
            images that would take more than `MAX_BYTES` of memory.
    """
    folder, found = scan_folder(name, path)
    # classes are mixed, so that the first files of a part are a fair sample of it
    parts = {part: files[:limit] for part, files in _divide(folder, found, seed).items()}
    sizes = {file.size for files in parts.values() for file in files}
    height, width = size_for(sizes, image_size)
    count = sum(map(len, parts.values()))
    channels = 1 if all(file.grey for files in parts.values() for file in files) else 3
    needed = count * channels * height * width
    if needed > MAX_BYTES:  # before anything is decoded, which takes minutes
        side = int((MAX_BYTES / (channels * count)) ** 0.5)
        raise DataError(
            f"data set {name!r}: {count} images of {height}x{width} take {needed / 1e9:.1f} GB of memory, more than "
            f"{MAX_BYTES / 1e9:.1f} GB: choose --image-size {side} or smaller, or a limit of "
            f"{MAX_BYTES // (channels * height * width) // 4} images a part"
        )
    splits, remarks = apart(name, folder.class_names, {
        part: _decode(folder, part, files, (channels, height, width)) for part, files in parts.items()})
    folder.remarks += remarks
    sides = Counter(file.label for files in found.values() for file in files)
    label, most = sides.most_common(1)[0]
    if most > _ONE_SIDED * sides.total():
        folder.remarks.append(
            f"{most} of {sides.total()} images belong to class {folder.class_names[label]!r}: a network that always "
            f"answers it is {100 * most / sides.total():.1f} % accurate; look at the recall of the other classes")
    for note in folder.notes():
        warn_once(f"data set {name!r}: {note}")
    resized = sizes - {(height, width)}
    resize_note = [f"images resized to cover {height}x{width} pixels and centre-cropped"] if resized else []
    return build_dataset(
        name,
        folder.class_names,
        train=splits["train"],
        calibration=splits["calibration"],
        validation=splits["validation"],
        test=splits["test"],
        notes=[*folder.notes(), *resize_note],
        augment=True,
    )


def size_for(sizes: Collection[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """Height and width that pictures are brought to.

    Args:
        sizes: Every height and width that occurs.
        image_size: What was asked for; `None` = their own size where it is one and small, else 224.
    """
    if image_size is not None:
        return image_size, image_size
    if len(sizes) == 1 and max(own := next(iter(sizes))) <= _LARGEST_OWN_SIDE:
        return own
    return DEFAULT_SIDE, DEFAULT_SIDE


def decoded(paths: Sequence[Path], shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode files, several at a time.

    Args:
        paths: N files.
        shape: Channels, height and width of the images; 1 channel is for grey pictures.

    Returns:
        uint8 (N, channels, height, width), and why a file cannot be read, by file; empty where it can.
    """
    channels, height, width = shape
    pixels = np.empty((len(paths), *shape), dtype=np.uint8)
    reasons = [""] * len(paths)

    def decode_one(index: int) -> None:
        result: NDArray[np.uint8] | str = attempt(read_pixels, paths[index], height, width)
        if isinstance(result, str):
            reasons[index] = result
        else:
            pixels[index] = result[:channels]

    in_threads(decode_one, range(len(paths)))
    return pixels, reasons


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning, each once a process."""
    _log.warning("%s", text)


def _divide(folder: Folder, found: PartFiles, seed: int) -> dict[SplitName, list[ImageFile]]:
    """The files of each part, classes mixed so that a prefix of a part is a fair sample."""
    names, training = folder.class_names, found["train"]
    labels = np.array([file.label for file in training], dtype=np.int64)
    missing = ["calibration", *(part for part in ("validation", "test") if part not in found)]
    for label, name in enumerate(names):
        count = int((labels == label).sum())
        if count <= len(missing):
            gone = sum(name in path.relative_to(folder.root).parts for path, _ in folder.skipped)
            skipped = f" (and {gone} files that are not used: {folder.notes()[0]})" if gone else ""
            raise DataError(
                f"data set {folder.name!r}: images of class {name!r}: {count}{skipped}, but at least "
                f"{len(missing) + 1} are needed, one each for {', '.join(('train', *missing))}: add images or remove "
                "the class")
    kept, test, validation = np.arange(len(training)), found.get("test"), found.get("validation")
    if test is None:
        kept, held_out = partition(labels, names, (TEST_SHARE,), random_generator(seed, _TEST_DRAW))
        test = [training[i] for i in held_out]
    else:
        test = [test[i] for i in random_generator(seed, _TEST_DRAW).permutation(len(test))]
    drawn = split_training(labels[kept], names, seed, validates=validation is None)
    train, calibration, held_back = ([training[i] for i in kept[part]] for part in drawn)
    if validation is not None:
        held_back = [validation[i] for i in random_generator(seed, _VALIDATION_DRAW).permutation(len(validation))]
    return {"train": train, "calibration": calibration, "validation": held_back, "test": test}


def _decode(folder: Folder, part: SplitName, files: Sequence[ImageFile], shape: tuple[int, int, int]) -> Split:
    """Decode a part; files that turn out broken are dropped and noted."""
    pixels, reasons = decoded([file.path for file in files], shape)
    labels = np.array([file.label for file in files], dtype=np.int64)
    whole = np.array([not reason for reason in reasons], dtype=np.bool_)
    if not whole.all():  # a header that could be read does not mean that the pixels can
        folder.skipped.extend((file.path, reason) for file, reason in zip(files, reasons, strict=True) if reason)
        left = Counter(labels[whole].tolist())
        for label in Counter(labels.tolist()):
            if not left[label]:
                raise DataError(
                    f"data set {folder.name!r}: class {folder.class_names[label]!r} has no readable image left for "
                    f"{part}: repair or remove the broken files, such as {folder.skipped[-1][0]}, or add images"
                )
        pixels, labels = pixels[whole], labels[whole]
    lengths = torch.tensor([file.file_bytes for file in files], dtype=torch.int64)[torch.from_numpy(whole)]
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels), file_bytes=lengths)
