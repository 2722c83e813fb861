"""The data set that a result was found on."""

from __future__ import annotations

from pathlib import Path

from autosplit.core.errors import ResultError
from autosplit.core.result import Result
from autosplit.data import ImageDataset, load_dataset

__all__ = ["recorded_data"]


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
    data = load_dataset(scenario.dataset, seed=scenario.search.seed, image_size=scenario.image_size, root=data_root)
    if data.fingerprint != result.provenance.data_fingerprint:
        raise ResultError(f"{path}: data set {scenario.dataset!r} differs from the recorded one (another content, seed "
                          "or image decoder); replay with the data that it was searched on")
    return data
