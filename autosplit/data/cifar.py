"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 RGB images, 50,000 for training and 10,000 for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from autosplit.data.base import ImageDataset, Split, build_from_official
from autosplit.data.download import data_root, download

__all__ = ["load"]

_CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def load(name: str, *, seed: int, root: Path | None = None, limit: int | None = None) -> ImageDataset:
    """Load CIFAR through torchvision, which compares the files' checksums before it opens them.

    Args:
        name: "cifar10" or "cifar100".
        seed: Seed of the division of the training part.
        root: Folder that torchvision keeps the data set in, or downloads it to.
        limit: At most so many images in each part.

    Raises:
        DataError: The data set is absent and cannot be downloaded.
    """
    training, test = (_open(name, data_root(root), train=train) for train in (True, False))
    return build_from_official(name, training.classes, _split(training), _split(test), seed=seed, limit=limit)


def _open(name: str, root: Path, *, train: bool) -> Any:
    """One part as torchvision's data set object."""
    from torchvision import datasets

    remedy = (
        f"put {_ARCHIVES[name]} (https://www.cs.toronto.edu/~kriz/cifar.html) into a folder and name it with "
        "--data-root, or use an image folder (image-folder:PATH)"
    )
    constructor = getattr(datasets, _CLASSES[name])
    return download(name, lambda: constructor(str(root), train=train, download=True), remedy)


def _split(part: Any) -> Split:
    """Images (N, 3, 32, 32) and labels (N,) of torchvision's object."""
    pixels = np.ascontiguousarray(np.asarray(part.data, dtype=np.uint8).transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(pixels), torch.tensor(part.targets, dtype=torch.int64))
