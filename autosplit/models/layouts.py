"""Which dimension of a feature holds its channels: transformers often keep it last, codecs take it first.

A `Layout` lets a feature of any of these kinds cross as a map (N, C, H, W), through operations that only move elements.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from autosplit.models.dispatch import Watch, name_of, watched

__all__ = ["MAP", "Layout", "channel_axes", "layout_of"]

_MOST_EXTRA = 2  # a class token, and one for distillation

_AXIS = "_autosplit_channel_axis"
_CHANNELS_LAST_RESULTS = {"mm", "addmm"}
_CHANNELS_SECOND_RESULTS = {"convolution", "_convolution", "native_group_norm"}
_SWAPS = {"transpose", "t", "swapaxes"}
_VIEWS = {"view", "_unsafe_view", "_reshape_alias", "reshape", "unsqueeze", "squeeze", "select", "alias"}


@dataclass(frozen=True)
class Layout:
    """How a feature holds channels and positions.

    Attributes:
        kind: `map` = (C, H, W) or flat, `map-last` = (H, W, C), `tokens` = (T, C), `tokens-last` = (C, T), `unknown` =
            anything else, which codecs cannot take.
        grid: Rows and columns of the tokens.
        extra: Tokens before those of the grid, such as the class token. Each crosses as a row of its own above the
            grid, in which it is repeated.
    """

    kind: Literal["map", "map-last", "tokens", "tokens-last", "unknown"] = "map"
    grid: tuple[int, int] = (0, 0)
    extra: int = 0

    def seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what crosses, for a feature of this shape; both without the batch dimension."""
        if self.kind == "map-last":
            return shape[2], shape[0], shape[1]
        if self.kind in {"tokens", "tokens-last"}:
            return shape[1 if self.kind == "tokens" else 0], self.grid[0] + self.extra, self.grid[1]
        return shape

    def to_map(self, graph: fx.Graph, node: fx.Node) -> fx.Node:
        """Add to a head what makes a map of its feature."""
        if self.kind == "map-last":
            return graph.call_method("permute", (node, 0, 3, 1, 2))
        if self.kind not in {"tokens", "tokens-last"}:
            return node
        tokens = graph.call_method("transpose", (node, 1, 2)) if self.kind == "tokens" else node
        every = slice(None)
        grid = graph.call_function(operator.getitem, (tokens, (every, every, slice(self.extra, None)))) if (
            self.extra) else tokens
        result = graph.call_method("unflatten", (grid, 2, self.grid))
        if self.extra:
            rows = graph.call_function(operator.getitem, (tokens, (every, every, slice(0, self.extra))))
            rows = graph.call_method("unsqueeze", (rows, 3))
            rows = graph.call_method("expand", (rows, -1, -1, -1, self.grid[1]))
            result = graph.call_function(torch.cat, ([rows, result], 2))
        return result

    def from_map(self, graph: fx.Graph, node: fx.Node) -> fx.Node:
        """Add to a tail what makes the feature again of a map."""
        if self.kind == "map-last":
            return graph.call_method("permute", (node, 0, 2, 3, 1))
        if self.kind not in {"tokens", "tokens-last"}:
            return node
        every, grid = slice(None), node
        if self.extra:
            grid = graph.call_function(operator.getitem, (node, (every, every, slice(self.extra, None))))
        result = graph.call_method("flatten", (grid, 2))
        if self.extra:
            rows = graph.call_function(operator.getitem, (node, (every, every, slice(0, self.extra), 0)))
            result = graph.call_function(torch.cat, ([rows, result], 2))
        return graph.call_method("transpose", (result, 1, 2)) if self.kind == "tokens" else result


MAP = Layout()
"""Of features that cross as they are."""


def layout_of(shape: tuple[int, ...], axis: int | None, image: tuple[int, ...]) -> Layout:
    """The layout of a feature.

    Args:
        shape: Of the feature, without the batch dimension.
        axis: The dimension of its channels, the batch being dimension 0; `None` where it is not known.
        image: Shape of an image, whose sides tell those of a grid of tokens.
    """
    if len(shape) == 1 or (len(shape) == 3 and axis in {None, 1}):
        return MAP
    if len(shape) == 3 and axis == 3:
        return Layout("map-last")
    if len(shape) == 2 and axis in {1, 2}:
        count = shape[0] if axis == 2 else shape[1]
        for extra in range(_MOST_EXTRA + 1):
            rows = math.isqrt(max(0, count - extra) * image[1] // image[2])
            columns = (count - extra) // rows if rows else 0
            if rows and rows * columns == count - extra and rows * image[2] == columns * image[1]:
                return Layout("tokens" if axis == 2 else "tokens-last", (rows, columns), extra)
    return Layout("unknown")


def channel_axes(graph: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, int]:
    """The dimension of each node's tensor that holds the channels, the batch being dimension 0, where it is known.

    Convolutions have their channels in dimension 1, linear layers and layer norms in the last one; from there the
    dimension is followed through permutations, reshaping and everything that works on single elements.

    Args:
        graph: A traced network.
        shape: Shape of one input image without the batch dimension.
    """
    found: dict[fx.Node, int] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            if isinstance(out, Tensor) and hasattr(out, _AXIS):
                found[n] = getattr(out, _AXIS)
            return out

    with watched(graph, shape) as image, _Axes():
        setattr(image, _AXIS, 1)
        Recorder(graph).run(image)
    return found


class _Axes(Watch):
    """Notes the channels' dimension on every tensor."""

    def see(self, func: Any, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]) -> None:
        name, out = name_of(func), results[0]
        known = [t for t in given if hasattr(t, _AXIS)]
        # of the tensors that are combined, the one that is not broadcast
        source = next((t for t in known if t.shape == out.shape), known[0] if known else None)
        axis: int | None = None
        if name in _CHANNELS_LAST_RESULTS or (name == "native_layer_norm" and len(args[1]) == 1):
            axis = out.dim() - 1
        elif name in _CHANNELS_SECOND_RESULTS:
            axis = 1
        elif source is not None and name not in {"bmm", "baddbmm"}:
            axis = _followed(name, args, source, out)
        for t in results:
            if axis is not None and t.dim() == out.dim():
                setattr(t, _AXIS, axis)
            elif hasattr(t, _AXIS) and t is out:
                delattr(t, _AXIS)


def _followed(name: str, args: tuple[Any, ...], source: Tensor, out: Tensor) -> int | None:
    """Where a dimension is after an operator; `None` where it is lost."""
    axis: int = getattr(source, _AXIS)
    if name == "permute":
        return [int(d) % source.dim() for d in args[1]].index(axis)
    if name in _SWAPS:
        one, other = (int(d) % source.dim() for d in args[1:3]) if name != "t" else (0, 1)
        return {one: other, other: one}.get(axis, axis)
    if source.dim() == out.dim() and name not in _VIEWS:
        return axis
    # a dimension is the same one where as many elements lie before it and it is as long
    before, size = source.shape[:axis].numel(), source.shape[axis]
    return next((i for i in range(out.dim()) if out.shape[i] == size and out.shape[:i].numel() == before), None)
