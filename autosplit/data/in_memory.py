"""Data sets that are handed over in Python, or made by a user's function: arrays, data of torch and Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autosplit.core.errors import DataError
from autosplit.data.base import ImageDataset, Split, build_dataset
from autosplit.data.image_folder import TEST_SHARE
from autosplit.data.partition import partition, random_generator, split_training

__all__ = ["RawData", "dataset_of", "read_data"]

_TEST_PURPOSE = 7  # of the random generator, beside those of the other parts
_IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_PARTS = {"train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation",
          "val": "validation", "dev": "validation"}


class RawData:
    """Images and labels by part, as they were handed over.

    Attributes:
        parts: `train`, and perhaps `validation` and `test`: images uint8 (N, C, H, W), labels int64 (N,).
        class_names: One a class.
        digest: Hash of all of it.
    """

    def __init__(self, parts: dict[str, tuple[Tensor, Tensor]], class_names: Sequence[str]) -> None:
        self.parts = parts
        self.class_names = tuple(class_names)
        digest = hashlib.sha256(repr((sorted(parts), self.class_names)).encode())
        for _, (images, labels) in sorted(parts.items()):
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.numpy().astype("<i8").tobytes())
        self.digest = digest.hexdigest()[:16]


def read_data(data: Any, image_size: int | None = None) -> RawData:
    """Read data of any kind that people hand over.

    Args:
        data: A pair of images and labels (arrays or tensors); a torch `Dataset` or `DataLoader`, or any other sequence
            of such pairs; a `Dataset` of Hugging Face with a column of images and one of labels; or a mapping from
            `train`, `validation` and `test` to any of these. Images are pictures of Pillow, or numbers: uint8, or
            floating point in [0, 1]; (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels.
        image_size: Height and width that images are brought to; `None` = their own, which must be one.

    Raises:
        DataError: It is none of these, images have several sizes or were normalised, or an image has several labels.
    """
    given = dict(data) if isinstance(data, Mapping) else {"train": data}
    unknown = [name for name in given if str(name).lower() not in _PARTS]
    if unknown:
        raise DataError(f"data: a part is called {unknown[0]!r}; name parts 'train', 'validation' and 'test'")
    parts = {_PARTS[str(name).lower()]: part for name, part in given.items()}
    if "train" not in parts:
        raise DataError(f"data: there is no part 'train' among {', '.join(map(repr, parts))}")
    read = {name: _part(part, name, image_size) for name, part in parts.items()}
    names = next((found for part in parts.values() if (found := _class_names(part))), None)
    count = 1 + max(int(labels.max()) for _, labels in read.values())
    if names is None or len(names) < count:
        names = [str(i) for i in range(count)]
    shapes = {tuple(images.shape[1:]) for images, _ in read.values()}
    if len(shapes) > 1:
        raise DataError(f"data: parts have images of different shapes, {' and '.join(map(str, sorted(shapes)))}; bring "
                        "them to one, or give image_size")
    return RawData(read, names)


def dataset_of(raw: RawData, name: str, *, seed: int, limit: int | None = None) -> ImageDataset:
    """Divide data into the four parts.

    What has no test part gives a fifth of each class to it; what has no validation part, as `split_training` says.

    Args:
        raw: As read.
        name: Of the data set.
        seed: Of the division.
        limit: At most so many images in each part.

    Raises:
        DataError: A class has too few images.
    """
    images, labels = raw.parts["train"]
    if "test" in raw.parts:
        test = Split(*raw.parts["test"])
    else:
        kept, taken = partition(labels.numpy(), raw.class_names, (TEST_SHARE,), random_generator(seed, _TEST_PURPOSE))
        test = Split(images[torch.from_numpy(taken)], labels[torch.from_numpy(taken)])
        images, labels = images[torch.from_numpy(kept)], labels[torch.from_numpy(kept)]
    own = "validation" in raw.parts
    cut = split_training(labels.numpy(), raw.class_names, seed, validates=not own)
    train, calibration, validation = (
        Split(images[torch.from_numpy(part)], labels[torch.from_numpy(part)]).first(limit) for part in cut)
    if own:
        validation = Split(*raw.parts["validation"]).first(limit)
    return build_dataset(name, raw.class_names, train=train, calibration=calibration, validation=validation,
                         test=test.first(limit), augment=True)


# --- one part -------------------------------------------------------------------------------------------------------


def _part(part: Any, name: str, image_size: int | None) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, C, H, W) and labels int64 (N,) of one part."""
    if isinstance(part, (tuple, list)) and len(part) == 2 and hasattr(part[0], "shape") and len(part[0].shape) >= 3:
        images = [_picture(image, name) for image in part[0]]
        labels = np.asarray(part[1])
    else:
        pairs = [_pair(item, name) for item in _items(part, name)]
        if not pairs:
            raise DataError(f"data, part {name!r}: it is empty")
        images = [picture for pictures, _ in pairs for picture in pictures]
        labels = np.concatenate([np.atleast_1d(label) for _, label in pairs])
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"data, part {name!r}: labels have shape {labels.shape} for {len(images)} images; autosplit "
                        "needs one class an image, not several labels")
    if labels.dtype.kind not in "iub" or (len(labels) and int(labels.min()) < 0):
        raise DataError(f"data, part {name!r}: labels are {labels.dtype}; they must be numbers of classes from 0")
    if image_size is not None:
        images = [_resized(image, image_size) for image in images]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(f"data, part {name!r}: images have {len(shapes)} shapes, such as "
                        f"{' and '.join(map(str, sorted(shapes)[:2]))} (channels, height, width); give image_size")
    return torch.from_numpy(np.stack(images)), torch.from_numpy(labels.astype(np.int64))


