from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.core.operators import TypeSums
from autosplit.core.plan import StageCost
from autosplit.models.costs import operators, stage_cost


@pytest.mark.parametrize(("layer", "shape", "expected"), [
    (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 7),
     StageCost(conv_macs=3 * 8 * 9 * 5 * 4, weight_elements=3 * 8 * 9 + 8, activation_elements=8 * 5 * 4, operators=1)),
    (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 8, 8),
     StageCost(depthwise_macs=6 * 9 * 36, weight_elements=54, activation_elements=6 * 36, operators=1)),
    (nn.Conv2d(6, 12, 3, groups=6, bias=False), (6, 8, 8),
     StageCost(depthwise_macs=12 * 9 * 36, weight_elements=108, activation_elements=12 * 36, operators=1)),
    (nn.Conv2d(8, 4, 1, groups=2, bias=False), (8, 5, 5),
     StageCost(conv_macs=4 * 4 * 25, weight_elements=16, activation_elements=100, operators=1)),
    (nn.Linear(10, 4), (10,), StageCost(linear_macs=40, weight_elements=44, activation_elements=4, operators=1)),
    (nn.Linear(10, 4), (7, 10), StageCost(linear_macs=280, weight_elements=44, activation_elements=28, operators=1)),
    (nn.ConvTranspose2d(5, 3, 2, 2, bias=False), (5, 4, 6),
     StageCost(conv_macs=5 * 3 * 4 * 24, weight_elements=60, activation_elements=3 * 8 * 12, operators=1)),
    (nn.ConvTranspose2d(5, 3, 3, 2, padding=1, bias=False), (5, 4, 4),
     StageCost(conv_macs=5 * 3 * 9 * 16, weight_elements=135, activation_elements=3 * 49, operators=1)),
    (nn.MaxPool2d(2), (3, 8, 8), StageCost(activation_elements=48, operators=1)),
    (nn.BatchNorm2d(3), (3, 8, 8), StageCost()),
    (nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Flatten()), (3, 8, 8), StageCost()),
], ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_one_layer_by_hand(layer, shape, expected):
    found = stage_cost(layer, shape)
    assert found.model_copy(update={"by_type": None}) == expected
    assert found.by_type == (TypeSums.of(operators(layer, shape)) if expected.operators else None)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.depthwise = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6, bias=False)
        self.up, self.fc = nn.ConvTranspose2d(6, 2, 2, 2), nn.Linear(32, 4)

    def forward(self, x):
        x = F.conv2d(x, self.dense.weight, self.dense.bias)
        x = F.conv2d(x, weight=self.depthwise.weight, groups=6)
        x = F.conv_transpose2d(x, self.up.weight, self.up.bias, 2)
        return F.linear(x.flatten(1), self.fc.weight, self.fc.bias)


def test_functions_count_as_layers_do():
    network = Functional()
    layers = nn.Sequential(network.dense, network.depthwise, network.up, nn.Flatten(), network.fc)
    cost = stage_cost(network, (3, 6, 6))
    assert cost == stage_cost(layers, (3, 6, 6))
    assert cost.depthwise_macs == 54 * 4


class Joining(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x):
        y = self.conv(x) + x
        return torch.cat([y, x], 1).mean((2, 3))


def test_joins_count_as_operators():
    cost = stage_cost(Joining(), (2, 4, 4))
    assert cost.conv_macs == 4 * 16
    assert (cost.operators, cost.activation_elements) == (4, 32 + 32 + 64 + 4)


def test_a_sum_of_stages_is_the_whole():
    one, two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    total = stage_cost(one, (3, 9, 9)) + stage_cost(two, (4, 7, 7))
    assert stage_cost(nn.Sequential(one, nn.ReLU(), two), (3, 9, 9)) == total


def test_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    stage_cost(network, (3, 8, 8))
    assert all(m.training for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
