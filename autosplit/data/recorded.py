"""The data set that a result was found on."""

from __future__ import annotations

from pathlib import Path

from autosplit.core.errors import ResultError
from autosplit.core.result import Result
from autosplit.core.scenario import path_in
from autosplit.data import ImageDataset, load_dataset

__all__ = ["located", "recorded_data"]


def located(result: Result, data_root: Path | None = None) -> str:
    """The recorded name of a data set; of a folder or table that is no longer there, the one that took its place.

    Args:
        result: Read from a file; a folder that was moved is looked for below `data_root` and beside that file.
        data_root: Where data sets lie.
    """
    name = result.scenario.dataset
    if (found := path_in(name)) is None:
        return name
    prefix, folder = found
    if ((data_root or Path()) / folder).exists():
        return name
    for place in (data_root or Path(), result.path.parent, result.path.absolute().parents[1]):
        if (moved := place.absolute() / folder.name).exists():
            return f"{prefix}{moved}"
    return name


def recorded_data(result: Result, path: str | Path, data_root: Path | None = None) -> ImageDataset:
    """The data set of a result that was read from `path`.

    Args:
        result: The result.
        path: Its file, for the error.
        data_root: Where data sets lie.

    Raises:
        ResultError: The data are not what they were.
        DataError: They cannot be read.
    """
    scenario = result.scenario
    data = load_dataset(located(result, data_root), seed=scenario.search.seed, image_size=scenario.image_size,
                        root=data_root)
    if data.shape[0] == 1 and result.stored.blueprint.image_shape[0] == 3:
        data = data.in_colour()
    if data.fingerprint != result.provenance.data_fingerprint:
        raise ResultError(f"{path}: data set {scenario.dataset!r} differs from the recorded one (another content, seed "
                          "or image decoder); replay with the data that it was searched on")
    return data
