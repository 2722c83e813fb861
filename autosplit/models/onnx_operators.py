"""Which operator of a network each node of its ONNX file belongs to, so that timed kernels tell about operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autosplit.core.errors import ConfigError
from autosplit.core.operators import OperatorWork

__all__ = ["OnnxNode", "owners_of"]

_PRODUCTS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"}

# operators without weights that count by themselves, though they read one tensor alone
_WINDOWS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax",
            "ReduceMin", "ReduceL2", "Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization",
            "InstanceNormalization", "Resize"}


@dataclass(frozen=True)
class OnnxNode:
    """A node of an ONNX file.

    Attributes:
        kind: Its operator.
        name: Its own name.
        inputs: Values that it reads, constants left out.
        outputs: Values that it gives.
        constants: Elements of each constant that it reads.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[int, ...]


def owners_of(nodes: Iterable[OnnxNode], works: Sequence[OperatorWork]) -> dict[str, int]:
    """The operator of each name that a kernel of an engine may have: those of nodes and of values.

    Products and convolutions come in the same order in the file as in the network. A node that reads nothing else but
    what one of them gives belongs to it (bias, activation, requantisation), and so does what prepares the image for the
    first one. Sums, poolings and whatever follows them belong to none.

    Args:
        nodes: Of the file, in its order.
        works: Of the network's operators, in the order of execution.

    Returns:
        Numbers of `works`, -1 for none.

    Raises:
        ConfigError: The file has other products and convolutions than the network.
    """
    nodes = list(nodes)
    weighted = [i for i, work in enumerate(works) if work.macs]
    anchors = [node for node in nodes if node.kind in _PRODUCTS]
    if len(anchors) != len(weighted) or any(
            works[i].weights - works[i].bias not in node.constants
            for i, node in zip(weighted, anchors, strict=True) if len(node.inputs) == 1):
        raise ConfigError(f"its ONNX file has {len(anchors)} products and convolutions, the network {len(weighted)} "
                          "others")
    number = {id(node): i for i, node in zip(weighted, anchors, strict=True)}
    first = weighted[0] if weighted else -1
    produced: dict[str, int] = {}
    fixed: set[str] = set()  # what does not depend on the image
    owners: dict[str, int] = {}
    for node in nodes:
        inputs = [name for name in node.inputs if name not in fixed]
        if not inputs:
            fixed |= set(node.outputs)
        read = {produced.get(name, first) for name in inputs}
        owner = number.get(id(node))
        if owner is None:
            owner = read.pop() if len(read) == 1 and node.kind not in _WINDOWS else -1
        produced |= dict.fromkeys(node.outputs, owner)
        owners |= dict.fromkeys([node.name, *node.outputs], owner)
    return owners
