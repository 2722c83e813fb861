"""The networks of MLPerf Tiny (Banbury et al. 2021) that published latencies are held against."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from autosplit.core.measurement import StageCost
from autosplit.models.costs import stage_cost
from autosplit.models.zoo import resnet8

_VWW_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def mobilenet_v1_quarter() -> nn.Sequential:
    """MobileNetV1 (Howard et al. 2017) of width 0.25 with two classes: Visual Wake Words, 96x96 RGB."""
    layers, channels = [_conv(3, 8, 3, 2)], 8
    for outputs, stride in _VWW_STAGES:
        layers += [_conv(channels, channels, 3, stride, channels), _conv(channels, outputs // 4, 1)]
        channels = outputs // 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


def ds_cnn() -> nn.Sequential:
    """DS-CNN of keyword spotting: 49 frames of 10 MFCCs, 12 classes."""
    blocks = [m for _ in range(4) for m in (_conv(64, 64, 3, groups=64), _conv(64, 64, 1))]
    stem = nn.Sequential(nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, 64, (10, 4), 2, bias=False), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def autoencoder() -> nn.Sequential:
    """The fully connected autoencoder of anomaly detection, 640 inputs."""
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    return nn.Sequential(*(m for i, o in pairwise(widths) for m in (nn.Linear(i, o), nn.ReLU())))


def published_costs() -> dict[str, StageCost]:
    """Counted work of MLPerf Tiny's four networks."""
    return {
        "resnet8": stage_cost(resnet8(), (3, 32, 32)),
        "vww": stage_cost(mobilenet_v1_quarter(), (3, 96, 96)),
        "kws": stage_cost(ds_cnn(), (1, 49, 10)),
        "ad": stage_cost(autoencoder(), (640,)),
    }
