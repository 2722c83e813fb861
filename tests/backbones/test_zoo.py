from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.backbones.zoo import resnet8, resnet20, resnet56
from autosplit.evaluation.cost import stage_cost


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
