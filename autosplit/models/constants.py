"""What a network computes without looking at its input, computed beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.models.inference import evaluation_mode

__all__ = ["with_constants"]

_LARGEST = 2**22  # elements of a constant; larger ones are cheaper made than stored
_MAKERS = {"new_zeros", "new_ones", "new_full"}  # they take only the type of their first argument


def with_constants(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A traced network whose masks, positions and the like are stored instead of made anew for every input.

    Torchvision's `swin_t` makes the masks of its shifted windows and its position biases in 170 operations, which the
    exporter would go through one by one. Layers are left alone, and so is all that depends on the number of images.

    Args:
        network: With the weights that it will keep; what is not traced is given back as it is.
        shape: Of an input without the batch dimension.

    Returns:
        A new graph over the same layers.
    """
    if not isinstance(network, fx.GraphModule):
        return network
    fixed: set[fx.Node] = set()
    for node in network.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "call_method" and node.target in _MAKERS:
            sources = [n for n in sources if n is not node.args[0]]
        if node.op == "get_attr" or (node.op in {"call_function", "call_method"} and all(n in fixed for n in sources)):
            fixed.add(node)
    if all(node.op == "get_attr" for node in fixed):
        return network
    values = _Values(network, {n for n in fixed if n.op != "get_attr" and any(u not in fixed for u in n.users)})
    with evaluation_mode(network), torch.no_grad():
        values.run(torch.zeros(1, *shape))
    copies: dict[Any, Any] = {}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, copies))
    result = fx.GraphModule(network, graph)
    for node, value in values.found.items():
        name = f"constant_{node.name}"
        result.register_buffer(name, value)
        with graph.inserting_before(copies[node]):
            copies[node].replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    return fx.GraphModule(result, graph).train(network.training)  # without what only the constants needed


class _Values(fx.Interpreter):
    """Runs a network and notes some values that are tensors."""

    def __init__(self, network: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(network)
        self._wanted = wanted
        self.found: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does."""
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor) and value.numel() <= _LARGEST:
            self.found[n] = value.detach().clone()
        return value
