"""Data sets by name: four disjoint parts of uint8 images each, loaded into memory.

Imports `core` only. Begin with `base`, which says what a data set is. Loaders are imported when they are asked for, so
importing this package loads neither torchvision nor scikit-learn.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any, Protocol, cast

from autosplit.core.errors import AutosplitError, ConfigError, PluginError, UnknownNameError
from autosplit.core.held import is_held, look_up
from autosplit.core.plugins import Registry, check_prefix, one_line
from autosplit.data.augment import augment_batch
from autosplit.data.base import ImageDataset, Split, SplitName, StoredFormat
from autosplit.data.hubs import HF, TORCHVISION, hf_data, torchvision_data

__all__ = [
    "ImageDataset",
    "Split",
    "SplitName",
    "StoredFormat",
    "augment_batch",
    "list_datasets",
    "load_dataset",
]

_FOLDER_PREFIX, _CSV_PREFIX = "image-folder:", "image-csv:"
_SIDES = {"cifar10": 32, "cifar100": 32, "digits-m": 32, "fashion-mnist": 28}
_MODULES = {
    "caltech101": "caltech101",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "digits-m": "digits_m",
    "fashion-mnist": "fashion_mnist",
}


_PLUGINS = Registry(kind="data set", group="autosplit.datasets", builtin={})


class _Loader(Protocol):
    def __call__(self, name: str, *, seed: int, root: Path | None, limit: int | None, **size: Any) -> ImageDataset: ...


def list_datasets() -> list[str]:
    """Names that `load_dataset` knows, sorted; PATH is that of any folder of images or table."""
    return sorted([*_MODULES, *_PLUGINS.names(), f"{_FOLDER_PREFIX}PATH", f"{_CSV_PREFIX}PATH", f"{HF}NAME",
                   f"{TORCHVISION}CLASS"])


def load_dataset(
    name: str,
    *,
    seed: int = 0,
    image_size: int | None = None,
    root: Path | None = None,
    limit: int | None = None,
) -> ImageDataset:
    """Load a data set.

    Args:
        name: One of `list_datasets()`; `image-folder:PATH` or `image-csv:PATH` with the path; `torchvision:CLASS` or
            `hf:NAME`, `hf:NAME@CONFIGURATION`, `hf:PATH` (`autosplit.data.hubs`); or `package.module:function` or
            `path/to/file.py:function`, which gives data as `autosplit.data.in_memory.read_data` takes them. It is
            called with those of `seed`, `image_size` and `root` that it has parameters for.
        seed: Seed of the division into parts, and of the images of `digits-m`. Equal seeds give equal bytes.
        image_size: Height and width in pixels that images are brought to; `None` = the data set's own, or 224 where it
            has several. The small packaged data sets have one size only.
        root: Folder that data sets lie in and are downloaded to; `None` = the system's and the user's own
            places. A relative PATH of an image folder starts here.
        limit: At most so many images in each of the four parts.

    Raises:
        UnknownNameError: No data set has this name.
        ConfigError: `seed`, `limit` or `image_size` make no sense for it.
        DataError: The data are absent, unreadable, too few or too large.
        PluginError: A function of the user's raised.
    """
    if seed < 0:
        raise ConfigError(f"data set {name!r}: seed is {seed}, but must not be negative")
    if limit is not None and limit < 1:
        raise ConfigError(f"data set {name!r}: limit is {limit}, but must be at least 1")
    if image_size is not None and image_size < 8:
        raise ConfigError(f"data set {name!r}: image_size is {image_size}, but must be at least 8 pixels")
    if is_held(name):
        from autosplit.data.in_memory import dataset_of

        return dataset_of(look_up("data set", name, "data"), name, seed=seed, limit=limit)
    if name.startswith(_FOLDER_PREFIX):
        from autosplit.data import image_folder

        path = name.removeprefix(_FOLDER_PREFIX)
        if not path or path == "PATH":
            raise ConfigError(f"data set {name!r}: write the folder's path after {_FOLDER_PREFIX!r}")
        folder = (root or Path()) / Path(path).expanduser()
        return image_folder.load(name, folder, seed=seed, image_size=image_size, limit=limit)
    if name.startswith(_CSV_PREFIX):
        from autosplit.data import image_csv

        table = (root or Path()) / Path(name.removeprefix(_CSV_PREFIX)).expanduser()
        return image_csv.load(name, table, seed=seed, image_size=image_size, limit=limit)
    if name.startswith((HF, TORCHVISION)):
        from autosplit.data.in_memory import dataset_of, read_data

        given = (hf_data if name.startswith(HF) else torchvision_data)(name, root)
        return dataset_of(read_data(given, image_size), name, seed=seed, limit=limit)
    if ":" in name or (name not in _MODULES and name in _PLUGINS.names()):
        return _from_plugin(name, seed, image_size, root, limit)
    if name not in _MODULES:
        folder = (root or Path()) / Path(name).expanduser()
        meant = f"a folder of images is called {_FOLDER_PREFIX}{name}"
        raise UnknownNameError("data set", name, list_datasets(), meant if "/" in name or folder.is_dir() else "")
    if name in _SIDES and image_size not in (None, _SIDES[name]):
        raise ConfigError(
            f"data set {name!r} has images of {_SIDES[name]}x{_SIDES[name]} only: leave image_size out "
            "(it applies to image-folder:PATH and caltech101)"
        )
    loader = cast("_Loader", importlib.import_module(f"autosplit.data.{_MODULES[name]}").load)
    size = {} if name in _SIDES else {"image_size": image_size}
    return loader(name, seed=seed, root=root, limit=limit, **size)


def _from_plugin(name: str, seed: int, image_size: int | None, root: Path | None, limit: int | None) -> ImageDataset:
    """The data that a user's function gives."""
    from autosplit.data.in_memory import dataset_of, read_data

    check_prefix("data set", name, (_FOLDER_PREFIX, _CSV_PREFIX, HF, TORCHVISION))
    function = _PLUGINS.load(name)
    offered: dict[str, Any] = {"seed": seed, "image_size": image_size, "root": root}
    try:
        taken = {k: v for k, v in offered.items() if k in inspect.signature(function).parameters}
        data = function(**taken) if callable(function) else function
    except AutosplitError:
        raise
    except Exception as e:
        raise PluginError(f"data set {name!r}: calling it raised {one_line(e)}") from e
    if isinstance(data, ImageDataset):
        return data
    return dataset_of(read_data(data, image_size), name, seed=seed, limit=limit)
