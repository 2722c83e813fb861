"""The work of pruned heads in closed form, against heads that are really pruned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from autosplit.core.errors import ConfigError, PruningError
from autosplit.core.measurement import StageCost
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.evaluation.base import layerwise
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.evaluation.live import LiveEvaluator
from autosplit.models import head_costs as head_cost
from autosplit.models.costs import stage_cost
from autosplit.models.head_costs import COUNTS, HeadCost, HeadLayer
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8, resnet20
from tests.synthetic import small_table

# split point of each network; `None` = the whole of it
CASES = [("resnet8", None), ("resnet20", "layer3.0"), ("mobilenet_v2", "features.7"), ("concatenating", None)]


class Concatenating(nn.Module):
    """Branches side by side, a sum of two of them, and a linear layer over positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 1), nn.Conv2d(6, 10, 3, padding=1)
        self.again, self.joined, self.other = nn.Conv2d(18, 7, 1), nn.Conv2d(25, 9, 3), nn.Conv2d(25, 9, 3, bias=False)
        self.hidden, self.out = nn.Linear(9 * 16, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat((self.left(x), self.right(x)), 1)
        x = torch.relu(torch.cat((x, self.again(x)), 1))
        x = nn.functional.max_pool2d(self.joined(x) + self.other(x), 3)
        return self.out(torch.relu(self.hidden(torch.flatten(x, 1))))


def head_of(name, split):
    torch.manual_seed(0)
    own = {"resnet8": (resnet8, 32), "resnet20": (resnet20, 32), "concatenating": (Concatenating, 16)}
    network, side = (own[name][0](), own[name][1]) if name in own else (models.get_model(name, weights=None), 64)
    graph = trace(network.eval(), (3, side, side))
    if split is not None:
        graph, _ = cut(graph, next(p for p in find_split_points(graph, (3, side, side)) if p.name == split))
    return graph, (3, side, side)


@pytest.mark.parametrize(("name", "split"), CASES)
def test_equal_to_heads_that_are_really_pruned(name, split):
    head, shape = head_of(name, split)
    pruner = HeadPruner(head, shape)
    cost = HeadCost.of(pruner, shape)
    channels = cost.channels
    assert channels.tolist() == [g.channels for g in pruner.groups]
    assert len(channels) >= 6
    assert cost.stage_cost(channels.tolist()) == stage_cost(head, shape)
    rng = np.random.default_rng(0)
    keep = [np.ones_like(channels), *(rng.integers(1, channels + 1) for _ in range(2))]
    real = [stage_cost(pruner.sub_network(tuple(k.tolist())).module, shape) for k in keep]
    assert cost.stage_costs(np.stack(keep)) == real
    assert cost.macs(np.stack(keep)).tolist() == [c.macs for c in real]


def test_layers_tell_what_the_groups_are():
    head, shape = head_of("mobilenet_v2", "features.2")
    assert HeadCost.of(HeadPruner(head, shape), shape).layers == (
        HeadLayer("features.0.0", 32, "conv", 3, 3, 2), HeadLayer("features.1.conv.1", 16, "conv", 32),
        HeadLayer("features.2.conv.0.0", 96, "conv", 16))


def test_heads_without_groups_have_one_cost():
    head, shape = head_of("resnet8", "stem")
    assert HeadCost.of(HeadPruner(head, shape), shape).stage_cost(()) == stage_cost(head, shape)
    assert HeadCost.nothing().stage_cost(()) == StageCost()
    assert HeadCost.nothing().counts(np.zeros((3, 0), int)).shape == (3, len(COUNTS))


def test_a_head_whose_channels_do_not_add_up_is_refused(monkeypatch):
    """As if an operator lost channels in steps: half of the first group gone takes nothing away."""
    head, shape = head_of("resnet8", "layer2")
    pruner, counted = HeadPruner(head, shape), []
    real = head_cost.operators

    def stepwise(module, shape):
        counted.append(real(module, shape))
        return counted[0] if len(counted) == 2 else counted[-1]

    monkeypatch.setattr(head_cost, "operators", stepwise)
    with pytest.raises(PruningError, match="no sum over its groups"):
        HeadCost.of(pruner, shape)


def test_evaluator_takes_it_and_does_without_it(prepared, monkeypatch):
    plan = Plan(split=OUTPUT, sparsity=0.5, codec=CodecSetting(kind="none"))
    quick, slow = LiveEvaluator(prepared), LiveEvaluator(prepared)
    found = quick.workloads([plan])
    assert CachedEvaluator(quick).head(OUTPUT) is quick.head(OUTPUT)

    def refused(*_):
        raise PruningError("no sum")

    monkeypatch.setattr(HeadCost, "of", refused)
    assert slow.workloads([plan]) == found
    with pytest.raises(PruningError, match="no sum"):
        slow.head(OUTPUT)
    with pytest.raises(ConfigError, match="layer by layer"):
        layerwise(small_table())
