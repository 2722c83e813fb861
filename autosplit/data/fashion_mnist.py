"""Fashion-MNIST (Xiao et al. 2017): 28x28 grey images of clothes, 60,000 for training and 10,000 for testing."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autosplit.core.errors import DataError
from autosplit.data.base import ImageDataset, Split, build_from_official
from autosplit.data.download import data_root, download

__all__ = ["CLASS_NAMES", "load", "read_idx"]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_TORCHVISION_FOLDER = Path("FashionMNIST/raw")
_LAST_FILE = "train-images-idx3-ubyte"
_UNSIGNED_BYTE = 8  # code of the type in the header


def load(name: str, *, seed: int, root: Path | None = None, limit: int | None = None) -> ImageDataset:
    """Load Fashion-MNIST from `root`, from Debian's package, or by download to `root`.

    Args:
        name: Name to give it.
        seed: Seed of the division of the training part.
        root: Folder with the IDX files, plain or gzipped, or with torchvision's `FashionMNIST/raw` or a
            `fashion-mnist` in it.
        limit: At most so many images in each part.

    Raises:
        DataError: The files are absent and cannot be downloaded, or are damaged.
    """
    below = [] if root is None else [root, root / "fashion-mnist"]
    downloaded = data_root(root) / _TORCHVISION_FOLDER
    known = [*below, _DEBIAN_FOLDER, downloaded]
    folder = next((folder for folder in known if _file(folder, _LAST_FILE)), None)
    if folder is None:
        from torchvision.datasets import FashionMNIST

        download(name, lambda: FashionMNIST(str(data_root(root)), download=True),
                 "install Debian's package (apt-get install dataset-fashion-mnist), or put the four IDX files into a "
                 "folder and name it with --data-root")
        folder = downloaded
    training, test = _read_part(folder, "train"), _read_part(folder, "t10k")
    return build_from_official(name, CLASS_NAMES, training, test, seed=seed, limit=limit)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST: magic, sizes as big-endian int32, values.

    Args:
        path: The file; gzipped where the name ends in `.gz`.

    Raises:
        DataError: The file cannot be read, is of another type, or has another length than its header says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be read ({e}): fetch the file again") from e
    dimensions = data[3] if len(data) >= 4 else 0
    if data[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or dimensions == 0:
        raise DataError(f"{path} is not an IDX file of unsigned bytes: fetch the file again")
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise DataError(f"{path} has {len(data)} bytes where its header says {expected}: fetch the file again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _file(folder: Path, stem: str) -> Path | None:
    """The plain or gzipped IDX file of this name, if there is one."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _read_part(folder: Path, prefix: str) -> Split:
    """Images (N, 1, 28, 28) and labels (N,) of the part whose files begin with `prefix`."""
    arrays = []
    for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path = _file(folder, stem)
        if path is None:
            raise DataError(f"{folder} lacks the file {stem}[.gz]: add it, or choose another folder (--data-root)")
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(f"{folder}: images and labels of {prefix!r} do not belong together: fetch the files again")
    pixels = torch.from_numpy(images.copy()).unsqueeze(1)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))
