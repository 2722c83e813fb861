"""The files of an image folder: its layout, its classes, and which files can be opened and how large they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from autosplit.core.errors import DataError
from autosplit.runtime.standalone.image_file import failure, read_size
from autosplit.runtime.standalone.images import EXTENSIONS

__all__ = ["Folder", "ImageFile", "attempt", "in_threads", "scan_folder"]

_FILES_A_TASK = 64
_NAMES_IN_NOTES = 10

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ImageFile:
    """A file whose header could be read.

    Attributes:
        path: Where it lies.
        label: Index of its class.
        size: Height and width, pixels.
    """

    path: Path
    label: int
    size: tuple[int, int]


@dataclass
class Folder:
    """What is known of the folder while it is loaded.

    Attributes:
        name: The data set's name, for error messages.
        root: The folder.
        class_names: Sorted names of the classes.
        files_seen: Number of image files, broken ones included.
        broken: Broken files and the reasons.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    files_seen: int = 0
    broken: list[tuple[Path, str]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the user should know about skipped files: a count, then the first few by name."""
        if not self.broken:
            return []
        listed = [f"skipped {path.relative_to(self.root)}: {reason}" for path, reason in self.broken[:_NAMES_IN_NOTES]]
        more = len(self.broken) - len(listed)
        summary = f"skipped {len(self.broken)} of {self.files_seen} files that cannot be read"
        return [summary, *listed, *([f"skipped {more} more"] if more else [])]


def scan_folder(name: str, path: Path) -> tuple[Folder, list[ImageFile], list[ImageFile] | None]:
    """Find the images of a folder and read their headers.

    Args:
        name: The data set's name, for error messages.
        path: The folder.

    Returns:
        What is known of the folder, the readable training files in sorted order, and the readable test files,
        `None` where the folder has no test part of its own.

    Raises:
        DataError: No such folder, no images, fewer than two classes, or a test class that is not trained on.
    """
    if not path.is_dir():
        raise DataError(f"data set {name!r}: no such folder as {path}")
    has_train, has_test = (path / "train").is_dir(), (path / "test").is_dir()
    if has_train != has_test:
        raise DataError(
            f"data set {name!r}: {path} has {'train' if has_train else 'test'}/ but no "
            f"{'test' if has_train else 'train'}/: rename the other part's folder (val/, for example), "
            "or give a folder that holds the classes"
        )
    root = path / "train" if has_train else path  # where there is neither, the folder holds the classes itself
    class_names = tuple(child.name for child in _subfolders(root))
    if len(class_names) < 2:
        raise DataError(
            f"data set {name!r}: {root} has {len(class_names)} class folders, but at least 2 are needed: "
            "put each class's images into a folder of its own"
        )
    folder = Folder(name, path, class_names)
    training = _scan(folder, root)
    if not has_test:
        return folder, training, None
    unknown = [child.name for child in _subfolders(path / "test") if child.name not in class_names]
    if unknown:
        raise DataError(
            f"data set {name!r}: class {unknown[0]!r} is in {path / 'test'} but not in the training folder: "
            "add training images or remove it"
        )
    return folder, training, _scan(folder, path / "test")


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _scan(folder: Folder, path: Path) -> list[ImageFile]:
    """Read the headers of all image files below the class folders, in sorted order; note the broken ones."""
    found = [
        (file, label)
        for label, class_name in enumerate(folder.class_names)
        for file in sorted((path / class_name).rglob("*"))
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    ]
    if not found:
        known = " ".join(sorted(EXTENSIONS))
        raise DataError(f"data set {folder.name!r}: no images in the class folders of {path} (looked for {known})")
    folder.files_seen += len(found)
    sizes: list[tuple[int, int] | str] = [""] * len(found)

    def scan_one(index: int) -> None:
        sizes[index] = attempt(read_size, found[index][0])

    in_threads(scan_one, range(len(found)))
    files = []
    for (file, label), size in zip(found, sizes, strict=True):
        if isinstance(size, str):
            folder.broken.append((file, size))
        else:
            files.append(ImageFile(file, label, size))
    return files


def attempt(function: Callable[..., _Item], *args: Any) -> _Item | str:
    """The function's result, or in words why the file cannot be read."""
    try:
        return function(*args)
    except Exception as e:  # Pillow's decoders raise nearly anything on damaged files
        return failure(e)


def in_threads(function: Callable[[int], None], indices: range) -> None:
    """Call a function with each index, in threads: Pillow decodes without holding the interpreter lock."""
    tasks = [indices[i : i + _FILES_A_TASK] for i in range(0, len(indices), _FILES_A_TASK)]

    def run(task: range) -> None:
        for index in task:
            function(index)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done in [pool.submit(run, task) for task in tasks]:
            done.result()
