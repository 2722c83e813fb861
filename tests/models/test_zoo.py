from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.models.costs import stage_cost
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8, resnet18_32, resnet20, resnet56
from tests.tiny import randomise_norms


class TestResnet8:
    def test_is_mlperf_tinys_network(self):
        # Banbury et al. 2021: 12.5 million multiply-accumulates; Keras counts 78,666 parameters
        cost = stage_cost(resnet8(), (3, 32, 32))
        assert cost.macs == pytest.approx(12.5e6, rel=0.005)
        assert cost.depthwise_macs == 0
        folded = sum(m.weight.numel() + m.weight.shape[0] for m in resnet8().modules()
                     if isinstance(m, (nn.Conv2d, nn.Linear)))
        normalised = 240  # channels, of four numbers each in Keras; its shortcuts have no batch norm
        assert folded + 4 * normalised == 78_666

    def test_grey_images(self):
        grey = resnet8(num_classes=7, in_channels=1)
        assert grey(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
        assert grey.stem[0].weight.shape == (16, 1, 3, 3)


@pytest.mark.parametrize(
    ("build", "depth", "parameters"), [(resnet8, 8, 78e3), (resnet20, 20, 0.27e6), (resnet56, 56, 0.85e6)]
)
def test_depth_and_size(build, depth, parameters):
    network = build()
    layers = [m for n, m in network.named_modules()
              if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
    assert len(layers) == depth
    # He et al. 2016, table 6, without the shortcuts' 1x1 convolutions there
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.02)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    network = resnet18_32(num_classes=10)
    randomise_norms(network)
    return trace(network.eval(), (3, 32, 32))


class TestResnet18For32Pixels:
    def test_size(self):
        # the figures of every CIFAR-10 implementation of this network
        assert sum(p.numel() for p in resnet18_32(10).parameters()) == 11_173_962
        assert stage_cost(resnet18_32(10), (3, 32, 32)).macs == pytest.approx(0.556e9, rel=0.002)

    def test_stem_keeps_the_resolution_and_no_pooling_is_left(self, graph):
        points = find_split_points(graph, (3, 32, 32))
        assert "maxpool" not in {name for p in points for name in (p.name, *p.aliases)}
        ends = block_ends(points)
        assert [p.name for p in ends] == ["relu", "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0", "layer3",
                                          "layer4.0", "layer4"]
        assert [p.shape for p in ends[::2]] == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]

    def test_head_then_tail_is_the_backbone_bit_for_bit(self, graph):
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        points = block_ends(find_split_points(graph, (3, 32, 32)))
        with torch.inference_mode():
            expected = graph(images)
            for point in points:
                head, tail = cut(graph, point)
                assert torch.equal(tail(head(images)), expected), point.name

    def test_grey_images(self):
        assert resnet18_32(num_classes=7, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)

    def test_equal_seeds_give_equal_weights(self):
        networks = []
        for _ in range(2):
            torch.manual_seed(3)
            networks.append(resnet18_32().state_dict())
        assert all(torch.equal(t, networks[1][n]) for n, t in networks[0].items())
