"""Which operator each node of an ONNX file belongs to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.core.errors import ConfigError
from autosplit.models.costs import operators
from autosplit.models.onnx_operators import OnnxNode, owners_of
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8

SHAPE = (3, 32, 32)


def node(kind, name, inputs, output, constants=()):
    return OnnxNode(kind, name, tuple(inputs), (output,), constants)


def conv(rows, columns, kernel=9):
    network = nn.Conv2d(columns, rows, 3 if kernel == 9 else 1, padding=kernel // 9)
    return operators(network, (columns, 8, 8))[0]


def works():
    return [conv(4, 3), conv(4, 4), operators(nn.AvgPool2d(2), (4, 8, 8))[0]]


NODES = [
    node("Cast", "cast", ["images"], "real"),
    node("Conv", "conv", ["real"], "c1", (108, 4)),
    node("Relu", "relu", ["c1"], "r1"),
    node("Conv", "conv_1", ["r1"], "c2", (144, 4)),
    node("Constant", "constant", [], "k"),
    node("Mul", "scale", ["c2", "k"], "s"),
    node("Add", "add", ["s", "r1"], "sum"),
    node("Relu", "relu_1", ["sum"], "r2"),
    node("AveragePool", "pool", ["r2"], "out"),
]


def test_nodes_belong_to_the_layer_whose_output_alone_they_read():
    owners = owners_of(NODES, works())
    assert {name: owners[name] for name in ("conv", "c1", "relu", "r1", "conv_1", "scale", "s")} == {
        "conv": 0, "c1": 0, "relu": 0, "r1": 0, "conv_1": 1, "scale": 1, "s": 1}
    assert {owners[name] for name in ("add", "sum", "relu_1", "r2", "pool", "out")} == {-1}
    assert owners["cast"] == owners["real"] == 0, "what prepares the image belongs to the layer that reads it"


def test_an_activation_written_as_several_nodes_belongs_to_its_layer():
    nodes = [*NODES[:2], node("Sigmoid", "sigmoid", ["c1"], "s"), node("Mul", "mul", ["c1", "s"], "m")]
    assert owners_of(nodes, [conv(4, 3)])["mul"] == 0


def test_a_pooling_right_behind_a_layer_is_its_own():
    nodes = [*NODES[:2], node("AveragePool", "pool", ["c1"], "p"), node("Relu", "relu", ["p"], "r")]
    owners = owners_of(nodes, [conv(4, 3), works()[2]])
    assert (owners["pool"], owners["relu"]) == (-1, -1)


@pytest.mark.parametrize("other", [
    [conv(4, 3)],  # one layer too few
    [conv(4, 4), conv(4, 3)],  # another order
    [conv(4, 3), conv(4, 4, kernel=1)],  # another size
])
def test_another_network_is_an_error(other):
    with pytest.raises(ConfigError, match="2 products and convolutions"):
        owners_of(NODES, other)


def test_of_a_written_network(tmp_path):
    """Every layer has nodes, each node the layer that it should: names are those of torch's nodes."""
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    from autosplit.models.onnx_files import write_onnx

    torch.manual_seed(0)
    network = trace(resnet8(10, 3).eval(), SHAPE)
    counted = operators(network, SHAPE)
    nodes = write_onnx(network, torch.zeros(2, *SHAPE), tmp_path / "net.onnx", ("input", "output"))
    owners = owners_of(nodes, counted)
    layers = {i for i, work in enumerate(counted) if work.macs}
    assert {owner for owner in owners.values() if owner >= 0} == layers
    assert {owners[n.name] for n in nodes if n.kind in {"Add", "ReduceMean"}} == {-1}
    relus = [owners[n.name] for n in nodes if n.kind == "Relu"]
    assert relus.count(-1) == 3, "behind the three sums"