def _items(part: Any, name: str) -> Iterable[Any]:
    loaded = getattr(part, "dataset", None)
    if loaded is not None and hasattr(part, "batch_size"):  # a DataLoader: its own order and batches do not matter
        part = loaded
    if hasattr(part, "__len__") and hasattr(part, "__getitem__"):
        return (part[i] for i in range(len(part)))
    if isinstance(part, Iterable):
        return part
    raise DataError(f"data, part {name!r}: it is a {type(part).__name__}; give a pair (images, labels), a torch "
                    "Dataset or DataLoader, a Dataset of Hugging Face, or a mapping of parts to these")


def _pair(item: Any, name: str) -> tuple[list[np.ndarray[Any, Any]], Any]:
    """The images and labels of one item, which may be a batch."""
    if isinstance(item, Mapping):
        image = next((item[c] for c in _IMAGE_COLUMNS if c in item), None)
        label = next((item[c] for c in _LABEL_COLUMNS if c in item), None)
        if image is None or label is None:
            raise DataError(f"data, part {name!r}: columns are {', '.join(map(str, item))}; one must be called "
                            f"{' or '.join(_IMAGE_COLUMNS[:2])}, one {' or '.join(_LABEL_COLUMNS[:2])}")
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        image, label = item
    else:
        raise DataError(f"data, part {name!r}: an item is a {type(item).__name__}; it must be a pair (image, class)")
    label = np.asarray(label)
    if label.ndim == 0:
        return [_picture(image, name)], label
    if hasattr(image, "shape") and len(image.shape) == 4 and label.ndim == 1 and len(label) == len(image):
        return [_picture(one, name) for one in image], label
    raise DataError(f"data, part {name!r}: an image has {label.size} labels; autosplit needs one class an image")


def _picture(image: Any, name: str) -> np.ndarray[Any, Any]:
    """One image as uint8 (C, H, W)."""
    if isinstance(image, Image.Image):
        grey = image.mode in {"1", "L", "I", "I;16", "F"}
        array = np.asarray(image.convert("L" if grey else "RGB"))
        return array[None] if grey else array.transpose(2, 0, 1)
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in {1, 3} and array.shape[2] in {1, 3}:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in {1, 3}:
        raise DataError(f"data, part {name!r}: an image has shape {np.asarray(image).shape}; it must have 1 or 3 "
                        "channels, first or last")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise DataError(f"data, part {name!r}: an image has values from {array.min():.3g} to {array.max():.3g}; "
                            "give uint8, or floats in [0, 1]: leave Normalize out of the transform, autosplit "
                            "normalises itself")
        rounded: np.ndarray[Any, Any] = np.rint(array * 255).astype(np.uint8)
        return rounded
    raise DataError(f"data, part {name!r}: images are {array.dtype}; give uint8, or floats in [0, 1]")


def _resized(image: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    if image.shape[1:] == (side, side):
        return image
    picture = Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))
    array = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    return array[None] if image.shape[0] == 1 else array.transpose(2, 0, 1)


def _class_names(part: Any) -> list[str] | None:
    """What the classes are called, where the data say so."""
    features = getattr(part, "features", None)
    if isinstance(features, Mapping):
        named = next((features[c] for c in _LABEL_COLUMNS if c in features), None)
        found = getattr(named, "names", None)
        return None if found is None else [str(n) for n in found]
    classes = getattr(part, "classes", None) or getattr(getattr(part, "dataset", None), "classes", None)
    return [str(n) for n in classes] if isinstance(classes, (tuple, list)) else None
