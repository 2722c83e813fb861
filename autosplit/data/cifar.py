"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 RGB images, 50,000 for training and 10,000 for testing."""

from __future__ import annotations

from functools import partial
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
    from torchvision import datasets

    constructor, folder = getattr(datasets, _CLASSES[name]), str(data_root(root))
    parts: list[Any] = [download(
        name, partial(constructor, folder, train=train, download=True),
        f"put {_ARCHIVES[name]} (https://www.cs.toronto.edu/~kriz/cifar.html) into a folder and name it with "
        "--data-root, or use an image folder (image-folder:PATH)") for train in (True, False)]
    training, test = (
        Split(torch.from_numpy(np.ascontiguousarray(np.asarray(part.data, dtype=np.uint8).transpose(0, 3, 1, 2))),
              torch.tensor(part.targets, dtype=torch.int64)) for part in parts)
    return build_from_official(name, parts[0].classes, training, test, seed=seed, limit=limit)
