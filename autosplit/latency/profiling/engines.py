"""What runs a network that is timed: torch unit by unit, or onnxruntime, which bundles run on."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, fx

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.latency.profiling.stopwatch import Stopwatch
from autosplit.latency.profiling.units import Unit, units_of
from autosplit.models.onnx_files import require_onnx, write_onnx
from autosplit.models.onnx_operators import OnnxNode, owners_of
from autosplit.runtime.standalone.bundle.parts import session_options
from autosplit.runtime.standalone.profiling.clock import Timer, steady_medians
from autosplit.runtime.standalone.profiling.kernels import attributed, kernel_seconds

__all__ = ["Engine", "OnnxEngine", "TorchEngine"]

_INPUT = "input"
_RANK = 4  # of images and feature maps
_REMEDY = "; profile with --engine torch"


class Engine(Protocol):
    """Runs a network and says how long its parts take."""

    @property
    def title(self) -> str:
        """Name and version."""

    def by_unit(self, graph: fx.GraphModule, image: Tensor) -> tuple[list[Unit], Timer]:
        """Prepare a network to be timed unit by unit.

        Args:
            graph: As `folded` gives it.
            image: Shape (1, C, H, W).

        Returns:
            The units, and what gives the median seconds of each, shape (units,).
        """

    def whole(self, graph: fx.GraphModule, image: Tensor) -> Timer:
        """Prepare a network to be timed as a whole: median seconds, shape (1,); the input may be a feature too."""


class TorchEngine:
    """Eager torch, the clock read around every unit.

    Args:
        stopwatch: The clock.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    @property
    def title(self) -> str:
        """See `Engine.title`."""
        return f"torch {torch.__version__}"

    def by_unit(self, graph: fx.GraphModule, image: Tensor) -> tuple[list[Unit], Timer]:
        """See `Engine.by_unit`."""
        units = units_of(graph, tuple(image.shape[1:]))
        image = image.contiguous(memory_format=torch.channels_last)
        return units, partial(steady_medians, lambda: self._stopwatch.units(units, image))

    def whole(self, graph: fx.GraphModule, image: Tensor) -> Timer:
        """See `Engine.whole`."""
        image = image.contiguous(memory_format=torch.channels_last) if image.dim() == _RANK else image

        def once() -> list[float]:
            with torch.inference_mode():
                return [self._stopwatch.call(lambda: graph(image))]

        return partial(steady_medians, once)


class OnnxEngine:
    """The network as an ONNX file in onnxruntime, whose own profiler times each kernel.

    Args:
        stopwatch: The clock.
        threads: Threads of onnxruntime.

    Raises:
        ConfigError: The packages of the extra `deploy` are absent.
    """

    def __init__(self, stopwatch: Stopwatch, threads: int) -> None:
        require_onnx("onnxruntime")
        self._stopwatch, self._threads = stopwatch, threads

    @property
    def title(self) -> str:
        """See `Engine.title`."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def by_unit(self, graph: fx.GraphModule, image: Tensor) -> tuple[list[Unit], Timer]:
        """See `Engine.by_unit`.

        Raises:
            ConfigError: The network has no form in ONNX, or one whose operators cannot be told apart; when timed: too
                few operators are found among the kernels.
        """
        units = units_of(graph, tuple(image.shape[1:]))
        network, nodes = _written(graph, image)
        places = [i for i, unit in enumerate(units) for _ in unit.works]
        works = [work for unit in units for work in unit.works]
        moved = [float(work.reads + work.outputs) for work in works]
        feed = {_INPUT: image.contiguous().numpy()}
        try:
            owners = owners_of(nodes, works)
        except ConfigError as e:
            raise ConfigError(f"{e}{_REMEDY}") from e

        def times(most: int) -> Array:
            whole = float(self._inference_s(network, image, most)[0])
            try:
                found = attributed(moved, owners, kernel_seconds(network, feed, self._threads, most), whole)
            except ConfigError as e:
                raise ConfigError(f"{e}{_REMEDY}") from e
            return np.bincount(places, found, len(units)).astype(np.float64)

        return units, times

    def whole(self, graph: fx.GraphModule, image: Tensor) -> Timer:
        """See `Engine.whole`."""
        return partial(self._inference_s, _written(graph, image)[0], image)

    def _inference_s(self, network: bytes, image: Tensor, most: int) -> Array:
        import onnxruntime

        session = onnxruntime.InferenceSession(network, session_options(self._threads),
                                               providers=["CPUExecutionProvider"])
        feed = {_INPUT: image.contiguous().numpy()}
        return steady_medians(lambda: [self._stopwatch.call(lambda: session.run(None, feed))], most)


def _written(graph: fx.GraphModule, image: Tensor) -> tuple[bytes, list[OnnxNode]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        nodes = write_onnx(graph.to(memory_format=torch.contiguous_format), torch.cat([image, image]).contiguous(),
                           file, (_INPUT, "output"))
        return file.read_bytes(), nodes
