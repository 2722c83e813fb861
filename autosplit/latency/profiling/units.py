"""A network as the pieces that are timed: each operator that counts, with what is fused into it.

A unit holds one operator as `autosplit.models.costs` counts them (several where one node of the graph runs several, as
attention does) and the nodes after it, up to the next, that count as nothing (activations, dropout, reshaping). Batch
norm is folded into the convolution before it. So the units of a network are the whole of it: nothing is left out, and
nothing is subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from autosplit.models.costs import OperatorWork, operators_by_node

__all__ = ["Pass", "Unit", "folded", "run_once", "units_of"]

_Forward = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Unit:
    """One piece of a network.

    Attributes:
        node: Name of the node whose operator it is.
        works: What its operators cost, at least one.
        forward: Runs the unit: values of `inputs` in, values of `outputs` out.
        inputs: Names of the nodes that it reads from other units.
        outputs: Names of its nodes that later units read.
        last_of: Names of those inputs that no later unit reads.
    """

    node: str
    works: tuple[OperatorWork, ...]
    forward: _Forward
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_of: tuple[str, ...]

    @property
    def weights(self) -> int:
        """Parameters that its operators read."""
        return sum(work.weights for work in self.works)

    @property
    def moved(self) -> int:
        """Activation elements that its operators read and write."""
        return sum(work.reads + work.outputs for work in self.works)

    @property
    def shares(self) -> list[tuple[OperatorWork, float]]:
        """Its operators, each with the share of the unit's time that its work suggests."""
        sizes = [work.macs + work.reads + work.outputs + 1 for work in self.works]
        return [(work, size / sum(sizes)) for work, size in zip(self.works, sizes, strict=True)]


Pass = Callable[[Sequence[Unit], Tensor], list[float]]
"""Runs all units of a network once, in order, on one image; gives the seconds that each took."""


def folded(network: nn.Module) -> fx.GraphModule:
    """A copy ready to be timed: batch norm folded into convolutions, evaluation mode, channels last.

    Args:
        network: A traced network; left as it was.
    """
    graph = fuse(network.eval(), no_trace=True)
    assert isinstance(graph, fx.GraphModule)
    return graph.to(memory_format=torch.channels_last)


def units_of(graph: fx.GraphModule, shape: tuple[int, ...]) -> list[Unit]:
    """Divide a network.

    Args:
        graph: As `folded` gives it.
        shape: Shape of one input without the batch dimension.
    """
    works = operators_by_node(graph, shape)
    parts: list[list[fx.Node]] = [[]]
    owners: list[fx.Node] = []
    for node in graph.graph.nodes:
        if node.op in {"placeholder", "output"}:
            continue
        if node in works:
            if owners:
                parts.append([])
            owners.append(node)
        parts[-1].append(node)
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    units = []
    for owner, part in zip(owners, parts, strict=False):  # without any owner there is one empty part
        inside = set(part)
        inputs = tuple(dict.fromkeys(i for node in part for i in node.all_input_nodes if i not in inside))
        outputs = [node for node in part if any(user not in inside for user in node.users)]
        piece = fx.Graph()
        copies = {node: piece.placeholder(node.name) for node in inputs}
        for node in part:
            copies[node] = piece.node_copy(node, copies.__getitem__)
        piece.output(tuple(copies[node] for node in outputs))
        last = tuple(i.name for i in inputs if all(order[user] <= order[part[-1]] for user in i.users))
        units.append(Unit(owner.name, works[owner], fx.GraphModule(graph, piece).forward,
                          tuple(i.name for i in inputs), tuple(node.name for node in outputs), last))
    return units


def run_once(units: Sequence[Unit], image: Tensor, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The pass that is really timed; see `Pass`.

    The whole network runs, so that each unit finds the caches as it will find them in use, and real inputs. What no
    later unit reads is freed at once, as it would be.

    Args:
        units: Of one network, in order.
        image: Shape (1, C, H, W), channels last.
        clock: Seconds.
    """
    values: dict[str, Any] = dict.fromkeys(units[0].inputs, image)
    seconds = []
    with torch.inference_mode():
        for unit in units:
            arguments = [values[name] for name in unit.inputs]
            for name in unit.last_of:
                del values[name]
            begun = clock()
            found = unit.forward(*arguments)
            seconds.append(clock() - begun)
            values.update(zip(unit.outputs, found, strict=True))
    return seconds
