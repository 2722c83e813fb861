"""Which dimension holds the channels: followed from convolutions and linear layers through whatever moves it."""

from __future__ import annotations

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
    assert [name for name, p in points.items() if p.layout.kind == "map-last"] == ["permute", "first", "second"]


class Tokens(nn.Module):
    """Patches of 16x24 images as tokens, with tokens of its own before them, through two blocks."""

    def __init__(self, extra=0, last=False, patch=4):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.last = nn.Conv2d(3, 8, patch, patch), last
        self.own = nn.Parameter(torch.randn(1, extra, 8))
        self.blocks = nn.Sequential(Last(8), Last(8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.own.expand(x.shape[0], -1, -1), x], 1))
        return self.fc((x.mT * 2).mean(2) if self.last else x[:, 0])


@pytest.mark.parametrize(("extra", "rows"), [(0, 4), (1, 5), (2, 6)])
def test_tokens_cross_as_a_map_bit_for_bit(extra, rows):
    graph = trace(Tokens(extra).eval(), (3, 16, 24))
    points = find_split_points(graph, (3, 16, 24))
    ends = block_ends(points)
    assert [(p.name, p.shape, p.layout.kind) for p in ends] == [
        ("blocks.0", (8, rows, 6), "tokens"), ("blocks", (8, rows, 6), "tokens")]
    images = torch.randn(3, 3, 16, 24)
    for point in ends:
        head, tail = cut(graph, point)
        assert tuple(head(images).shape[1:]) == point.shape
        assert torch.equal(tail(head(images)), graph(images))
        assert head(images)[:, :, extra:].flatten(2).shape[2] == 24


def test_tokens_behind_their_channels():
    graph = trace(Tokens(0, last=True).eval(), (3, 16, 24))
    point = next(p for p in find_split_points(graph, (3, 16, 24)) if p.layout.kind == "tokens-last" and p.node == "mul")
    head, tail = cut(graph, point)
    images = torch.randn(3, 3, 16, 24)
    assert head(images).shape == (3, 8, 4, 6)
    assert torch.equal(tail(head(images)), graph(images))


def test_tokens_without_a_grid_are_not_offered():
    class Odd(Tokens):
        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)[:, :13]
            return self.fc(self.blocks(x).mean(1))

    points = find_split_points(trace(Odd().eval(), (3, 16, 24)), (3, 16, 24))
    assert "blocks" not in {p.name for p in block_ends(points)}
    with pytest.raises(SplitError, match=r"'blocks.0' gives a feature of shape \(13, 8\), which cannot be seen"):
        select_split_points(points, ("blocks.0",))
    with pytest.raises(SplitError, match=r"of the kind asked for: features such as .* of shape \(13, 8\)"):
        select_split_points(points, "blocks")


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


def test_swin_is_cut_with_its_channels_first():
    graph = trace(models.SwinTransformer([4, 4], 8, [1, 1], [2, 4], [4, 4], num_classes=3).eval(), (3, 32, 32))
    points = find_split_points(graph, (3, 32, 32))
    ends = {p.name: p.shape for p in block_ends(points)}
    assert ends["features.1"] == (8, 8, 8)
    assert ends["features"] == (16, 4, 4)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for point in points:
            head, tail = cut(graph, point)
            assert tuple(head(images).shape[1:]) == point.shape
            assert torch.equal(tail(head(images)), graph(images)), point.name
