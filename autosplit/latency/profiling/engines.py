"""What runs a network that is timed: torch unit by unit, or onnxruntime, which bundles run on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.latency.profiling.stopwatch import Stopwatch, steady_medians
from autosplit.latency.profiling.units import Unit, units_of
from autosplit.models.onnx_files import require_onnx, write_onnx
from autosplit.runtime.standalone.bundle.parts import session_options

if TYPE_CHECKING:
    from onnx import GraphProto

__all__ = ["Engine", "OnnxEngine", "Timer", "TorchEngine", "attributed", "undisturbed", "weight_of"]

ROUNDS = 3
"""How often everything is timed in turn."""

_INPUT = "input"
_RANK = 4  # of images and feature maps
_WARM_UP = 5
_KERNEL = "_kernel_time"
_STEPS = 8  # from a kernel's value back to its weight
_ENOUGH = 0.9  # of the units with weights must be found among the kernels


Timer = Callable[[int], Array]
"""Times something over so many passes at most; gives median seconds."""


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

    Kernels are fused operators; one that has a unit's weight is that unit's. What is left (sums and poolings that are
    kernels of their own, changes of layout) goes to the units without weights by the elements that they read and write,
    and the time between kernels to all alike, so that the units add up to the time of a whole inference.

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
            ConfigError: The network has no form in ONNX; when timed: too few operators are found among the kernels.
        """
        import onnx

        units = units_of(graph, tuple(image.shape[1:]))
        network = _written(graph, image)
        model = onnx.load_from_string(network).graph

        def times(most: int) -> Array:
            kernels = self._kernels(network, image, most)
            weights = {name: weight_of(model, name) for name in kernels}
            return attributed(units, graph, kernels, weights, float(self._inference_s(network, image, most)[0]))

        return units, times

    def whole(self, graph: fx.GraphModule, image: Tensor) -> Timer:
        """See `Engine.whole`."""
        return partial(self._inference_s, _written(graph, image), image)

    def _inference_s(self, network: bytes, image: Tensor, most: int) -> Array:
        run, feed = self._session(network).run, {_INPUT: image.contiguous().numpy()}
        return steady_medians(lambda: [self._stopwatch.call(lambda: run(None, feed))], most)

    def _session(self, network: bytes, profile: Path | None = None) -> Any:
        import onnxruntime

        options = session_options(self._threads)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def _kernels(self, network: bytes, image: Tensor, passes: int) -> dict[str, float]:
        """Seconds of each kernel by name: the mean of the middle half, since the profiler counts whole microseconds."""
        with tempfile.TemporaryDirectory() as folder:
            session, feed = self._session(network, Path(folder) / "profile"), {_INPUT: image.contiguous().numpy()}
            # the first inferences load code and memory
            for _ in range(_WARM_UP + passes):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                found.setdefault(event["name"].removesuffix(_KERNEL), []).append(event["dur"])
        ordered = {name: sorted(durations[_WARM_UP:]) for name, durations in found.items()}
        return {name: 1e-6 * float(np.mean(d[len(d) // 4:len(d) - len(d) // 4])) for name, d in ordered.items()}


def _written(graph: fx.GraphModule, image: Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        write_onnx(graph.to(memory_format=torch.contiguous_format), torch.cat([image, image]).contiguous(), file,
                   (_INPUT, "output"))
        return file.read_bytes()


def undisturbed(timers: Sequence[Timer], most: int, advance: Callable[[int], None]) -> list[Array]:
    """Time several things in turn, several times over, and keep the shortest median of each.

    What disturbs a machine for seconds (its neighbours, its clock) only ever adds time.

    Args:
        timers: What is timed.
        most: Passes of a timer at most, each time.
        advance: Called after each.
    """
    best: list[Array] = []
    for i in range(ROUNDS):
        for k, timer in enumerate(timers):
            found = timer(most)
            best[k:k + 1] = [np.minimum(best[k], found) if i else found]
            advance(1)
    return best


def attributed(units: Sequence[Unit], graph: fx.GraphModule, kernels: Mapping[str, float],
               weights: Mapping[str, str | None], whole_s: float) -> Array:
    """Share the time of an inference among the units of its network.

    Args:
        units: Of the network.
        graph: The network.
        kernels: Seconds of each kernel.
        weights: Name of the weight that each kernel has, `None` for none.
        whole_s: Seconds of a whole inference.

    Returns:
        Seconds of each unit; their sum is `whole_s`.

    Raises:
        ConfigError: Too few layers have a kernel.
    """
    layers = {node.name: str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    places: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        if unit.weights and unit.node in layers:
            places.setdefault(f"{layers[unit.node]}.weight", []).append(i)
    owned = {i for found in places.values() for i in found}
    seconds, rest, seen = np.zeros(len(units)), 0.0, set()
    for name, spent in kernels.items():
        mine = places.get(weights[name] or "")
        if mine is None:
            rest += spent
        else:
            at = mine.pop(0) if len(mine) > 1 else mine[0]  # a weight used twice: in the order of use
            seconds[at] += spent
            seen.add(at)
    if len(seen) < _ENOUGH * len(owned):
        raise ConfigError(f"only {len(seen)} of {len(owned)} layers are found among onnxruntime's kernels; "
                          "profile with --engine torch")
    moved = np.array([0.0 if i in owned else float(unit.moved) for i, unit in enumerate(units)])
    moved = moved if moved.any() else np.ones(len(units))
    # kernels without weights (sums, poolings, changes of layout) take time in proportion to what they move
    seconds += rest * moved / moved.sum()
    between = whole_s - seconds.sum()
    if between < 0:  # the profiler itself takes time
        return np.asarray(seconds * whole_s / seconds.sum())
    return np.asarray(seconds + between / len(units))


def weight_of(graph: GraphProto, kernel: str) -> str | None:
    """The weight that a kernel of onnxruntime multiplies with; `None` where it has none.

    A fused kernel is named after the value that it gives, or after the node that it was made of; from there the way
    leads back over nodes of one input (activations) to the one that has a weight.
    """
    name = kernel.removesuffix("_nchwc").removeprefix("fused ")
    by_output = {output: node for node in graph.node for output in node.output}
    by_name = {node.name: node for node in graph.node}
    constants = {tensor.name for tensor in graph.initializer}
    node = by_output.get(name) or by_name.get(name)
    for _ in range(_STEPS):
        if node is None:
            return None
        weight = next((g for g in node.input if g in constants and g.endswith(".weight")), None)
        if weight is not None:
            return str(weight)
        inputs = [given for given in node.input if given and given not in constants]
        if len(inputs) != 1:
            return None  # a sum or a concatenation: beyond it lie other operators
        node = by_output.get(inputs[0])
    return None
