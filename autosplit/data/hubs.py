"""Data sets of torchvision and of Hugging Face's `datasets` by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autosplit.core.errors import ConfigError, DataError, UnknownNameError
from autosplit.core.extras import install_command
from autosplit.core.hub import HUB, means_a_folder, offline, reachable
from autosplit.core.plugins import one_line
from autosplit.data.base import PART_NAMES
from autosplit.data.download import data_root, download

__all__ = ["HF", "TORCHVISION", "hf_data", "torchvision_data"]

HF, TORCHVISION = "hf:", "torchvision:"

_PARTS = {"train": ("train", "trainval", "train-standard"), "validation": ("val", "valid"), "test": ("test",)}
_SHOWN = 200  # characters of another library's error


def torchvision_data(name: str, root: Path | None) -> dict[str, Any]:
    """The parts of a classification data set of torchvision.

    Args:
        name: `torchvision:CLASS`, such as `torchvision:Flowers102`.
        root: Folder that it lies in or is downloaded to; the user's cache folder of autosplit by default.

    Returns:
        `train`, and `validation` and `test` where it has them.

    Raises:
        UnknownNameError: torchvision has no such data set.
        ConfigError: The name is empty, or this data set needs more than a name.
        DataError: It is absent and cannot be downloaded, or has no part to train on.
    """
    from torchvision import datasets

    short = name.removeprefix(TORCHVISION)
    if not short:
        raise ConfigError(f"data set {name!r}: write the class after {TORCHVISION!r}, as in {TORCHVISION}Flowers102")
    if short not in datasets.__all__:
        raise UnknownNameError("data set of torchvision", short, datasets.__all__)
    if short in {"ImageFolder", "DatasetFolder", "VisionDataset", "wrap_dataset_for_transforms_v2"}:
        raise ConfigError(f"data set {name!r} is a way to read files of your own; give image-folder:PATH")
    constructor = getattr(datasets, short)
    known = inspect.signature(constructor).parameters
    options: dict[str, Any] = {"root": str(data_root(root))} if "root" in known else {}
    if "download" in known:
        options["download"] = True
    if needed := [p for p, v in known.items() if v.default is v.empty and v.kind is v.POSITIONAL_OR_KEYWORD
                  and p not in {"root", "split", "train"}]:
        raise ConfigError(f"data set {name!r} cannot be loaded by name, it needs {needed[0]!r}; write a function that "
                          "returns it, and give file.py:function")
    if "train" in known:
        choices = {"train": {"train": True}, "test": {"train": False}}
        return {part: _built(name, constructor, options | choice) for part, choice in choices.items()}
    if "split" not in known:
        return {"train": _built(name, constructor, options)}
    found: dict[str, Any] = {}
    for part, values in _PARTS.items():
        for value in values:
            try:
                found[part] = _built(name, constructor, options | {"split": value})
                break
            except ValueError:  # it has no part of this name
                continue
    if "train" not in found:
        raise DataError(f"data set {name!r} has no part called train, as far as its `split` goes; write a function "
                        "that returns its parts, and give file.py:function")
    return found


def hf_data(name: str, root: Path | None) -> Any:
    """The parts of a data set of Hugging Face.

    Args:
        name: `hf:NAME` of the hub, `hf:NAME@CONFIGURATION`, or `hf:PATH` of a folder that `save_to_disk` wrote or that
            `load_dataset` takes.
        root: Where a relative PATH begins; the working directory by default.

    Returns:
        What `autosplit.data.in_memory.read_data` takes.

    Raises:
        ConfigError: `datasets` is not installed, or the name is empty.
        DataError: It cannot be had.
    """
    short = name.removeprefix(HF)
    if not short:
        raise ConfigError(f"data set {name!r}: write the data set's name or its folder after {HF!r}, as in {HF}cifar10")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as e:
        raise ConfigError(f"data sets 'hf:NAME' need datasets: {install_command('hf')}") from e
    folder = (root or Path()) / Path(short).expanduser()
    try:
        if folder.is_dir():
            saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
            return _parts(name, datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder)))
        if means_a_folder(short):
            raise DataError(f"data set {name!r}: no such folder {str(folder.absolute())!r}")
        where, _, configuration = short.partition("@")
        return _parts(name, _from_the_hub(name, datasets, where, configuration or None))
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as e:  # of many types
        remedy = ("; give a folder that save_to_disk wrote or, where each class has a folder of pictures, "
                  f"image-folder:{short}" if folder.is_dir() else "")
        raise DataError(f"data set {name!r} cannot be loaded: {one_line(e)[:_SHOWN]}{remedy}") from e


def _built(name: str, constructor: Any, options: Mapping[str, Any]) -> Any:
    """One part; a `ValueError` says that there is none."""
    where = options.get("root", "")
    return download(name, partial(constructor, **options), f"unpack it below {where} as torchvision would, or name "
                                                           "another folder with --data-root")


def _from_the_hub(name: str, datasets: Any, where: str, configuration: str | None) -> Any:
    """From this machine's cache if it can be, else downloaded."""
    try:
        with offline("datasets.config"):
            return datasets.load_dataset(where, configuration)
    except Exception as e:
        if not reachable():
            raise DataError(f"data set {name!r} is not on this machine, and {HUB} cannot be reached to download it; "
                            f"give a folder that save_to_disk wrote, as in {HF}path/to/folder") from e
    return datasets.load_dataset(where, configuration)


def _parts(name: str, found: Any) -> Any:
    """The parts that a search uses; a table without parts is one to train on."""
    if not isinstance(found, Mapping):
        return found
    parts = {PART_NAMES[str(part)]: table for part, table in found.items() if str(part) in PART_NAMES}
    if not parts.get("train"):
        raise DataError(f"data set {name!r} has the parts {', '.join(map(str, found))}; none is called 'train'")
    return parts
