"""Which dimension holds the channels: followed from convolutions and linear layers through whatever moves it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torchvision import models

from autosplit.core.errors import SplitError
from autosplit.models.layouts import channel_axes
from autosplit.models.splitting import block_ends, cut, find_split_points, select_split_points
from autosplit.models.tracing import trace

SHAPE = (3, 16, 16)


class Last(nn.Module):
    """A block that works on (N, H, W, C)."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(channels), nn.Linear(channels, 16), nn.Linear(16, channels)

    def forward(self, x):
        return x + self.outer(torch.relu(self.inner(self.norm(x))))


class Mixed(nn.Module):
    """(C, H, W), then (H, W, C) over as many channels as rows, then (C, H, W) again."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 2, 2), Last(8), Last(8)
        self.back, self.out = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        x = self.second(self.first(self.stem(x).permute(0, 2, 3, 1)))
        x = self.back(x.movedim(-1, 1))
        return self.out(x.mean((2, 3)))


@pytest.fixture(scope="module")
def points():
    return {p.name: p for p in find_split_points(trace(Mixed().eval(), SHAPE), SHAPE)}


def test_sides_that_equal_the_channels_do_not_mislead(points):
    assert {p.shape for name, p in points.items() if name in {"stem", "first", "second"}} == {(8, 8, 8)}
    assert [name for name, p in points.items() if p.channels_last] == ["permute", "first", "second"]


def test_they_are_not_offered_and_a_note_says_so(points, caplog):
    caplog.set_level(logging.WARNING)
    every = list(points.values())
    assert [p.name for p in block_ends(every)] == []
    offered = [p.name for p in select_split_points(every, "all")]
    assert {"stem", "back"} <= set(offered)
    assert not {"permute", "first", "second"} & set(offered)
    assert caplog.messages == ["not offered: the features of 3 split points, such as 'permute' of shape (8, 8, 8), "
                               "have their channels last (H, W, C), which codecs cannot take"]


def test_one_that_is_named_is_refused_with_its_shape(points):
    with pytest.raises(SplitError, match=r"'second' gives a feature of shape \(8, 8, 8\) with its channels last"):
        select_split_points(list(points.values()), ("stem", "second"))
    with pytest.raises(SplitError, match=r"no split point of the kind asked for: the features of 2 split points"):
        select_split_points(list(points.values()), "blocks")


@pytest.mark.parametrize(("moves", "axis"), [
    (lambda x: x, 1), (lambda x: x.permute(0, 2, 3, 1), 3), (lambda x: x.transpose(1, 3), 3),
    (lambda x: x.permute(0, -2, -1, -3).permute(0, 3, 1, 2), 1), (lambda x: x.flatten(2), 1),
    (lambda x: x.flatten(2).transpose(1, 2), 2), (lambda x: x.flatten(2).mT.reshape(-1, 8, 8, 6), 3),
    (lambda x: torch.relu(x.permute(0, 2, 3, 1)) + 1, 3), (lambda x: x.permute(0, 2, 3, 1).roll(2, 1), 3),
    (lambda x: torch.cat([x, x], 1), 1), (lambda x: x.mean((2, 3)), 1), (lambda x: x[:, :, 1:], 1),
    (lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (6,)), 3),
    (lambda x: x.view(-1, 2, 3, 8, 8).transpose(1, 2), None),
])
def test_a_dimension_is_followed(moves, axis):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 2, 2)

        def forward(self, x):
            return moves(self.conv(x))

    graph = trace(Network().eval(), SHAPE)
    last = [n for n in graph.graph.nodes if n.op != "output"][-1]
    assert channel_axes(graph, SHAPE).get(last) == axis


def test_swin_is_not_offered_as_channels_first():
    graph = trace(models.SwinTransformer([4, 4], 8, [1, 1], [2, 4], [4, 4], num_classes=3).eval(), (3, 32, 32))
    points = find_split_points(graph, (3, 32, 32))
    first = [p.name for p in points if len(p.shape) == 3 and not p.channels_last]
    assert first == ["features.0.0", "permute", "avgpool"]
    assert block_ends(points) == []
    point = next(p for p in points if p.channels_last and p.block_end)
    head, tail = cut(graph, point)  # which works all the same
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(tail(head(x)), graph(x))
