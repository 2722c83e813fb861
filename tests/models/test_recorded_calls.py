"""Calls that are recorded under another name, type or device than the network wrote them with; computed weights."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
from torch import nn

from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace

OPERATORS = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow,
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sides", ["tensor and number", "number and tensor", "two tensors", "in place", "constants"])
def test_operators_of_python(name, sides):
    """Of features and of what is not computed from the image; torch wraps some of them under other names."""
    operate, changing = OPERATORS[name], getattr(operator, f"i{name}")

    class Operated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x).sigmoid() + 1
            if sides == "tensor and number":
                x = operate(x, 3)
            elif sides == "number and tensor":
                x = operate(3, x)
            elif sides == "two tensors":
                x = operate(x, x.flip(1))
            elif sides == "in place":
                x = changing(x, 3)
            else:
                x = x * operate(torch.arange(1, 1 + x.shape[-1]), 3)
            return x.mean((2, 3))

    torch.manual_seed(0)
    network, images = Operated().eval(), torch.randn(2, 3, 8, 8)
    assert torch.equal(trace(network, (3, 8, 8))(images), network(images))


@pytest.mark.parametrize("change", [
    lambda x: x.ge_(0.5), lambda x: x.ne_(x.flip(1)), lambda x: x.logical_not_(),
    lambda x: x.mul_(torch.arange(4, dtype=torch.float64).view(-1, 1, 1)),
], ids=["ge_", "ne_", "logical_not_", "mul_ by float64"])
def test_a_tensor_that_is_changed_in_place_keeps_its_type(change):
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x).sigmoid()
            change(x)
            return x.mean((2, 3))

    torch.manual_seed(0)
    network, images = Changed().eval(), torch.randn(2, 3, 8, 8)
    found = trace(network, (3, 8, 8))(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, network(images))


def test_tensors_that_are_made_without_a_device_lie_where_the_input_does():
    """On the meta device here, on which structures are built; on a GPU elsewhere."""
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x) * torch.linspace(0, 1, 6) + torch.ones(6)
            x = x.masked_fill(torch.ones(6, 6).tril() == 0, 0.0) * torch.tensor([0.5, 1.0, 2.0] * 2)
            return x.mean((2, 3))

    torch.manual_seed(0)
    network, images = Made().eval(), torch.randn(2, 3, 8, 8)
    graph = trace(network, (3, 8, 8))
    assert torch.equal(graph(images), network(images))
    assert copy.deepcopy(graph).to("meta")(images.to("meta")).shape == (2, 4)


@pytest.mark.parametrize("parametrise", [
    lambda net: nn.utils.parametrizations.weight_norm(net.conv),
    lambda net: nn.utils.parametrizations.spectral_norm(net.conv),
    lambda net: nn.utils.spectral_norm(net.conv), lambda net: nn.utils.weight_norm(net.conv),
    lambda net: nn.utils.parametrizations.orthogonal(net.last),
], ids=["weight norm", "spectral norm", "spectral norm by hooks", "weight norm by hooks", "orthogonal"])
def test_parametrised_weights_become_plain_ones(parametrise, caplog):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x):
            return self.last(self.conv(x).relu().mean((2, 3)))

    torch.manual_seed(0)
    network, images = Plain(), torch.randn(2, 3, 8, 8)
    parametrise(network)
    network.eval()
    expected = network(images)
    graph = trace(network, (3, 8, 8))
    assert torch.allclose(graph(images), expected, atol=1e-6)
    assert torch.equal(network(images), expected)  # it is left as it was
    assert sorted(name for name, _ in graph.named_parameters()) == ["conv.bias", "conv.weight", "last.bias",
                                                                    "last.weight"]
    assert "parametrisations are replaced by the weights" in caplog.text
    pruner = HeadPruner(graph, (3, 8, 8))
    assert pruner.sub_network(pruner.keep_counts(0.5)).materialise(graph).eval()(images).shape == (2, 4)
