"""A folder of images as a data set: `image-folder:PATH`.

Either `PATH/train/<class>/*` and `PATH/test/<class>/*`, or `PATH/<class>/*`, of which a stratified fifth becomes
the test part. Images are RGB afterwards, whatever they were; see
`autosplit.runtime.standalone.image_file` for how
other modes and sizes are brought there. All files' headers are read first, so that sizes, memory and most broken
files are known before the first image is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autosplit.core.errors import DataError
from autosplit.data.base import ImageDataset, Split, SplitName, build_dataset
from autosplit.data.folder_scan import Folder, ImageFile, attempt, in_threads, scan_folder
from autosplit.data.partition import partition, random_generator, split_training
from autosplit.runtime.standalone.image_file import read_pixels

__all__ = ["MAX_BYTES", "load"]

MAX_BYTES = 8 * 10**9
"""Most memory that the decoded images of a data set may take, bytes."""

_TEST_SHARE = 0.2
_LARGEST_OWN_SIDE = 64  # larger pictures of one size are photographs, which networks take at 224
_DEFAULT_SIDE = 224
_TEST_DRAW = 1


def load(name: str, path: Path, *, seed: int, image_size: int | None = None, limit: int | None = None) -> ImageDataset:
    """Load a folder of images.

    Files that cannot be read are skipped and reported in the data set's `notes`.

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
    folder, training, test = scan_folder(name, path)
    # classes are mixed, so that the first files of a part are a fair sample of it
    parts = {part: files[:limit] for part, files in _divide(folder, training, test, seed).items()}
    sizes = {file.size for files in parts.values() for file in files}
    if image_size is not None:
        height, width = image_size, image_size
    elif len(sizes) == 1 and max(next(iter(sizes))) <= _LARGEST_OWN_SIDE:
        height, width = next(iter(sizes))
    else:
        height, width = _DEFAULT_SIDE, _DEFAULT_SIDE
    count = sum(map(len, parts.values()))
    needed = count * 3 * height * width
    if needed > MAX_BYTES:  # before anything is decoded, which takes minutes
        side = int((MAX_BYTES / (3 * count)) ** 0.5)
        raise DataError(
            f"data set {name!r}: {count} images of {height}x{width} take {needed / 1e9:.1f} GB of memory, more than "
            f"{MAX_BYTES / 1e9:.1f} GB: choose --image-size {side} or smaller, or a limit of "
            f"{MAX_BYTES // (3 * height * width) // 4} images a part"
        )
    splits = {part: _decode(folder, part, files, height, width) for part, files in parts.items()}
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


def _divide(
    folder: Folder, training: Sequence[ImageFile], test: Sequence[ImageFile] | None, seed: int
) -> dict[SplitName, list[ImageFile]]:
    """The files of each part, classes mixed so that a prefix of a part is a fair sample."""
    names, generator = folder.class_names, random_generator(seed, _TEST_DRAW)
    labels = np.array([file.label for file in training], dtype=np.int64)
    kept = np.arange(len(training))
    try:
        if test is None:
            kept, held_out = partition(labels, names, (_TEST_SHARE,), generator)
            test_files = [training[i] for i in held_out]
        else:
            test_files = [test[i] for i in generator.permutation(len(test))]
        parts = split_training(labels[kept], names, seed)
    except DataError as e:
        skipped = f" ({len(folder.broken)} files could not be read)" if folder.broken else ""
        raise DataError(f"data set {folder.name!r}: {e}{skipped}") from e
    train, calibration, validation = ([training[i] for i in kept[part]] for part in parts)
    return {"train": train, "calibration": calibration, "validation": validation, "test": test_files}


def _decode(folder: Folder, part: SplitName, files: Sequence[ImageFile], height: int, width: int) -> Split:
    """Decode a part; files that turn out broken are dropped and noted."""
    pixels = np.empty((len(files), 3, height, width), dtype=np.uint8)
    reasons = [""] * len(files)

    def decode_one(index: int) -> None:
        result: NDArray[np.uint8] | str = attempt(read_pixels, files[index].path, height, width)
        if isinstance(result, str):
            reasons[index] = result
        else:
            pixels[index] = result

    in_threads(decode_one, range(len(files)))
    labels = np.array([file.label for file in files], dtype=np.int64)
    whole = np.array([not reason for reason in reasons], dtype=np.bool_)
    if not whole.all():  # a header that could be read does not mean that the pixels can
        folder.broken.extend((file.path, reason) for file, reason in zip(files, reasons, strict=True) if reason)
        left = Counter(labels[whole].tolist())
        for label in Counter(labels.tolist()):
            if not left[label]:
                raise DataError(
                    f"data set {folder.name!r}: class {folder.class_names[label]!r} has no readable image left for "
                    f"{part}: repair or remove the broken files, such as {folder.broken[-1][0]}, or add images"
                )
        pixels, labels = pixels[whole], labels[whole]
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))
