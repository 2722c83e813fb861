"""Caltech-101 (Fei-Fei et al. 2004): 8,677 photographs of about 300x200 in 101 classes of 31 to 800."""

from __future__ import annotations

import tempfile
from pathlib import Path

from autosplit.core.errors import DataError
from autosplit.data import image_folder
from autosplit.data.base import ImageDataset
from autosplit.data.download import data_root, download

__all__ = ["load"]

_FOLDER = "101_ObjectCategories"
_TORCHVISION_FOLDER = "caltech101"
_ARCHIVE_FOLDER = "caltech-101"
_NO_CLASS = "BACKGROUND_Google"
_CLASSES = 101
_SIDE = 224
_UNPACK = (
    "unpack caltech-101.zip (https://data.caltech.edu/records/mzrjq-6wc02) and the 101_ObjectCategories.tar.gz in it"
)


def load(
    name: str, *, seed: int, root: Path | None = None, image_size: int | None = None, limit: int | None = None
) -> ImageDataset:
    """Load Caltech-101 from `root`, or download it there through torchvision, which compares the checksum.

    The clutter of BACKGROUND_Google is no class and is left out. There is no official test part: it is a stratified
    fifth, as in an image folder without one.

    Args:
        name: Name to give it.
        seed: Seed of the division into parts.
        root: Folder with `101_ObjectCategories` in it, in its `caltech101` (torchvision's) or its `caltech-101` (the
            archive's).
        image_size: Height and width to bring images to, pixels; `None` = 224.
        limit: At most so many images in each part.

    Raises:
        DataError: The data set is absent and cannot be downloaded, or not all of its classes are there.
    """
    root = data_root(root)
    downloaded = root / _TORCHVISION_FOLDER / _FOLDER
    known = (root / _FOLDER, downloaded, root / _ARCHIVE_FOLDER / _FOLDER)
    folder = next((folder for folder in known if folder.is_dir()), None)
    if folder is None:
        from torchvision.datasets import Caltech101

        download(name, lambda: Caltech101(str(root), download=True),
                 f"{_UNPACK} into a folder and name it with --data-root")
        folder = downloaded
    classes = [child for child in folder.iterdir() if child.is_dir() and child.name != _NO_CLASS]
    if len(classes) != _CLASSES:
        raise DataError(f"data set {name!r}: {folder} has {len(classes)} classes instead of {_CLASSES}: remove it and "
                        f"{_UNPACK}, or use it as an image folder (image-folder:PATH)")
    with tempfile.TemporaryDirectory(prefix="autosplit-") as view:  # the same folder without the clutter
        for child in classes:
            (Path(view) / child.name).symlink_to(child.resolve(), target_is_directory=True)
        try:
            return image_folder.load(name, Path(view), seed=seed, image_size=image_size or _SIDE, limit=limit)
        except DataError as e:
            raise DataError(str(e).replace(view, str(folder))) from e
