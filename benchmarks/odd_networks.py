"""Networks with what users write in them, for `benchmarks.networks`: factories `(num_classes, in_channels)`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

__all__ = ["attention", "channel_shuffle", "dictionary", "functional_tutorial", "in_place", "inception", "multiplier",
           "shared_weights", "wrapped"]


def _conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


class _Trunk(nn.Module):
    """Four stages with something between the second and the third."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.two = _conv(in_channels, 16, 2), _conv(16, 32, 2)
        self.three, self.four = _conv(32, 32), _conv(32, 48, 2)
        self.fc = nn.Linear(48, num_classes)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Any:
        x = self.four(self.three(self.between(self.two(self.one(x)))))
        return self.fc(x.mean((2, 3)))


class _Attention(_Trunk):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.qkv, self.out = nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1)

    def between(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, c, h * w).unbind(1)
        scores = torch.einsum("bci,bcj->bij", q, k) / c**0.5
        return x + self.out(torch.einsum("bij,bcj->bci", scores.softmax(-1), v).view(b, c, h, w))


class _Shuffle(_Trunk):
    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        return x.view(n, 4, c // 4, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class _InPlace(_Trunk):
    def between(self, x: Tensor) -> Tensor:
        x[:, :4] *= 0.5
        y = self.three(x)
        y += x
        return y.clamp_(0, 6)


class _Dictionary(_Trunk):
    def forward(self, x: Tensor, return_features: bool = False) -> Any:  # noqa: ARG002
        assert x.dim() == 4, "images (N, C, H, W)"
        return {"logits": super().forward(x)}


class _Multiplier(_Trunk):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.wide, self.narrow = _conv(32, 64, groups=32), _conv(64, 32)

    def between(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x))


class _Inception(_Trunk):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.branches = nn.ModuleList([_conv(32, 8), nn.Sequential(_conv(32, 8), _conv(8, 16)),
                                       nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(32, 8))])

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class _Shared(_Trunk):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.again = _conv(32, 32)
        self.again[0].weight = self.three[0].weight

    def between(self, x: Tensor) -> Tensor:
        return self.again(self.three(x))


class _Tutorial(nn.Module):
    """LeNet as tutorials have it: functions instead of layers, and a size that is written down."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(in_channels, 8, 5), nn.Conv2d(8, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 13 * 13, 64), nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.dropout(F.relu(self.fc1(x.view(x.size(0), -1))), 0.2, self.training)
        return self.fc2(x)


class _Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x - self.mean)
        return logits


attention, channel_shuffle, dictionary, in_place = _Attention, _Shuffle, _Dictionary, _InPlace
inception, multiplier, shared_weights, functional_tutorial = _Inception, _Multiplier, _Shared, _Tutorial


def wrapped(num_classes: int) -> nn.Module:
    """A network of torchvision behind a normalisation."""
    return _Wrapped(models.resnet18(num_classes=num_classes))
