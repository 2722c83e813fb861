"""Data sets that are handed over in Python, or made by a user's function: arrays, data of torch and Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autosplit.core.errors import DataError
from autosplit.core.plugins import one_line
from autosplit.data.base import PART_NAMES, ImageDataset, Split, SplitName, build_dataset
from autosplit.data.copies import apart, first_alike
from autosplit.data.image_folder import DEFAULT_SIDE, MAX_BYTES, TEST_SHARE, warn_once
from autosplit.data.partition import partition, random_generator, split_training
from autosplit.runtime.standalone.image_file import fit, is_grey, to_rgb

__all__ = ["RawData", "dataset_of", "pixels_of", "read_data"]

_SECRET = -1  # the label of test images that a benchmark keeps to itself
_LEAST_OF_A_CLASS = 4  # pictures, one for each part
_TEST_PURPOSE = 7  # of the random generator, beside those of the other parts
_IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


class RawData:
    """Images and labels by part, as they were handed over.

    Args:
        parts: See the attribute.
        class_names: See the attribute.
        notes: See the attribute.

    Attributes:
        parts: `train`, and perhaps `validation` and `test`: images uint8 (N, C, H, W), labels int64 (N,).
        class_names: One a class.
        notes: What was done to the images that the user should know.
        digest: Hash of all of it.
    """

    def __init__(self, parts: dict[str, tuple[Tensor, Tensor]], class_names: Sequence[str],
                 notes: Sequence[str] = ()) -> None:
        self.parts = parts
        self.class_names = tuple(class_names)
        self.notes = tuple(notes)
        digest = hashlib.sha256(repr((sorted(parts), self.class_names)).encode())
        for _, (images, labels) in sorted(parts.items()):
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(images.contiguous().numpy().data)
            digest.update(labels.numpy().astype("<i8").tobytes())
        self.digest = digest.hexdigest()[:16]


def read_data(data: Any, image_size: int | None = None) -> RawData:
    """Read data of any kind that people hand over.

    Args:
        data: A pair of images and labels (arrays, tensors or lists); a torch `Dataset` or `DataLoader`, or any other
            sequence of pairs of one image and its label; a `Dataset` of Hugging Face with a column of images and one of
            labels; or a mapping from `train`, `validation` and `test` to any of these. Images are pictures of Pillow,
            or numbers: uint8, or floating point in [0, 1]; (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3
            channels. Classes are numbers from 0, or names.
        image_size: Height and width that images are brought to, as those of a folder are: resized to cover it and
            cropped; `None` = their own, or 224 where they have several.

    Raises:
        DataError: It is none of these, images were normalised, or an image has several labels.
    """
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8):
        raise DataError(f"data: image_size is {image_size!r}; give a whole number of pixels from 8 on")
    given = dict(data) if isinstance(data, Mapping) else {"train": data}
    unknown = [name for name in given if str(name).lower() not in PART_NAMES]
    if unknown:
        raise DataError(f"data: a part is called {unknown[0]!r}; name parts 'train', 'validation' and 'test'")
    parts = {PART_NAMES[str(name).lower()]: part for name, part in given.items()}
    if "train" not in parts:
        raise DataError(f"data: there is no part 'train' among {', '.join(map(repr, parts))}")
    pictures = _Pictures(None if image_size is None else (image_size, image_size))
    labels = {name: _read_part(part, name, pictures) for name, part in parts.items()}
    secret = _without_labels(labels)
    for name in secret:
        pictures.drop(name)
    labels = {name: found for name, found in labels.items() if name not in secret}
    names = next((found for part in parts.values() if (found := _class_names(part))), None)
    if any(found.dtype.kind == "U" for found in labels.values()):
        names = sorted(set(np.concatenate([found.astype(str) for found in labels.values()]).tolist()))
        labels = {name: np.searchsorted(names, found.astype(str)) for name, found in labels.items()}
    count = 1 + max(int(found.max()) for found in labels.values())
    if names is None or len(names) < count:
        names = [str(i) for i in range(count)]
    notes = [*pictures.notes, *(f"part {name!r} has no labels ({_SECRET}), and was left out" for name in secret)]
    return RawData({name: (pictures.of(name), torch.from_numpy(found.astype(np.int64)))
                    for name, found in labels.items()}, names, notes)


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
    parts, remarks = apart(name, raw.class_names,
                           {PART_NAMES[part]: Split(*found) for part, found in raw.parts.items()})
    pool = parts["train"]
    first = first_alike(pool.images)
    new = first == torch.arange(len(pool))
    if not new.all():
        if min(torch.bincount(pool.labels[new], minlength=len(raw.class_names)).tolist()) >= _LEAST_OF_A_CLASS:
            other = int((pool.labels != pool.labels[first]).sum())
            remarks.append(f"{int((~new).sum())} of {len(pool)} pictures are there already, and were left out"
                           + (f"; {other} of them are in another class there: look at their labels" if other else ""))
            pool = pool.chosen(new)
        else:  # invented data, such as one colour a class
            remarks.append("the pictures of a class are nearly all alike, so that the same ones are trained on and "
                           "tested on: accuracy says nothing of other pictures")
    if (test := parts.get("test")) is None:
        kept, taken = partition(pool.labels.numpy(), raw.class_names, (TEST_SHARE,),
                                random_generator(seed, _TEST_PURPOSE))
        test, pool = pool.chosen(torch.from_numpy(taken)), pool.chosen(torch.from_numpy(kept))
    own = parts.get("validation")
    train, calibration, validation = (pool.chosen(torch.from_numpy(part)) for part in split_training(
        pool.labels.numpy(), raw.class_names, seed, validates=own is None))
    for remark in (*raw.notes, *remarks):
        warn_once(f"data set {name!r}: {remark}")
    return build_dataset(name, raw.class_names, train=train.first(limit), calibration=calibration.first(limit),
                         validation=(validation if own is None else own).first(limit), test=test.first(limit),
                         notes=(*raw.notes, *remarks), augment=True)


# --- the pictures ---------------------------------------------------------------------------------------------------


class _Pictures:
    """Pictures of all parts, brought to one size and one number of channels.

    Args:
        size: Height and width; `None` = their own as long as it is one.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._size, self._asked = size, size is not None
        self._parts: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._sizes: set[tuple[int, ...]] = set()
        self._channels = 1
        self._bytes = 0

    def add(self, name: str, image: Any) -> None:
        """Take a picture in.

        Raises:
            DataError: It is none, or there is no memory for all of them.
        """
        array = _picture(image, name)
        self._sizes.add(array.shape[1:])
        self._channels = max(self._channels, len(array))
        if self._size is None and len(self._sizes) > 1:
            self._size = DEFAULT_SIDE, DEFAULT_SIDE
            for known in self._parts.values():
                known[:] = [_fitted(one, self._size) for one in known]
        array = array if self._size is None else _fitted(array, self._size)
        self._bytes += array.nbytes
        if self._bytes > MAX_BYTES:
            raise DataError(f"data, part {name!r}: images of {array.shape[1]}x{array.shape[2]} take more than "
                            f"{MAX_BYTES / 1e9:.0f} GB of memory; give a smaller image_size")
        self._parts.setdefault(name, []).append(array)

    def count(self, name: str) -> int:
        """Pictures of a part so far."""
        return len(self._parts.get(name, ()))

    def drop(self, name: str) -> None:
        """Forget the pictures of a part."""
        self._bytes -= sum(one.nbytes for one in self._parts.pop(name, ()))

    def of(self, name: str) -> Tensor:
        """The pictures of a part, uint8 (N, C, H, W)."""
        found = self._parts.pop(name)  # not twice in memory
        return torch.from_numpy(np.stack([np.broadcast_to(one, (self._channels, *one.shape[1:])) for one in found]))

    @property
    def notes(self) -> list[str]:
        """What was done to them."""
        if self._size is None or self._sizes == {self._size}:
            return []
        several = "" if self._asked else " because they have several sizes; give image_size for another"
        return ["images resized to cover {}x{} pixels and centre-cropped{}".format(*self._size, several)]


def _picture(image: Any, name: str) -> np.ndarray[Any, Any]:
    """One image as uint8 (C, H, W)."""
    if isinstance(image, Image.Image):
        pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.asarray(to_rgb(image)).transpose(2, 0, 1)
        return pixels[:1] if is_grey(image) else pixels
    array: np.ndarray[Any, Any] = np.asarray(image)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in {1, 3} and array.shape[2] in {1, 3}:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in {1, 3}:
        raise DataError(f"data, part {name!r}: an image has shape {np.asarray(image).shape}; it must have 1 or 3 "
                        "channels, first or last")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.where(array, 255, 0).astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise DataError(f"data, part {name!r}: an image has values from {array.min():.3g} to {array.max():.3g}; "
                            "give uint8, or floats in [0, 1]: leave Normalize out of the transform, autosplit "
                            "normalises itself")
        return np.rint(array * 255).astype(np.uint8)  # type: ignore[no-any-return]
    raise DataError(f"data, part {name!r}: images are {array.dtype}; give uint8, or floats in [0, 1]")


def pixels_of(images: Iterable[Any], size: tuple[int, int]) -> Tensor:
    """Pictures of any kind that `read_data` takes, brought to one height and width: uint8 (N, C, H, W).

    Raises:
        DataError: There are none, or one is no picture.
    """
    found = _Pictures(size)
    for image in images:
        found.add("images", image)
    if not found.count("images"):
        raise DataError("images: there are none")
    return found.of("images")


def _fitted(image: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    if image.shape[1:] == size:
        return image
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    array: np.ndarray[Any, Any] = np.asarray(fit(picture, *size))
    return array[None] if len(image) == 1 else array.transpose(2, 0, 1)


# --- one part -------------------------------------------------------------------------------------------------------


def _read_part(part: Any, name: str, into: _Pictures) -> np.ndarray[Any, Any]:
    """Labels of one part, numbers or names, (N,); its pictures go where they are told."""
    if _is_pair(part):
        if len(part[0]) != len(part[1]):
            raise DataError(f"data, part {name!r}: there are {len(part[0])} images and {len(part[1])} labels")
        if not len(part[0]):
            raise DataError(f"data, part {name!r}: it is empty")
        for image in part[0]:
            into.add(name, image)
        labels = np.asarray(part[1])
    else:
        found = []
        image_column, label_column = _columns(part)
        for item in _asked(_items(part, name), name):
            pictures, label = _pair(item, name, image_column, label_column)
            for picture in pictures:
                into.add(name, picture)
            found.append(np.atleast_1d(label))
        if not found:
            raise DataError(f"data, part {name!r}: it is empty")
        labels = np.concatenate(found)
    if labels.ndim != 1 or len(labels) != into.count(name):
        raise DataError(f"data, part {name!r}: labels have shape {labels.shape} for {into.count(name)} images; "
                        "autosplit needs one class an image, not several labels")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    if labels.dtype.kind not in "iubU":
        raise DataError(f"data, part {name!r}: labels are {labels.dtype}; they must be numbers of classes from 0, or "
                        "names of classes")
    return labels


def _without_labels(labels: Mapping[SplitName, np.ndarray[Any, Any]]) -> list[SplitName]:
    """Parts that say of every image that its class is unknown.

    Raises:
        DataError: That is so of the training part, or a label is below 0 for another reason.
    """
    numbers = {name: found for name, found in labels.items() if found.dtype.kind == "i"}
    secret = [name for name, found in numbers.items() if (found == _SECRET).all()]
    if "train" in secret:
        raise DataError(f"data, part 'train': all labels are {_SECRET}, which means unknown; give labels")
    for name, found in numbers.items():
        if name not in secret and int(found.min()) < 0:
            raise DataError(f"data, part {name!r}: a label is {int(found.min())}; classes are numbers from 0, leave "
                            "out what has no label")
    return secret


def _is_pair(part: Any) -> bool:
    """Whether data are images and, beside them, their labels; a list of two items may be two pairs."""
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        return False
    images, labels = part
    if hasattr(images, "shape"):
        return len(images.shape) >= 3 and hasattr(labels, "__len__")
    if not isinstance(images, (list, tuple)) or not hasattr(labels, "__len__") or isinstance(labels, str):
        return False
    first = images[0] if images else None
    pictured = first is None or isinstance(first, Image.Image) or np.ndim(first) > 0
    return pictured and all(np.ndim(label) == 0 for label in labels)


def _columns(part: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that the columns of images and of labels may have, those of a table of Hugging Face by their type first."""
    features = getattr(part, "features", None)
    kinds = {str(c): type(f).__name__ for c, f in features.items()} if isinstance(features, Mapping) else {}
    images, labels = ([c for c, kind in kinds.items() if kind == wanted] for wanted in ("Image", "ClassLabel"))
    others = [c for c in kinds if c not in images]
    if len(images) == 1 and len(others) == 1:  # what stands beside the images, whatever its type
        labels = others
    return ((*images, *_IMAGE_COLUMNS) if len(images) == 1 else _IMAGE_COLUMNS,
            (*labels, *_LABEL_COLUMNS) if len(labels) == 1 else _LABEL_COLUMNS)


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


def _asked(items: Iterable[Any], name: str) -> Iterator[Any]:
    """The items; an error of the user's own code says at which."""
    iterator, number = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as e:
            raise DataError(f"data, part {name!r}: item {number} cannot be read: {one_line(e)}") from e
        yield item
        number += 1


def _pair(item: Any, name: str, images: Sequence[str], labels: Sequence[str]) -> tuple[list[Any], Any]:
    """The images and labels of one item, which may be a batch; columns by the names that they may have."""
    if isinstance(item, Mapping):
        of_image, of_label = (next((c for c in names if c in item), None) for names in (images, labels))
        if of_image is None or of_label is None:
            raise DataError(f"data, part {name!r}: columns are {', '.join(map(str, item))}; one must be called "
                            f"{' or '.join(_IMAGE_COLUMNS[:2])}, one {' or '.join(_LABEL_COLUMNS[:2])}")
        image, label = item[of_image], item[of_label]
        if image is None or label is None:
            raise DataError(f"data, part {name!r}: column {of_image if image is None else of_label!r} has an item "
                            "without a value; leave it out")
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        image, label = item
    else:
        raise DataError(f"data, part {name!r}: an item is a {type(item).__name__}; it must be a pair (image, class)")
    label = np.asarray(label)
    if label.ndim == 0:
        return [image], label
    if hasattr(image, "shape") and len(image.shape) == 4 and label.ndim == 1 and len(label) == len(image):
        return list(image), label
    raise DataError(f"data, part {name!r}: an image has {label.size} labels; autosplit needs one class an image")


def _class_names(part: Any) -> list[str] | None:
    """What the classes are called, where the data say so."""
    features = getattr(part, "features", None)
    if isinstance(features, Mapping):
        named = next((features[c] for c in _columns(part)[1] if c in features), None)
        found = getattr(named, "names", None)
        return None if found is None else [str(n) for n in found]
    classes = getattr(part, "classes", None) or getattr(getattr(part, "dataset", None), "classes", None)
    return [str(n) for n in classes] if isinstance(classes, (tuple, list)) else None
