"""From the nodes of one int8 network to operations, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from autosplit.compression.int8_layers import (
    LEVELS,
    ChannelAffine,
    Int8Conv2d,
    Int8Layer,
    Int8Linear,
    Lookup,
    Requantise,
)
from autosplit.compression.lowering.fixed_point import fit_pairs, fit_quotient, fit_staircase
from autosplit.compression.lowering.geometry import padding_begin, pair, windows_of
from autosplit.compression.lowering.kinds import kind_of
from autosplit.compression.lowering.operations import (
    Average,
    Channels,
    Convolution,
    Gather,
    Join,
    Maximum,
    Pixels,
    Product,
    Program,
    Shape,
    Sum,
    Table,
    Window,
)
from autosplit.compression.lowering.values import (
    REMEDY,
    Image,
    Integers,
    Levels,
    Real,
    Rounding,
    ShapeError,
    Value,
    channels_last,
    places_of,
    values_of,
)
from autosplit.core.errors import ConfigError
from autosplit.models.inference import evaluation_mode

__all__ = ["Walk"]


class _Examples(fx.Interpreter):
    """Runs a network on zeros and keeps what every node gives."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.found[n] = result = super().run_node(n)
        return result


class Walk:
    """One network on its way to operations.

    Args:
        program: Gets them.
        network: The network.
        given: What goes in.
        shape: Its shape.
    """

    def __init__(self, program: Program, network: fx.GraphModule, given: Value, shape: tuple[int, ...]) -> None:
        self.program, self.network, self.given = program, network, given
        examples = _Examples(network)
        with evaluation_mode(network), torch.no_grad():
            examples.run(torch.zeros(1, *shape))
        self.examples = examples.found
        self.values: dict[fx.Node, Value] = {}

    def run(self) -> Value:
        """Add all operations; what the network's output stands for."""
        with torch.no_grad():
            for node in self.network.graph.nodes:
                if node.op == "output":
                    return self.values[node.all_input_nodes[0]]
                try:
                    self.values[node] = self._value(node)
                except ShapeError as e:
                    raise self._refused(node, ", which knows only feature maps and vectors") from e
        raise AssertionError("a graph without an output")

    def _value(self, node: fx.Node) -> Value:
        if node.op == "placeholder":
            return self.given
        if not any(isinstance(self.values[n], (Levels, Real, Image, tuple)) for n in node.all_input_nodes):
            return self.examples[node]  # constants
        if not isinstance(self.examples[node], (Tensor, tuple, list)) or isinstance(self.examples[node], torch.Size):
            return self.examples[node]  # sizes
        module = self.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is Requantise:
            return self._requantise(node, module)
        if isinstance(module, Lookup):
            source = self._levels(node)
            return self._table(node, source, module.table.numpy()[None], np.float32(module.scale), int(module.zero))
        if isinstance(module, Int8Layer):
            return self._layer(node, module)
        kind = "table" if isinstance(module, ChannelAffine) else kind_of(node, module)
        if kind == "identity":
            return self.values[node.all_input_nodes[0]]
        known: dict[str, Callable[[fx.Node], Value]] = {
            "clamp": self._clamp, "join": self._join, "maximum": self._maxima, "average": self._average,
            "rearrangement": self._rearrange}
        if kind in known:
            return known[kind](node)
        if kind:
            return self._elementwise(node, kind)
        raise self._refused(node)

    def _refused(self, node: fx.Node, why: str = "") -> ConfigError:
        what = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        if node.op == "call_module":
            what = type(self.network.get_submodule(str(node.target))).__name__
        return ConfigError(f"operation {node.name!r} ({what}) cannot be written as C{why}{REMEDY}")

    # --- what goes in -----------------------------------------------------------------------------------------------

    def _levels(self, node: fx.Node) -> Levels:
        """The first tensor that goes in, in a buffer of its own, channels last."""
        source = next(n for n in node.all_input_nodes if isinstance(self.values[n], (Levels, Real, Image)))
        return self._in_order(source.name, self._rounded(node, source))

    def _rounded(self, node: fx.Node, source: fx.Node) -> Levels:
        """What goes in, which must be levels."""
        value = self.values[source]
        if not isinstance(value, Levels):
            raise self._refused(node, ", as its input is not rounded")
        return value

    def _in_order(self, name: str, value: Levels) -> Levels:
        """The same tensor, lying channels last; copied if need be."""
        shape = channels_last(value.shape)
        order = value.places.reshape(1, shape[2], shape[0], shape[1]).permute(0, 2, 3, 1).reshape(-1).long().numpy() - 1
        size = prod(self.program.buffers[value.buffer])
        if len(order) == size and (order == np.arange(size)).all():
            return value
        inputs = self.program.buffers[value.buffer][2]
        by_position = order.reshape(shape[0] * shape[1], shape[2])
        target = self.program.buffer(shape)
        if (shape[0] * shape[1] * inputs == size and (order >= 0).all()
                and (by_position - inputs * np.arange(len(by_position))[:, None] == by_position[0]).all()):
            self.program.add(Channels(name=name, reads=(value.buffer,), writes=target, positions=len(by_position),
                                      inputs=inputs, order=by_position[0]))
        else:
            self.program.add(Gather(name=name, reads=(value.buffer,), writes=target, places=order, zero=value.zero))
        return replace(value, buffer=target, places=places_of(value.shape))

    # --- rounding ---------------------------------------------------------------------------------------------------

    def _requantise(self, node: fx.Node, module: Requantise) -> Value:
        value = self.values[node.all_input_nodes[0]]
        scale, zero = np.float32(module.scale), int(module.zero)
        rounding = Rounding(np.array([scale]), zero)
        if isinstance(value, Image):
            levels = np.clip(rounding(value.values, channels=False), 0, LEVELS - 1)
            buffer = self.program.buffer(self.program.image)
            self.program.add(Pixels(name=node.name, reads=(), writes=buffer, table=levels.astype(np.uint8)))
            height, width, channels = self.program.image
            return Levels(buffer, scale, zero, places_of((channels, height, width)))
        if isinstance(value, Real):
            buffer = value.emit(rounding.clamped(value.limits), False)
            return Levels(buffer, scale, zero, places_of(value.shape))
        if not isinstance(value, Levels):
            return value
        if (value.scale, value.zero) == (scale, zero):
            return value
        source = self._in_order(node.name, value)
        table = np.clip(rounding(values_of(source)[None], channels=False), 0, LEVELS - 1)
        return self._table(node, source, table.astype(np.uint8), scale, zero)

    def _table(self, node: fx.Node, source: Levels, table: NDArray[np.uint8], scale: np.float32, zero: int) -> Levels:
        shape = self.program.buffers[source.buffer]
        target = self.program.buffer(shape)
        self.program.add(Table(name=node.name, reads=(source.buffer,), writes=target, elements=prod(shape),
                               table=table))
        return Levels(target, scale, zero, source.places)

    # --- layers -----------------------------------------------------------------------------------------------------

    def _layer(self, node: fx.Node, layer: Int8Layer) -> Real:
        weight = layer.weight.numpy()
        if isinstance(layer, Int8Linear):
            value = self._rounded(node, node.all_input_nodes[0])
            if len(value.shape) != 1:
                raise self._refused(node, ", as its input has more than one dimension")
            places = value.places.reshape(-1).long().numpy() - 1
            if sorted(places.tolist()) != list(range(prod(self.program.buffers[value.buffer]))):
                value = self._in_order(node.name, value)
                places = np.arange(len(places))
            ordered = np.empty_like(weight)
            ordered[:, places] = weight  # flattened by channels, lying by positions
            shape, output = (1, 1, weight.shape[1]), (1, 1, weight.shape[0])
            kernel, window, source = ordered[:, None, None], Window((1, 1)), value
            result: tuple[int, ...] = (len(weight),)
        else:
            assert isinstance(layer, Int8Conv2d)
            source = self._levels(node)
            shape, result = channels_last(source.shape), tuple(self.examples[node].shape[1:])
            output = channels_last(result)
            height, width = weight.shape[2:]
            window = Window((height, width), pair(layer.stride), pair(layer.dilation), padding_begin(layer))
            kernel = weight.transpose(0, 2, 3, 1)
        if max(prod(kernel.shape[1:]), *shape, *output) >= 2**16 or max(*window.kernel, *window.stride,
                                                                        *window.dilation) >= 2**8:
            raise self._refused(node, ", as it is too large")
        taken = kernel.reshape(len(kernel), -1).astype(np.int64)
        least, most = (np.minimum(taken, 0).sum(axis=1) * (LEVELS - 1), np.maximum(taken, 0).sum(axis=1) * (LEVELS - 1))
        bias = layer.bias.numpy().astype(np.int64) - source.zero * taken.sum(axis=1)
        scale = (layer.in_scale * layer.scale).numpy()

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            levels = None
            if rounding is not None:
                step = rounding

                def staircase(sums: Integers) -> Integers:
                    return step((sums + bias[:, None]).astype(np.float32) * scale[:, None])

                wanted = (np.arange(step.low + 1, step.high + 1) - step.zero - 0.5 + step.shift) * step.step[:, None]
                estimate = wanted / scale[:, None] - bias[:, None]
                with _naming(node.name):
                    levels = fit_staircase(staircase, least, most, step.low, step.high, estimate)
            target = None if levels is None else self.program.buffer(output)
            return self.program.add(Convolution(
                name=node.name, reads=(source.buffer,), writes=target, shape=shape, output=output, window=window,
                groups=layer.groups, weight=np.ascontiguousarray(kernel), zero=source.zero, levels=levels, bias=bias,
                scale=scale, by_channel=by_channel))

        return Real(node.name, result, emit)

    # --- what is not a layer ----------------------------------------------------------------------------------------

    def _clamp(self, node: fx.Node) -> Value:
        if len(node.all_input_nodes) > 1:
            raise self._refused(node, " with limits that are tensors")
        ends = self._function(node)(torch.tensor([-1e30, 1e30]))
        low, high = (float(v) for v in ends)
        value = self.values[node.all_input_nodes[0]]
        if isinstance(value, Real):
            return value.clamp(low, high)
        source = self._levels(node)
        values = np.clip(values_of(source), np.float32(low), np.float32(high))
        table = np.clip(np.rint(values / source.scale) + source.zero, 0, LEVELS - 1)
        if not np.array_equal((table - source.zero).astype(np.float32) * source.scale, values):
            return self._elementwise(node, "clamp")  # a limit between two levels
        return self._table(node, source, table.astype(np.uint8)[None], source.scale, source.zero)

    def _elementwise(self, node: fx.Node, kind: str) -> Real:
        tensors = [n for n in node.all_input_nodes if isinstance(self.values[n], (Levels, Real, Image))]
        if len(tensors) > 1:
            if kind not in {"add", "sub", "mul"} or node.kwargs:
                raise self._refused(node, " with two tensors")
            return self._two(node, kind)
        source = self._levels(node)
        channels = channels_last(source.shape)[2]
        side = (channels, *(1 for _ in source.shape[1:]))
        inputs = torch.from_numpy(values_of(source)).view(-1, *(1 for _ in side)).expand(LEVELS, *side)
        outputs = self._function(node)(inputs)
        if outputs.shape != inputs.shape or outputs.dtype != torch.float32:
            raise self._refused(node, " with a constant that differs from place to place")
        real = outputs.reshape(LEVELS, channels).t().numpy()
        real = real[:1] if (real == real[:1]).all() else real

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            if rounding is None or by_channel:
                raise self._refused(node, " at the end of a network")
            table = np.clip(rounding(real, channels=False), rounding.low, rounding.high).astype(np.uint8)
            return self._table(node, source, table, np.float32(1), 0).buffer

        return Real(node.name, source.shape, emit)

    def _two(self, node: fx.Node, kind: str) -> Real:
        given: Any = node.args
        first, second = (self._in_order(n.name, self._rounded(node, n)) for n in given)
        if kind == "mul" and prod(first.shape) < prod(second.shape):
            first, second = second, first
        shape = channels_last(first.shape)
        each_channel = kind == "mul" and second.shape == (shape[2], 1, 1) and shape[:2] != (1, 1)
        if first.shape != second.shape and not each_channel:
            raise self._refused(node, " with tensors of two shapes")
        a, b = (np.float32(v.scale) * (np.arange(LEVELS, dtype=np.float32) - v.zero) for v in (first, second))
        level = np.arange(LEVELS, dtype=np.int64)
        real = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[kind](a[:, None], b[None, :])
        sign = -1.0 if kind == "sub" else 1.0

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            if rounding is None or by_channel:
                raise self._refused(node, " at the end of a network")
            wanted = np.clip(rounding(real, channels=False), rounding.low, rounding.high)
            step = float(rounding.step[0])
            target = self.program.buffer(shape)
            reads = (first.buffer, second.buffer)
            if kind == "mul":
                slope = float(first.scale) * float(second.scale) / step
                product = (level - first.zero)[:, None] * (level - second.zero)[None, :]
                shift = 30 - max(0, int(np.ceil(np.log2(slope))) + 1)
                if slope * LEVELS**2 + LEVELS >= 2.0**31:
                    raise self._refused(node, ", as its result has far finer levels than what is multiplied")
                with _naming(node.name):
                    pairs = fit_pairs(wanted, (product, np.zeros_like(product)), (slope, 0.0), rounding.zero + 0.5,
                                      shift, rounding.low, rounding.high)
                return self.program.add(Product(name=node.name, reads=reads, writes=target, shape=shape,
                                                by_channel=each_channel, zeros=(first.zero, second.zero), pairs=pairs))
            slopes = (float(first.scale) / step, sign * float(second.scale) / step)
            constant = rounding.zero + 0.5 - first.zero * slopes[0] - second.zero * slopes[1]
            reach = (LEVELS - 1) * (abs(slopes[0]) + abs(slopes[1])) + abs(constant) + LEVELS
            shift = 30 - int(np.ceil(np.log2(reach)))
            if shift < 0:
                raise self._refused(node, ", as its result has far finer levels than what is added")
            terms = (np.repeat(level[:, None], LEVELS, 1), np.repeat(level[None, :], LEVELS, 0))
            with _naming(node.name):
                pairs = fit_pairs(wanted, terms, slopes, constant, shift, rounding.low, rounding.high)
            return self.program.add(Sum(name=node.name, reads=reads, writes=target, elements=prod(shape), pairs=pairs))

        return Real(node.name, first.shape, emit)

    def _join(self, node: fx.Node) -> Real:
        tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        sources = [self._in_order(n.name, self._rounded(node, n)) for n in tensors]
        result = tuple(self.examples[node].shape[1:])
        if dim not in {1, -len(result)}:
            raise self._refused(node, " along another dimension than the channels")
        shape = channels_last(result)

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            if rounding is None or by_channel:
                raise self._refused(node, " at the end of a network")
            tables = tuple(np.clip(rounding(values_of(s), channels=False), rounding.low, rounding.high).astype(np.uint8)
                           for s in sources)
            return self.program.add(Join(
                name=node.name, reads=tuple(s.buffer for s in sources), writes=self.program.buffer(shape),
                positions=shape[0] * shape[1], channels=tuple(channels_last(s.shape)[2] for s in sources),
                tables=tables))

        return Real(node.name, result, emit)

    def _windows(self, node: fx.Node, source: Levels, kind: torch.dtype) -> tuple[Shape, Integers, Integers]:
        """Shape of what a pooling gives, and its windows' rows and columns."""
        result, shape = tuple(self.examples[node].shape[1:]), channels_last(source.shape)
        output: Shape = (*channels_last(result)[:2], shape[2])
        if prod(result) != prod(output) or len(source.shape) != 3:
            raise self._refused(node, " over other dimensions than height and width")
        rows, columns = (windows_of(self._function(node), shape, axis, kind) for axis in (0, 1))
        if rows is None or columns is None:
            raise self._refused(node, " with gaps in its windows")
        return output, rows, columns

    def _maximum(self, node: fx.Node, source: Levels) -> Levels:
        source = self._in_order(node.name, source)
        output, rows, columns = self._windows(node, source, torch.float32)
        target = self.program.buffer(output)
        self.program.add(Maximum(
            name=node.name, reads=(source.buffer,), writes=target, shape=channels_last(source.shape), output=output,
            rows=rows, columns=columns))
        return Levels(target, source.scale, source.zero, places_of(tuple(self.examples[node].shape[1:])))

    def _later(self, node: fx.Node, value: Real, move: Callable[[Levels], Value]) -> Real:
        """What moves values that are not rounded yet, or takes the largest: their levels will do as well."""
        result = self.examples[node]
        if not isinstance(result, Tensor):
            raise self._refused(node, " on values that are not rounded")
        given, moves = value, move
        if value.moved is not None and value.limits is None:  # several moves are one
            given, before = value.moved

            def moves(levels: Levels) -> Value:
                return move(before(levels))

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            if rounding is None or by_channel:
                raise self._refused(node, " at the end of a network")
            buffer, zero = given.emit(rounding.clamped(given.limits), False), rounding.zero
            zero = min(max(zero, rounding.low), rounding.high)  # as what is added by a padding is rounded
            moved = moves(Levels(buffer, np.float32(rounding.step[0]), zero, places_of(given.shape)))
            return self._in_order(node.name, moved).buffer

        return Real(node.name, tuple(result.shape[1:]), emit, moved=(given, moves))

    def _maxima(self, node: fx.Node) -> Value:
        given = self.values[node.all_input_nodes[0]]
        if isinstance(given, Real):
            return self._later(node, given, lambda levels: self._maximum(node, levels))
        return self._maximum(node, self._levels(node))

    def _average(self, node: fx.Node) -> Real:
        source, function = self._levels(node), self._function(node)
        output, rows, columns = self._windows(node, source, torch.float64)
        result, shape = tuple(self.examples[node].shape[1:]), channels_last(source.shape)
        # what it makes of ones tells the divisor: the values in the window over the average
        ones = function(torch.ones(1, 1, *shape[:2], dtype=torch.float64)).reshape(output[:2]).numpy()
        inside = np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0])
        divisors = np.rint(inside / ones).astype(np.int64)
        if np.abs(divisors * ones / inside - 1).max() > 1e-9:
            raise self._refused(node, " with such a divisor")

        def emit(rounding: Rounding | None, by_channel: bool) -> int:
            if rounding is None and output[:2] != (1, 1):
                raise self._refused(node, " at the end of a network")
            # what stays real is computed as the network does, whatever the levels
            target = None if rounding is None else self.program.buffer(output)
            rounding = rounding or Rounding(np.array([source.scale]), 0)
            with _naming(node.name):
                quotients = tuple(fit_quotient(int(d), float(source.scale), float(step), rounding.zero - rounding.shift,
                                               int(inside[divisors == d].max()))
                                  for d in np.unique(divisors) for step in rounding.step)
            return self.program.add(Average(
                name=node.name, reads=(source.buffer,), writes=target, shape=shape, output=output, rows=rows,
                columns=columns, divisors=divisors, zero=source.zero, scale=float(source.scale), step=rounding.step,
                shift=rounding.shift, target=rounding.zero, low=rounding.low, high=rounding.high, quotients=quotients,
                by_channel=by_channel))

        return Real(node.name, result, emit)

    def _rearrange(self, node: fx.Node) -> Value:
        value = self.values[node.all_input_nodes[0]]
        if isinstance(value, tuple):
            return value[node.args[1]]  # type: ignore[index]
        if isinstance(value, Real):
            if node.target in {"float", "double"}:
                return value
            places = torch.arange(prod(value.shape), dtype=torch.float64)
            found = self._function(node)(places.view(1, *value.shape))
            if prod(value.shape[1:]) == 1 and isinstance(found, Tensor) and torch.equal(found.reshape(-1), places):
                return replace(value, shape=tuple(found.shape[1:]), moved=None)  # they stay where they are
            return self._later(node, value, lambda levels: self._moved(node, levels))
        if not isinstance(value, Levels):
            raise self._refused(node, " on the image itself")
        return self._moved(node, value)

    def _moved(self, node: fx.Node, value: Levels) -> Value:
        """A tensor, or several, whose values come from other places."""
        call = self._function(node)
        places = value.places.contiguous()  # some operations take only such
        found, doubled = call(places), call(2 * places)
        parts, others = ((f,) if isinstance(f, Tensor) else tuple(f) for f in (found, doubled))
        # zeros may be added, other values not; and a place in the batch is none in an image
        if any(p.shape[:1] != (1,) or not torch.equal(2 * p, q) for p, q in zip(parts, others, strict=True)):
            raise self._refused(node, " where it changes values or images")
        moved = tuple(replace(value, places=p.double()) for p in parts)
        return moved[0] if isinstance(found, Tensor) else moved

    def _function(self, node: fx.Node) -> Callable[[Tensor], Any]:
        """The operation as a function of its one tensor."""
        tensors = {n for n in node.all_input_nodes if isinstance(self.values[n], (Levels, Real, Image))}

        def call(x: Tensor) -> Any:
            given: Any = (node.args, node.kwargs)
            args, kwargs = fx.node.map_arg(given, lambda n: x if n in tensors else self.values[n])
            function: Any = node.target
            if node.op == "call_module":
                function = self.network.get_submodule(str(node.target))
            elif node.op == "call_method":
                function = getattr(Tensor, str(node.target))
            return function(*args, **kwargs)

        return call


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Tells of an error at which operation it came up."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"operation {name!r} cannot be written as C: {e}") from e
