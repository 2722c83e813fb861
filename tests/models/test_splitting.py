from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from autosplit.core.errors import SplitError, UnknownNameError
from autosplit.models.splitting import block_ends, cut, find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8
from tests.tiny import randomise_norms

SHAPE = (3, 64, 64)
POINTS = {  # how many cuts each network has at least
    "resnet18": 20, "resnet50": 20, "mobilenet_v2": 40, "vgg11_bn": 25, "efficientnet_b0": 20, "densenet121": 10,
    "convnext_tiny": 20, "regnet_y_400mf": 15,
}

BLOCK_ENDS = {  # the first ones
    "resnet18": ["maxpool", "layer1.0", "layer1", "layer2.0", "layer2"],
    "vgg11_bn": ["features.3", "features.7", "features.10", "features.14", "features.17", "features.21", "features.24",
                 "features"],
    "regnet_y_400mf": ["stem", "trunk_output.block1", "trunk_output.block2"],
}


def build(name):
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, num_classes=5)
    randomise_norms(network)
    return network.eval()


@pytest.mark.parametrize("name", POINTS)
def test_head_then_tail_is_the_backbone_bit_for_bit_at_every_point(name):
    network = build(name)
    graph = trace(network, SHAPE)
    points = find_split_points(graph, SHAPE)
    images = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    with torch.inference_mode():
        expected = network(images)
        assert torch.equal(graph(images), expected)
        assert expected.std() > 0
        for point in points:
            head, tail = cut(graph, point)
            feature = head(images)
            sent = feature.clone()
            assert tuple(feature.shape[1:]) == point.shape, point.name
            assert torch.equal(tail(feature), expected), point.name
            assert torch.equal(feature, sent), f"the tail changed what it was handed at {point.name}"
    assert torch.equal(images, before)
    assert len(points) >= POINTS[name]
    names = [alias for p in points for alias in (p.name, *p.aliases)]
    assert len(names) == len(set(names))
    ends = [p.name for p in block_ends(points)]
    assert len(ends) >= 4
    assert ends[: len(BLOCK_ENDS.get(name, []))] == BLOCK_ENDS.get(name, [])
    assert not any(isinstance(m, nn.ReLU) and m.inplace for m in graph.modules())


class TestPoints:
    @pytest.fixture
    def points(self):
        return find_split_points(trace(resnet8().eval(), (3, 32, 32)), (3, 32, 32))

    def test_block_ends_of_resnet8(self, points):
        ends = block_ends(points)
        assert [p.name for p in ends] == ["stem", "layer1", "layer2", "layer3"]
        assert [p.shape for p in ends] == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]

    def test_no_point_inside_a_shortcut(self, points):
        assert not any("conv2" in p.name or "shortcut" in p.name for p in points)

    def test_alias_finds_its_point(self, points):
        by_alias = select_split_points(points, ("layer2.0.relu2", "layer1"))
        assert [p.name for p in by_alias] == ["layer1", "layer2"]

    def test_all_points(self, points):
        chosen = select_split_points(points, "all")
        assert {p.name for p in chosen} > {p.name for p in select_split_points(points, "blocks")}

    def test_unknown_name_names_the_nearest(self, points):
        with pytest.raises(UnknownNameError, match="unknown split point 'layr2'; did you mean 'layer2'"):
            select_split_points(points, ("layr2",))

    def test_no_block_at_all(self, points):
        with pytest.raises(SplitError, match=r"space\.splits: all"):
            select_split_points([p for p in points if not p.block_end], "blocks")

    def test_cut_of_another_network(self, points):
        graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (3, 32, 32))
        with pytest.raises(SplitError, match="'layer3' is not in this network"):
            cut(graph, select_split_points(points, ("layer3",))[0])


