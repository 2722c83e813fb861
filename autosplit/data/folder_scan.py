"""The files of an image folder: its parts, its classes, which files are images, and which are there twice."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from autosplit.core.errors import DataError
from autosplit.core.hashing import sha256_of_file
from autosplit.runtime.standalone.image_file import failure, read_header
from autosplit.runtime.standalone.images import EXTENSIONS

__all__ = ["Folder", "ImageFile", "PartFiles", "attempt", "in_threads", "scan_folder"]

_FILES_A_TASK = 64
_REASONS_IN_NOTES = 8

_PART_NAMES: dict[str, PartName] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test"),
}
_LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir"}

PartName = Literal["train", "validation", "test"]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ImageFile:
    """A file whose header could be read.

    Attributes:
        path: Where it lies.
        label: Index of its class.
        size: Height and width, pixels.
        grey: Whether it has no colours by its mode.
        file_bytes: Its length.
    """

    path: Path
    label: int
    size: tuple[int, int]
    grey: bool
    file_bytes: int


PartFiles = dict[PartName, list[ImageFile]]


@dataclass
class Folder:
    """What is known of the folder while it is loaded.

    Attributes:
        name: The data set's name, for error messages.
        root: The folder.
        class_names: Sorted names of the classes.
        files_seen: Number of files in the class folders, without hidden ones and those that systems leave behind.
        skipped: Files that are not used, with the reason.
        remarks: What else the user should know.
    """

    name: str
    root: Path
    class_names: tuple[str, ...] = ()
    files_seen: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def shown(self, path: Path) -> str:
        """A path as the user knows it, from the folder on, without codes that a terminal obeys."""
        return "".join(c if c.isprintable() else "?" for c in path.relative_to(self.root).as_posix())

    def notes(self) -> list[str]:
        """What was left out and why, a sentence a reason with a count and an example, and further remarks."""
        by_reason: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        for path, reason in self.skipped:  # numbers in a reason are of the one file
            by_reason[re.sub(r"\d+", "0", reason)].append((path, reason))
        found = sorted(by_reason.values(), key=len, reverse=True)
        notes = [f"skipped {len(files)} of {self.files_seen} files ({files[0][1]}), such as {self.shown(files[0][0])}"
                 for files in found[:_REASONS_IN_NOTES]]
        if rest := sum(map(len, found[_REASONS_IN_NOTES:])):
            notes.append(f"skipped {rest} of {self.files_seen} files for other reasons, such as "
                         f"{self.shown(found[_REASONS_IN_NOTES][0][0])} ({found[_REASONS_IN_NOTES][0][1]})")
        return [*notes, *self.remarks]


def scan_folder(name: str, path: Path) -> tuple[Folder, PartFiles]:
    """Find the images of a folder and read their headers; every picture is used once, on one side.

    Args:
        name: The data set's name, for error messages.
        path: The folder.

    Returns:
        What is known of the folder, and the readable files of each part in sorted order. A part that the folder does
        not have is absent; `train` is always there.

    Raises:
        DataError: No such folder, no images, fewer than two classes, folders that may mean several things, or a class
            in another part that is not trained on.
    """
    if not path.is_dir():
        raise DataError(f"data set {name!r}: no such folder as {path}")
    folder = Folder(name, path)
    try:
        roots = _parts(folder)
        folder.class_names = tuple(child.name for child in _subfolders(roots["train"]))
        if len(folder.class_names) < 2:
            inner = [child for child in _subfolders(roots["train"]) if len(_subfolders(child)) > 1]
            meant = f"; is {inner[0]} meant?" if inner else ": put each class's images into a folder of its own"
            raise DataError(f"data set {name!r}: {roots['train']} has {len(folder.class_names)} class folders, but at "
                            f"least 2 are needed{meant}")
        for root in roots.values():
            if unknown := [child for child in _subfolders(root) if child.name not in folder.class_names]:
                raise DataError(
                    f"data set {name!r}: class {unknown[0].name!r} is in {root} but not in {roots['train']}: "
                    "add training images of the same name, or remove it")
        found = {part: _scan(folder, root) for part, root in roots.items()}
    except DataError:  # an OSError too
        raise
    except OSError as e:
        raise DataError(f"data set {name!r}: {path} cannot be read ({e.strerror}: {e.filename})") from e
    return folder, _each_once(folder, found)


def _parts(folder: Folder) -> dict[PartName, Path]:
    """The folder of each part: the folder itself, whose subfolders are classes, or `train` and others in it."""
    children = _subfolders(folder.root)
    named: dict[PartName, list[Path]] = defaultdict(list)
    for child in children:
        if part := _PART_NAMES.get(re.sub("(set|data|images)$", "", re.sub("[^a-z]", "", child.name.lower()))):
            named[part].append(child)
    # a class may be called `train` too: a part is known by the class folders in it
    parts = {part: [child for child in found if _subfolders(child)] for part, found in named.items()}
    parts = {part: found for part, found in parts.items() if found}
    about = f"data set {folder.name!r}: {folder.root}"
    if twice := next((found for found in parts.values() if len(found) > 1), None):
        raise DataError(f"{about} has {twice[0].name}/ and {twice[1].name}/, which mean the same part: put their "
                        "images into one, or rename the other")
    if not parts:
        if len(named) > 1 and len(children) == sum(map(len, named.values())):
            raise DataError(f"{about} has {' and '.join(c.name + '/' for c in children)} without class folders in "
                            "them: put each class's images into a folder of its own")
        return {"train": folder.root}
    if "train" not in parts:
        one = next(iter(parts.values()))[0].name
        raise DataError(f"{about} has {one}/ but no train/: rename the training part's folder, or give a folder that "
                        "holds the classes")
    others = [child for child in children if [child] not in parts.values()]
    if others and len(parts) == 1 and not named.keys() - parts.keys():
        raise DataError(f"{about} has {parts['train'][0].name}/ but no test/: rename the other part's folder "
                        f"({others[0].name}/?), or give a folder that holds the classes")
    for child in others:
        folder.remarks.append(f"the folder {child.name}/ is no part of the data set and is not used"
                              + (": it has no class folders" if not _subfolders(child) else ""))
    if "test" not in parts:
        folder.remarks.append(f"there is no test part: a fifth of {parts['train'][0].name}/ is held out as one")
    return {part: found[0] for part, found in parts.items()}


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not _ignored(child.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _scan(folder: Folder, path: Path) -> list[ImageFile]:
    """Read the headers of all files below the class folders, in sorted order; note those that are no images."""
    found = [(file, label) for label, name in enumerate(folder.class_names) for file in _files(folder, path / name)]
    loose = [child for child in sorted(path.iterdir())
             if child.is_file() and not _ignored(child.name) and child.suffix.lower() in EXTENSIONS]
    if loose:
        folder.remarks.append(f"{len(loose)} images that lie in no class folder are not used, such as "
                              f"{folder.shown(loose[0])}")
    folder.files_seen += len(found)
    headers: list[tuple[int, int, bool] | str] = [""] * len(found)

    def scan_one(index: int) -> None:
        file = found[index][0]
        headers[index] = attempt(read_header, file) if file.is_file() or not file.exists() else "no regular file"

    in_threads(scan_one, range(len(found)))
    files = []
    for (file, label), header in zip(found, headers, strict=True):
        if isinstance(header, tuple):
            files.append(ImageFile(file, label, header[:2], header[2], file.stat().st_size))
        else:
            strange = header == "cannot identify image" and file.suffix.lower() not in EXTENSIONS
            folder.skipped.append((file, "no image" if strange else header))
    if not files:
        why = f", of which the first was skipped: {folder.skipped[-len(found)][1]}" if found else ""
        raise DataError(f"data set {folder.name!r}: no images in the class folders of {path} ({len(found)} files{why})")
    return files


def _files(folder: Folder, path: Path) -> list[Path]:
    """The files below a class folder, sorted; links to other folders are not followed, for they may lead round."""
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        if Path(error.filename) != path or path.exists():  # a class may be absent from a test part
            folder.skipped.append((Path(error.filename), f"the folder cannot be read: {error.strerror}"))
            folder.files_seen += 1

    for place, inner, names in os.walk(path, onerror=unreadable):
        linked = [name for name in inner if (Path(place) / name).is_symlink() and not _ignored(name)]
        folder.skipped += [(Path(place) / name, "a link to a folder") for name in linked]
        folder.files_seen += len(linked)
        inner[:] = [name for name in inner if not _ignored(name)]
        found += [Path(place) / name for name in names if not _ignored(name)]
    return sorted(found)


def _each_once(folder: Folder, parts: PartFiles) -> PartFiles:
    """The parts with one copy of each file: in the test part if it has one, else in the validation part."""
    # only files of equal length can be equal
    lengths = Counter(file.file_bytes for files in parts.values() for file in files)
    order: tuple[PartName, ...] = ("test", "validation", "train")
    files = [(part, file) for part in order for file in parts.get(part, ()) if lengths[file.file_bytes] > 1]
    digests: list[str] = [""] * len(files)

    def digest_one(index: int) -> None:
        digests[index] = sha256_of_file(files[index][1].path)

    in_threads(digest_one, range(len(files)))
    first: dict[str, tuple[PartName, ImageFile]] = {}
    copies: dict[Path, tuple[PartName, ImageFile, PartName, ImageFile]] = {}
    for (part, file), digest in zip(files, digests, strict=True):
        kept_part, kept = first.setdefault(digest, (part, file))
        if kept is not file:
            copies[file.path] = (part, file, kept_part, kept)
    folder.skipped += [(file.path, "a copy of a file that is used") for _, file, _, _ in copies.values()]
    folder.remarks += _about_copies(folder, list(copies.values()))
    return {part: [file for file in found if file.path not in copies] for part, found in parts.items()}


def _about_copies(
    folder: Folder, copies: Sequence[tuple[PartName, ImageFile, PartName, ImageFile]]
) -> Iterator[str]:
    """Sentences on copies that say more than that there are some."""
    pairs: Mapping[tuple[PartName, PartName], int] = Counter((part, of) for part, _, of, _ in copies if part != of)
    for (part, of), count in pairs.items():
        one = next((file, kept) for p, file, o, kept in copies if (p, o) == (part, of))
        yield (f"{count} images of the {part} part are in the {of} part too and were left out of {part}, such as "
               f"{folder.shown(one[0].path)} = {folder.shown(one[1].path)}")
    if torn := [(file, kept) for _, file, _, kept in copies if file.label != kept.label]:
        yield (f"{len(torn)} images lie in two classes, of which the first was taken, such as "
               f"{folder.shown(torn[0][0].path)} = {folder.shown(torn[0][1].path)}")


def attempt(function: Callable[..., _Item], path: Path, *args: Any) -> _Item | str:
    """The function's result for a file, or in words why the file cannot be read."""
    try:
        return function(path, *args)
    except Exception as e:  # Pillow's decoders raise nearly anything on damaged files
        return failure(e, path)


def in_threads(function: Callable[[int], None], indices: range) -> None:
    """Call a function with each index, in threads: Pillow decodes without holding the interpreter lock."""
    tasks = [indices[i : i + _FILES_A_TASK] for i in range(0, len(indices), _FILES_A_TASK)]

    def run(task: range) -> None:
        for index in task:
            function(index)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done in [pool.submit(run, task) for task in tasks]:
            done.result()
