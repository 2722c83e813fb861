"""Finding the places where a network can be cut, and cutting it there.

A split point is a node of the `torch.fx` graph after which exactly one tensor that comes from the image is live.
It is named by the outermost module that ends there (`layer2`, `layer2.0.conv1`), or by the node where no module
ends. Head and tail share the parameters of the traced network, and head then tail does the same operations in
the same order, so the result is equal bit for bit. What does not come from the image (constants, parameters and
what is computed of them, the size of the batch) is at hand on both sides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from autosplit.core.errors import SplitError, TraceError, UnknownNameError
from autosplit.models.inference import evaluation_mode
from autosplit.models.layouts import MAP, Layout, channel_axes, layout_of
from autosplit.models.tracing import BATCH
from autosplit.models.users import one_line

__all__ = ["SplitPoint", "block_ends", "cut", "find_split_points", "float_shapes", "select_split_points"]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_POOL_CALLS = {"max_pool2d", "avg_pool2d"}
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU)
_ACTIVATION_CALLS = {"relu", "relu6", "hardswish", "silu", "gelu", "elu", "leaky_relu"}


@dataclass(frozen=True)
class SplitPoint:
    """A place in the graph that exactly one tensor crosses.

    Attributes:
        name: Path of the outermost module that ends here, or the node's name.
        node: Name of the `torch.fx` node whose output crosses.
        shape: Shape of what crosses, without the batch dimension: (C, H, W), whatever the layout of the feature is,
            or its own where it is flat or cannot be seen as a map.
        block_end: Whether a block of the network ends here (a residual block, a stage, a pooling layer).
        aliases: Further module paths that end at the same node, outermost first.
        layout: How the feature holds channels and positions, and how it becomes a map and a feature again.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    block_end: bool
    aliases: tuple[str, ...] = field(default=())
    layout: Layout = MAP


def find_split_points(graph: fx.GraphModule, shape: tuple[int, ...]) -> list[SplitPoint]:
    """Every place that exactly one tensor crosses, in the order of execution.

    The input and the output of the network are not among them.

    Args:
        graph: A traced network.
        shape: Shape of one input image without the batch dimension, for the shapes of the features.
    """
    nodes = list(graph.graph.nodes)
    position = {n: i for i, n in enumerate(nodes)}
    # the first dimension has to be the batch: windows of an image, say, stand there in attention
    shapes = {n: full[1:] for n, full in float_shapes(graph, shape).items() if len(full) > 1 and full[0] == 1}
    # a value is live from its node to its last user; where one value alone is live, one tensor crosses
    last_use = {n: max((position[u] for u in n.users), default=-1) for n in nodes}
    common = _common(graph)
    live_nodes = [n for n in nodes if n not in common and n.op != "output"]
    ends, axes = _module_ends(graph), channel_axes(graph, shape)
    modules = dict(graph.named_modules(remove_duplicate=False))
    calls = Counter(str(n.target) for n in nodes if n.op == "call_module")
    points = []
    for i, node in enumerate(nodes):
        if node.op in {"placeholder", "output"} or node in common or node not in shapes:
            continue
        # what the output reads is the answer, not a feature
        if any(user.op == "output" for user in node.users):
            break
        live = {n for n in live_nodes if position[n] <= i < last_use[n]}
        if live == {node}:
            paths = ends.get(node, [])
            if paths and calls[paths[0]] > 1:  # a layer that is called again: each call has its node's name
                paths = paths[1:]
            name = paths[0] if paths else node.name
            block_end = _ends_block(node, paths, modules, graph.meta["containers"] | {""})
            layout = layout_of(shapes[node], axes.get(node), shape)
            points.append(SplitPoint(name, node.name, layout.seen(shapes[node]), block_end, tuple(paths[1:]), layout))
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
        raise TraceError(f"the network does not run on images of shape {shape}: {one_line(e)}") from e
    return found


def _common(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that hold nothing of the image: attributes, the batch's size, and whatever is computed of these alone."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if BATCH in node.meta or node.op == "get_attr" or (
                node.op in {"call_function", "call_method"} and all(n in found for n in node.all_input_nodes)):
            found.add(node)
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


