"""A trained network as controller: it scores each level by what is known of it, and serves any number of levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..arrays import read_arrays
from ..errors import AutosplitError, ConfigError
from .view import FLEET_FEATURES, LEVEL_FEATURES, STREAM_FEATURES, FloatArray, IntArray, View

__all__ = ["ACCURACY", "COST", "EACH", "FIRM", "SHARP", "SPARE", "NetworkController"]

EACH = len(LEVEL_FEATURES)
ACCURACY, SPARE, COST = (LEVEL_FEATURES.index(name) for name in ("accuracy", "spare", "cost"))
FIRM = 5.0  # how much more likely a level becomes by what it is worth
SHARP = 40.0  # how sure it is to be in time, by what would be left of the deadline


@dataclass(frozen=True)
class NetworkController:
    """Takes the level of the highest score.

    A score is what the level is worth for this picture, as the rule `Myopic` sees it, and what two layers of tanh add
    to that; `autosplit.agents.control` trains them.

    Attributes:
        weights: Of the network, by `NAMES`, float32.
    """

    NAMES: ClassVar[tuple[str, ...]] = tuple(f"{part}.{layer}.{kind}" for part in ("level", "skip")
                                             for layer in (0, 2, 4) for kind in ("weight", "bias"))

    weights: dict[str, FloatArray]

    @property
    def shares(self) -> bool:
        """Whether it wants the view of a device that shares link and edge, a `FleetView`."""
        return self._shares(self.weights)

    @staticmethod
    def _shares(weights: Mapping[str, FloatArray]) -> bool:
        first = weights.get("skip.0.weight")
        return first is not None and first.shape[-1:] > (len(STREAM_FEATURES) + EACH,)

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        found: IntArray = self.scores(view.observation()).argmax(axis=1)
        return found

    def scores(self, observations: FloatArray) -> FloatArray:
        """Of each level, and of skipping, shape (n, K + 1); of `View.observation`."""
        return _scores(self.weights, observations)

    def save(self, path: Path) -> None:
        """Write the weights as a .npz file.

        Raises:
            ConfigError: The file cannot be written.
        """
        try:
            with path.open("wb") as file:
                np.savez(file, **self.weights)  # type: ignore[arg-type]  # keywords of numpy's own
        except OSError as e:
            raise ConfigError(f"{path} cannot be written ({e.strerror or e}); choose another place") from e

    @classmethod
    def load(cls, path: Path, *, error: type[AutosplitError] = ConfigError) -> NetworkController:
        """Read what `save` wrote.

        Args:
            path: The file.
            error: Class of the error.

        Raises:
            AutosplitError: Of class `error`: the file is absent, damaged, or holds something else.
        """
        weights = read_arrays(path, error=error)
        width = weights.get("level.0.bias", np.zeros(0)).size
        general = len(STREAM_FEATURES) + (len(FLEET_FEATURES) if cls._shares(weights) else 0)
        inputs = {"level": general + 2 * EACH, "skip": general + EACH}
        for name in cls.NAMES:
            part, layer, kind = name.split(".")
            outputs = 1 if layer == "4" else width
            wanted = (outputs,) if kind == "bias" else (outputs, inputs[part] if layer == "0" else width)
            found = weights.get(name)
            if found is None or found.shape != wanted or found.dtype != np.float32 or not np.isfinite(found).all():
                raise error(f"{path}: no network of a controller ({name}); name a file that `train-controller` wrote")
        return cls({name: weights[name] for name in cls.NAMES})


def _scores(weights: dict[str, FloatArray], observations: FloatArray) -> FloatArray:
    first = weights["skip.0.weight"].shape[1] - EACH  # features that come before those of the levels
    general, each = observations[:, :first], observations[:, first:].reshape(len(observations), -1, EACH)
    repeated = np.broadcast_to(general[:, None], (*each.shape[:2], first))
    fits = 0.5 + 0.5 * np.tanh(SHARP / 2 * each[..., SPARE])  # the logistic function, without an overflow
    level = FIRM * (each[..., ACCURACY] * fits - each[..., COST]) + _run(
        weights, "level", np.concatenate([repeated, each, each - each[:, :1]], axis=2))[..., 0]
    skip = _run(weights, "skip", np.concatenate([general, each[:, 0]], axis=1))
    return np.concatenate([level, skip], axis=1)


def _run(weights: dict[str, FloatArray], name: str, values: FloatArray) -> FloatArray:
    for index in (0, 2):
        values = np.tanh(values @ weights[f"{name}.{index}.weight"].T + weights[f"{name}.{index}.bias"])
    found: FloatArray = values @ weights[f"{name}.4.weight"].T + weights[f"{name}.4.bias"]
    return found
