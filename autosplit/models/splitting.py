"""Finding the places where a network can be cut, and cutting it there.

A split point is a node of the `torch.fx` graph after which exactly one tensor is live. It is named by the
outermost module that ends there (`layer2`, `layer2.0.conv1`), or by the node where no module ends. Head and
tail share the parameters of the traced network, and head then tail does the same operations in the same
order, so the result is equal bit for bit.
"""

from __future__ import annotations

import copy
import functools
import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from autosplit.core.errors import SplitError, TraceError, UnknownNameError
from autosplit.models.inference import evaluation_mode
from autosplit.models.layouts import channel_axes

__all__ = ["SplitPoint", "block_ends", "cut", "find_split_points", "float_shapes", "select_split_points", "trace"]

_log = logging.getLogger(__name__)

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_CONTAINERS = {nn.Sequential, nn.ModuleList, nn.ModuleDict}
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU)


@dataclass(frozen=True)
class SplitPoint:
    """A place in the graph that exactly one tensor crosses.

    Attributes:
        name: Path of the outermost module that ends here, or the node's name.
        node: Name of the `torch.fx` node whose output crosses.
        shape: Shape of that tensor without the batch dimension.
        block_end: Whether a block of the network ends here (a residual block, a stage, a pooling layer).
        aliases: Further module paths that end at the same node, outermost first.
        channels_last: Whether the shape is (H, W, C) instead of (C, H, W). Such a feature can be cut at, but codecs
            cannot take it, so the point is not offered.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    block_end: bool
    aliases: tuple[str, ...] = field(default=())
    channels_last: bool = False


def trace(model: nn.Module) -> fx.GraphModule:
    """Trace a classifier without changing it.

    In-place operations become out-of-place ones, so that a feature that was handed to a tail stays as it was.

    Args:
        model: Any network that `torch.fx` can trace; its parameters are copied.

    Returns:
        An independent graph module in the mode (training or evaluation) of `model`.

    Raises:
        TraceError: `torch.fx` cannot trace it, or it takes more than one input; the message names the place.
    """
    # the flags below are changed, and the caller keeps his network
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 (a plain assignment is not typed on Module)
    tracer = _NamingTracer()
    try:
        graph = tracer.trace(model)
    except Exception as e:  # anything the user's forward raises on a proxy
        where = tracer.last or "the first operation"
        raise TraceError(
            f"torch.fx cannot trace {type(model).__name__}: stopped after {where}: {_one_line(e)}; "
            "remove control flow that depends on tensor values, or wrap it with torch.fx.wrap"
        ) from e
    inputs = [n for n in graph.nodes if n.op == "placeholder" and n.users]
    if len(inputs) != 1:
        raise TraceError(f"{type(model).__name__} takes {len(inputs)} tensors; autosplit needs a network of one input")
    for node in graph.nodes:
        # functions such as `F.relu(x, inplace=True)` work in place too
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.op == "placeholder" and not node.users:
            graph.erase_node(node)
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    # a GraphModule rebuilds every inner module as a plain one, so what was a mere container is noted here
    module.meta["containers"] = {path for path, m in model.named_modules() if type(m) in _CONTAINERS}
    module.train(model.training)
    return module


class _NamingTracer(fx.Tracer):
    """Remembers the last node, so that a failure can say where it happened."""

    last: str = ""

    def create_node(self, *args: object, **kwargs: object) -> fx.Node:
        node: fx.Node = super().create_node(*args, **kwargs)  # type: ignore[arg-type]
        path = str(node.target) if node.op == "call_module" else self.scope.module_path
        self.last = f"node {node.name!r}" + (f" in module {path!r}" if path else "")
        return node


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def find_split_points(graph: fx.GraphModule, shape: tuple[int, ...]) -> list[SplitPoint]:
    """Every place that exactly one tensor crosses, in the order of execution.

    The input and the output of the network are not among them.

    Args:
        graph: A traced network.
        shape: Shape of one input image without the batch dimension, for the shapes of the features.
    """
    nodes = list(graph.graph.nodes)
    position = {n: i for i, n in enumerate(nodes)}
    shapes = {n: full[1:] for n, full in float_shapes(graph, shape).items() if len(full) > 1}
    # a value is live from its node to its last user; where one value alone is live, one tensor crosses
    last_use = {n: max((position[u] for u in n.users), default=-1) for n in nodes}
    live_nodes = [n for n in nodes if n.op not in {"get_attr", "output"}]
    ends, axes = _module_ends(graph), channel_axes(graph, shape)
    points = []
    for i, node in enumerate(nodes):
        if node.op in {"placeholder", "get_attr", "output"} or node not in shapes:
            continue
        # what the output reads is the answer, not a feature
        if any(user.op == "output" for user in node.users):
            break
        live = {n for n in live_nodes if position[n] <= i < last_use[n]}
        if live == {node}:
            paths = ends.get(node, [])
            name = paths[0] if paths else node.name
            block_end = any(_is_block(graph, node, path) for path in paths)
            last = len(shapes[node]) == 3 and axes.get(node) == 3
            points.append(SplitPoint(name, node.name, shapes[node], block_end, tuple(paths[1:]), last))
    return points


def float_shapes(graph: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, tuple[int, ...]]:
    """Shape, for a batch of one, of every node whose value is one floating-point tensor.

    Args:
        graph: A traced network.
        shape: Shape of one input image without the batch dimension.

    Raises:
        TraceError: The network does not run on such images.
    """
    found: dict[fx.Node, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            out = super().run_node(n)
            if isinstance(out, Tensor) and out.is_floating_point():
                found[n] = tuple(out.shape)
            return out

    try:
        with evaluation_mode(graph), torch.no_grad():
            Recorder(graph).run(torch.zeros(1, *shape))
    except Exception as e:
        raise TraceError(f"the network does not run on images of shape {shape}: {_one_line(e)}") from e
    return found


def _module_ends(graph: fx.GraphModule) -> dict[fx.Node, list[str]]:
    """For each node the paths of the modules whose last operation it is, outermost first."""
    last: dict[str, fx.Node] = {}
    for node in graph.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack]
        if node.op == "call_module":
            paths.append(str(node.target))
        for path in paths:
            if path:
                last[path] = node
    ends: dict[fx.Node, list[str]] = {}
    for path, node in last.items():
        ends.setdefault(node, []).append(path)
    return {node: sorted(set(paths), key=lambda p: (p.count("."), p)) for node, paths in ends.items()}


def _is_block(graph: fx.GraphModule, node: fx.Node, path: str) -> bool:
    """Whether a module is a block of its own right: it sits in plain containers and is no mere layer."""
    parents = path.split(".")[:-1]
    containers = (".".join(parents[: i + 1]) for i in range(len(parents)))
    if not all(c in graph.meta["containers"] for c in containers):
        return False
    modules = dict(graph.named_modules(remove_duplicate=False))
    module = modules.get(path)
    if module is None:
        return False
    if isinstance(module, _POOLS) or any(True for _ in module.children()):
        return True
    # an activation ends a block, unless a pooling layer follows, which then does
    followers = (modules.get(str(u.target)) for u in node.users if u.op == "call_module")
    return isinstance(module, _ACTIVATIONS) and not any(isinstance(f, _POOLS) for f in followers)


def block_ends(points: list[SplitPoint]) -> list[SplitPoint]:
    """The points that are offered by default: ends of blocks that a feature map with some extent crosses."""
    return [p for p in points if p.block_end and len(p.shape) == 3 and p.shape[1] * p.shape[2] > 1
            and not p.channels_last]


def select_split_points(points: list[SplitPoint], wanted: str | tuple[str, ...]) -> list[SplitPoint]:
    """The points that a search space asks for.

    Args:
        points: All points of the backbone.
        wanted: `blocks`, `all` (every point with a feature (C, H, W) or a flat one), or names and aliases.

    Raises:
        UnknownNameError: A name is no split point of this backbone.
        SplitError: Nothing is left, or a point that was named has its channels last.
    """
    others = [p for p in points if p.channels_last and (wanted != "blocks" or p.block_end)]
    about = (f"the features of {len(others)} split points, such as {others[0].name!r} of shape {others[0].shape}, have "
             "their channels last (H, W, C), which codecs cannot take" if others else "")
    if wanted == "blocks":
        chosen = block_ends(points)
    elif wanted == "all":
        chosen = [p for p in points if len(p.shape) in {1, 3} and not p.channels_last]
    else:
        by_name = {alias: p for p in points for alias in (p.name, *p.aliases)}
        for name in wanted:
            if name not in by_name:
                raise UnknownNameError("split point", name, by_name)
        names = {by_name[name].name for name in wanted}
        chosen = [p for p in points if p.name in names]
        if refused := next((p for p in chosen if p.channels_last), None):
            raise SplitError(f"split point {refused.name!r} gives a feature of shape {refused.shape} with its channels "
                             "last (H, W, C), which codecs cannot take; choose another, or cut behind a permutation to "
                             "(C, H, W)")
    if not chosen:
        raise SplitError("this backbone has no split point of the kind asked for"
                         + (f": {about}" if about else "") + "; try `space.splits: all`")
    if about and isinstance(wanted, str):
        _warn_once(f"not offered: {about}")
    return chosen


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def cut(graph: fx.GraphModule, point: SplitPoint) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a traced network in two; both parts share its parameters.

    Args:
        graph: The traced network.
        point: One of `find_split_points(graph)`.

    Returns:
        Head (image -> feature) and tail (feature -> logits).
    """
    head, tail = fx.Graph(), fx.Graph()
    head_env: dict[fx.Node, fx.Node] = {}
    tail_env: dict[fx.Node, fx.Node] = {}
    in_head = True
    for node in graph.graph.nodes:
        if node.op == "get_attr":  # a constant: whichever side uses it gets its own copy
            head_env[node] = head.node_copy(node)
            tail_env[node] = tail.node_copy(node)
        elif in_head:
            head_env[node] = head.node_copy(node, lambda n: head_env[n])
            if node.name == point.node:
                head.output(head_env[node])
                tail_env[node] = tail.placeholder("feature")
                in_head = False
        else:
            tail_env[node] = tail.node_copy(node, lambda n: tail_env[n])
    if in_head:
        raise SplitError(f"split point {point.name!r} is not in this network")
    parts = []
    for name, part in (("Head", head), ("Tail", tail)):
        # constants that this side does not use
        for node in reversed(list(part.nodes)):
            if node.op == "get_attr" and not node.users:
                part.erase_node(node)
        part.lint()
        module = fx.GraphModule(graph, part, class_name=name)
        module.train(graph.training)
        parts.append(module)
    return parts[0], parts[1]
