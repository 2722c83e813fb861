"""A table of pictures and classes as a data set: `image-csv:PATH`."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from autosplit.core.errors import DataError
from autosplit.data.base import PART_NAMES, ImageDataset
from autosplit.data.folder_scan import attempt
from autosplit.data.image_folder import MAX_BYTES, decoded, size_for
from autosplit.data.in_memory import RawData, dataset_of
from autosplit.runtime.standalone.files import read_file
from autosplit.runtime.standalone.image_file import read_header

__all__ = ["load"]

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
_LABELS = ("label", "class", "target", "category", "class_name")
_PARTS = ("split", "part", "subset", "fold", "set")
_PART_NAMES: dict[str, str] = {**PART_NAMES, "testing": "test"}
_MOST_TEXT_BYTES = 1 << 28


def load(name: str, path: Path, *, seed: int, image_size: int | None = None, limit: int | None = None) -> ImageDataset:
    """Load the pictures that a table names.

    The first line names the columns: one of paths, relative to the table (`path`, `file`, `image` ...), one of classes
    (`label`, `class` ...), and perhaps one of parts (`split`: `train`, `validation`, `test`). Classes are numbered in
    their sorted order, by number if all are numbers. Pictures are brought to one size as those of a folder are.

    Args:
        name: Name to give it.
        path: The table, UTF-8, separated by commas, semicolons or tabs.
        seed: Seed of the division into parts.
        image_size: Height and width to bring images to, pixels.
        limit: At most so many images in each part.

    Raises:
        DataError: No such file, a column or a picture is missing, a picture has several classes, or there are too few.
    """
    rows = _rows(name, path)
    labels = [label for _, label, _ in rows]
    numbers = all(label.lstrip("-").isdigit() for label in labels)
    classes = sorted(set(labels), key=(lambda label: (int(label), label)) if numbers else None)
    if len(classes) < 2:
        raise DataError(f"data set {name!r}: all {len(rows)} pictures belong to class {classes[0]!r}; a classifier "
                        "needs two")
    height, width, channels = _shape(name, rows, image_size)
    if len(rows) * channels * height * width > MAX_BYTES:
        raise DataError(f"data set {name!r}: {len(rows)} images of {height}x{width} take more than "
                        f"{MAX_BYTES / 1e9:.0f} GB of memory; choose a smaller --image-size")
    pixels, wrong = decoded([path for path, _, _ in rows], (channels, height, width))
    if (bad := next((i for i, reason in enumerate(wrong) if reason), None)) is not None:
        raise _at(name, bad + 2, f"picture {str(rows[bad][0])!r} cannot be read: {wrong[bad]}")
    place = {label: number for number, label in enumerate(classes)}
    parts = {}
    for part in ("train", "validation", "test"):
        chosen = [i for i, row in enumerate(rows) if row[2] == part]
        if chosen:
            parts[part] = (torch.from_numpy(pixels[chosen]), torch.tensor([place[labels[i]] for i in chosen]))
    if "train" not in parts:
        raise DataError(f"data set {name!r}: no row belongs to part 'train'")
    return dataset_of(RawData(parts, classes), name, seed=seed, limit=limit)


def _rows(name: str, path: Path) -> list[tuple[Path, str, str]]:
    """Path, class and part of each picture."""
    if not path.is_file():
        raise DataError(f"data set {name!r}: no such file {str(path.absolute())!r}")
    text = read_file(path, most_bytes=_MOST_TEXT_BYTES).decode("utf-8-sig", errors="replace")
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count) if lines else ","
    reader = csv.DictReader(lines, delimiter=separator)
    columns = {str(c).strip().lower(): c for c in reader.fieldnames or []}
    of_path, of_label, of_part = (next((columns[c] for c in names if c in columns), None)
                                  for names in (_PATHS, _LABELS, _PARTS))
    if of_path is None or of_label is None:
        raise DataError(f"data set {name!r}: its columns are {', '.join(map(repr, reader.fieldnames or []))}; one must "
                        f"be called {_PATHS[0]!r}, one {_LABELS[0]!r}")
    rows = []
    for line, row in enumerate(reader, 2):
        file, label = (row[of_path] or "").strip(), (row[of_label] or "").strip()
        if not file or not label:
            raise _at(name, line, "it has no picture" if not file else "it has no class")
        if None in row or any(mark in label for mark in "|;,"):
            raise _at(name, line, f"picture {file!r} has several classes; autosplit needs one a picture")
        part = (row[of_part] or "").strip().lower() if of_part is not None else "train"
        if part not in _PART_NAMES:
            raise _at(name, line, f"part {part!r} is none of train, validation and test")
        where = path.parent / Path(file).expanduser()
        if not where.is_file():
            raise _at(name, line, f"there is no picture {str(where)!r}")
        rows.append((where, label, _PART_NAMES[part]))
    if not rows:
        raise DataError(f"data set {name!r}: it names no pictures")
    return rows


def _shape(name: str, rows: list[tuple[Path, str, str]], image_size: int | None) -> tuple[int, int, int]:
    """Height, width and channels that pictures are brought to."""
    sizes, grey = set[tuple[int, int]](), True
    for line, (file, _, _) in enumerate(rows, 2):
        found = attempt(read_header, file)
        if isinstance(found, str):
            raise _at(name, line, f"picture {str(file)!r} cannot be read: {found}")
        sizes.add(found[:2])
        grey &= found[2]
    return *size_for(sizes, image_size), 1 if grey else 3


def _at(name: str, line: int, what: str) -> DataError:
    return DataError(f"data set {name!r}, line {line}: {what}")
