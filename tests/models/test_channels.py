"""Channels are followed through every operation: what goes is what a mask would silence, what is unknown stays."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace
from tests.tiny import randomise_norms

SHAPE = (3, 16, 16)


def conv(inputs, outputs, kernel=3, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(outputs), nn.ReLU())


class Between(nn.Module):
    """Two convolutions with something in between, and a classifier."""

    def __init__(self, between, channels=16, after=16):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = conv(3, channels), conv(after, 8), nn.Linear(8, 4)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.inner, self.extra = conv(channels, channels), conv(channels, channels // 2)
        self.deep, self.wide = conv(channels, 2 * channels, groups=channels), conv(4, 16)
        self.norm, self.attention = nn.LayerNorm(channels), nn.MultiheadAttention(channels, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(channels, 24), nn.GELU(), nn.Linear(24, channels))
        self._between = between

    def forward(self, x):
        return self.fc(self.second(self._between(self, self.first(x))).mean((2, 3)))


def pruned_is_masked(network, shape=SHAPE, sparsity=0.5):
    """Prune, compare with the network whose channels are silenced, and give the roots with what they keep."""
    network = copy.deepcopy(network).eval()
    randomise_norms(network)
    graph = trace(network, shape)
    pruner = HeadPruner(graph, shape)
    keep = pruner.keep_counts(sparsity)
    pruned, masked = pruner.sub_network(keep).materialise(graph).eval(), pruner.masked(keep).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = masked(x)
        assert torch.allclose(pruned(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        if any(count < group.channels for count, group in zip(keep, pruner.groups, strict=True)):
            assert not torch.allclose(graph(x), expected, rtol=1e-3)
    # the same structure, whatever the weights are: a deployment is rebuilt from counts
    with torch.no_grad():
        other = copy.deepcopy(graph)
        for p in other.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    again = HeadPruner(other, shape).sub_network(keep).module
    assert [(n, p.shape) for n, p in again.named_parameters()] == [(n, p.shape) for n, p in pruned.named_parameters()]
    assert [str(n.args) for n in again.graph.nodes] == [str(n.args) for n in pruned.graph.nodes]
    return {g.root: g.channels for g in pruner.groups}, pruner.unpruned


FOLLOWED = {
    "nothing": (lambda n, x: x, 16), "sum": (lambda n, x: x + n.inner(x), 16),
    "concatenation": (lambda n, x: torch.cat([x, n.extra(x)], 1), 24),
    "chunks": (lambda n, x: sum(x.chunk(2, 1)), 8),
    "chunk with a branch": (lambda n, x: torch.cat([x.chunk(2, 1)[0], n.wide(x.chunk(2, 1)[1][:, :4])], 1), 24),
    "split": (lambda n, x: torch.cat(x.split([6, 10], 1)[::-1], 1), 16),
    "slice": (lambda n, x: x[:, 2:10] * 2, 8), "scale": (lambda n, x: x * n.gamma, 16),
    "gate": (lambda n, x: x * torch.sigmoid(n.inner(x).mean((2, 3), keepdim=True)), 16),
    "gate by view": (lambda n, x: x * torch.relu(x.mean((2, 3)).view(-1, 16)).view(-1, 16, 1, 1), 16),
    "depthwise with more outputs": (lambda n, x: n.deep(x), 32),
    "pixel shuffle": (lambda n, x: F.avg_pool2d(F.pixel_shuffle(x, 2), 2), 4),
    "pixel unshuffle": (lambda n, x: F.pixel_unshuffle(x, 2), 64),
    "flattened and back": (lambda n, x: x.flatten(2).view(-1, 16, 16, 16), 16),
    "channels last and back": (lambda n, x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), 16),
    "roll": (lambda n, x: torch.roll(x, (1, 1), (2, 3)), 16), "pad": (lambda n, x: F.pad(x, (1, 1, 0, 0)), 16),
    "pool": (lambda n, x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2), 16),
    "used twice": (lambda n, x: n.inner(n.inner(x)), 16), "where": (lambda n, x: torch.where(x > 0, x, 0.1 * x), 16),
}


class TestFollowed:
    @pytest.mark.parametrize(("between", "after"), FOLLOWED.values(), ids=FOLLOWED)
    def test_the_first_layer_loses_channels(self, between, after):
        groups, unpruned = pruned_is_masked(Between(between, after=after))
        assert groups["first.0"] >= 4
        assert "first.0" not in unpruned

    def test_halves_of_a_chunk_are_groups_of_their_own(self):
        network = Between(lambda n, x: torch.cat([x.chunk(2, 1)[0], n.wide(x.chunk(2, 1)[1][:, :4])], 1), after=24)
        graph = trace(network.eval(), SHAPE)
        sizes = [g.channels for g in HeadPruner(graph, SHAPE).groups if g.root == "first.0"]
        assert sorted(sizes) == [4, 4, 8]  # read by the last layer, by `wide`, and by none

    def test_flat_features_behind_a_convolution(self):
        network = nn.Sequential(conv(3, 8), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 12), nn.ReLU(),
                                nn.Linear(12, 3))
        assert pruned_is_masked(network)[0] == {"0.0": 8, "3": 12}

    def test_a_hidden_layer_over_tokens(self):
        def tokens(n, x):
            t = x.flatten(2).transpose(1, 2)
            return (t + n.mlp(n.norm(t))).transpose(1, 2).reshape(x.shape)

        groups, unpruned = pruned_is_masked(Between(tokens))
        assert groups == {"mlp.0": 24, "second.0": 8}
        assert unpruned["first.0"] == "LayerNorm"

    def test_transposed_convolutions(self):
        network = nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2), nn.ReLU(), conv(12, 4),
                                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        assert pruned_is_masked(network)[0] == {"0.0": 8, "1": 12, "3.0": 4}

    def test_weights_that_two_layers_share_stay_shared(self):
        network = Between(lambda n, x: n.extra(n.inner(x)), after=8)
        network.inner[0].weight = network.first[0].weight = nn.Parameter(torch.randn(16, 16, 3, 3) / 12)
        network.first[0].in_channels = 16
        network = nn.Sequential(nn.Conv2d(3, 16, 1), network)
        pruned_is_masked(network)
        graph = trace(network.eval(), SHAPE)
        pruner = HeadPruner(graph, SHAPE)
        pruned = pruner.sub_network(pruner.keep_counts(0.5)).materialise(graph)
        assert pruned.get_parameter("1.first.0.weight") is pruned.get_parameter("1.inner.0.weight")


STAYING = {
    "attention": (lambda n, x: n.attention(*[x.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).view(-1, 16, 16, 16),
                  "MultiheadAttention"),
    "grouped": (lambda n, x: F.conv2d(x, n.gamma.new_ones(16, 4, 1, 1), groups=4), "conv2d"),
    "shuffled": (lambda n, x: x.view(-1, 4, 4, 16, 16).transpose(1, 2).flatten(1, 2), "reshape"),
    "matrix product": (lambda n, x: torch.einsum("nchw,dc->ndhw", x, n.gamma.new_ones(16, 16)), "einsum"),
    "mean over channels": (lambda n, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1), "mean"),
    "softmax": (lambda n, x: x.softmax(1), "softmax"),
    "steps": (lambda n, x: torch.cat([x[:, ::2], x[:, 1::2]], 1), "an index"),
    "an assignment": (lambda n, x: _assigned(x), "an assignment to a part"),
}


def _assigned(x):
    x[:, :2] = 0
    return x


class TestStaying:
    @pytest.mark.parametrize(("between", "why"), STAYING.values(), ids=STAYING)
    def test_all_else_is_pruned(self, between, why):
        groups, unpruned = pruned_is_masked(Between(between))
        assert groups == {"second.0": 8}
        assert unpruned == {"first.0": why}

    def test_group_norm(self):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 6), nn.AdaptiveAvgPool2d(1),
                                nn.Flatten(), nn.Linear(6, 2))
        assert pruned_is_masked(network) == ({"3.0": 6}, {"0": "GroupNorm"})


class Pick(nn.Module):
    """A module without parameters that gives one of the features it is handed, as in timm's SelecSLS."""

    def forward(self, features):
        return features[0]


class Picking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.pick, self.fc = conv(3, 16), conv(3, 12), Pick(), nn.Linear(16, 4)

    def forward(self, x):
        features = [self.one(x), self.two(x)]
        return self.fc(self.pick(features).mean((2, 3))) + features[1].mean((1, 2, 3)).unsqueeze(1)


def test_a_module_that_picks_one_of_several_features_is_looked_through():
    groups, _ = pruned_is_masked(Picking())
    assert groups["one.0"] == 16


def test_where_following_fails_channels_stay_and_the_rest_is_pruned(monkeypatch):
    """An operation with arguments that nobody thought of costs its own channels, and not the search."""
    from autosplit.models import following

    def failing(self, node):
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(following.Follower, "_cat", failing)
    graph = trace(Between(lambda net, x: net.inner(torch.cat([net.extra(x), net.extra(x)], 1))).eval(), SHAPE)
    pruner = HeadPruner(graph, SHAPE)
    assert "extra.0" not in {g.root for g in pruner.groups}
    assert {"first.0", "inner.0"} <= {g.root for g in pruner.groups}
    assert pruner.unpruned["extra.0"] == "cat"