def _ends_block(node: fx.Node, paths: list[str], modules: dict[str, nn.Module], containers: set[str]) -> bool:
    """Whether a block of the network ends at a node: a module that sits in plain containers and is no mere layer.

    Pooling ends a block, and so does an activation that no pooling follows, as layers or as functions.
    """

    def free(path: str) -> bool:
        """Whether only containers stand around a module."""
        parents = path.split(".")[:-1]
        return all(".".join(parents[: i + 1]) in containers for i in range(len(parents)))

    if any(free(path) and path in modules and any(True for _ in modules[path].children()) for path in paths):
        return True
    inside = [path for path in node.meta.get("nn_module_stack", {}) if path != str(node.target)]
    if not all(path in containers for path in inside):
        return False
    kind = _kind(node, modules)
    return kind == "pool" or (kind == "activation" and not any(_kind(user, modules) == "pool" for user in node.users))


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """`pool`, `activation` or nothing."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return "pool" if isinstance(module, _POOLS) else "activation" if isinstance(module, _ACTIVATIONS) else ""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return "pool" if name in _POOL_CALLS else "activation" if name in _ACTIVATION_CALLS else ""


def block_ends(points: list[SplitPoint]) -> list[SplitPoint]:
    """The points that are offered by default: ends of blocks that a feature map with some extent crosses."""
    return [p for p in points if p.block_end and len(p.shape) == 3 and p.shape[1] * p.shape[2] > 1
            and p.layout.kind != "unknown"]


def select_split_points(points: list[SplitPoint], wanted: str | tuple[str, ...]) -> list[SplitPoint]:
    """The points that a search space asks for.

    Args:
        points: All points of the backbone.
        wanted: `blocks`, `all` (every point with a feature (C, H, W) or a flat one), or names and aliases.

    Raises:
        UnknownNameError: A name is no split point of this backbone.
        SplitError: Nothing is left, or a point that was named gives a feature that is no map.
    """
    if wanted == "blocks":
        chosen = block_ends(points)
    elif wanted == "all":
        chosen = [p for p in points if len(p.shape) in {1, 3} and p.layout.kind != "unknown"]
    else:
        by_name = {alias: p for p in points for alias in (p.name, *p.aliases)}
        for name in wanted:
            if name not in by_name:
                raise UnknownNameError("split point", name, by_name)
        names = {by_name[name].name for name in wanted}
        chosen = [p for p in points if p.name in names]
        if refused := next((p for p in chosen if p.layout.kind == "unknown"), None):
            raise SplitError(f"split point {refused.name!r} gives a feature of shape {refused.shape}, which cannot be "
                             "seen as channels over a grid; choose another")
    if not chosen:
        unknown = next((p for p in points if p.layout.kind == "unknown"), None)
        about = (f": features such as that of {unknown.name!r}, of shape {unknown.shape}, cannot be seen as channels "
                 "over a grid" if unknown else "")
        raise SplitError(f"this backbone has no split point of the kind asked for{about}; try `space.splits: all`")
    return chosen


def cut(graph: fx.GraphModule, point: SplitPoint) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a traced network in two; both parts share its parameters.

    Args:
        graph: The traced network.
        point: One of `find_split_points(graph)`.

    Returns:
        Head (image -> feature) and tail (feature -> logits). What crosses is (N, C, H, W) wherever the feature can be
        seen as a map.
    """
    head, tail = fx.Graph(), fx.Graph()
    head_env: dict[fx.Node, fx.Node] = {}
    tail_env: dict[fx.Node, fx.Node] = {}
    in_head, common = True, _common(graph)
    feature = tail.placeholder("feature")
    for node in graph.graph.nodes:
        if node in common:  # whichever side uses it gets its own copy
            if in_head:
                head_env[node] = head.node_copy(node, lambda n: head_env[n])
            if node.meta.get(BATCH) in {0, 1}:  # device and size of the batch are those of the feature
                tail_env[node] = tail.create_node(node.op, node.target, (feature, *node.args[1:]))
            else:
                tail_env[node] = tail.node_copy(node, lambda n: tail_env[n])
            tail_env[node].meta.update(node.meta)
        elif in_head:
            head_env[node] = head.node_copy(node, lambda n: head_env[n])
            if node.name == point.node:
                head.output(point.layout.to_map(head, head_env[node]))
                tail_env[node] = point.layout.from_map(tail, feature)
                in_head = False
        else:
            tail_env[node] = tail.node_copy(node, lambda n: tail_env[n])
    if in_head:
        raise SplitError(f"split point {point.name!r} is not in this network")
    parts = []
    for name, part in (("Head", head), ("Tail", tail)):
        # what holds nothing of the image, and this side does not use
        for node in reversed(list(part.nodes)):
            if node.op not in {"placeholder", "output"} and not node.users:
                part.erase_node(node)
        part.lint()
        module = fx.GraphModule(graph, part, class_name=name)
        module.train(graph.training)
        parts.append(module)
    return parts[0], parts[1]
