"""Small int8 networks: every operation that they are made of, alone and in company, at the edges of what it can do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Int8Layer, Requantise
from autosplit.data.base import normalise
from autosplit.models.tracing import trace
from tests.runtime.c.lowered import Case, Shape

__all__ = ["GROUPS", "group", "varies"]

PICTURE = (3, 7, 9)


class Network(nn.Module):
    """A function of an image and of layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def pictures(shape: Shape, seed: int, low: int = 0, high: int = 255) -> torch.Tensor:
    """Noise of two scales."""
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.rand(8, shape[0], h, w, generator=generator) for h, w in (
        shape[1:], (-(-shape[1] // 4), -(-shape[2] // 4))))
    found = (fine + F.interpolate(coarse, shape[1:])) / 2
    return (found * (high - low) + low).round().to(torch.uint8)


def extremes(shape: Shape) -> torch.Tensor:
    """All black, all white, and both side by side."""
    board = torch.arange(shape[0] * shape[1] * shape[2]).view(shape) % 2 * 255
    return torch.stack([torch.zeros(shape), torch.full(shape, 255), board, 255 - board]).to(torch.uint8)


def settled(network: nn.Module, shape: tuple[int, ...], seed: int) -> nn.Module:
    """All sizes known, and batch norms that do something."""
    with torch.no_grad():
        network(torch.zeros(2, *shape))
        generator = torch.Generator().manual_seed(seed)
        for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return network


def case(
    name: str, network: nn.Module, shape: Shape = PICTURE, *, mean: float = 0.5, span: tuple[int, int] = (0, 255),
    symbolic: bool = False, **code: Any,
) -> Case:
    """An int8 network, calibrated on noise within `span`, and images within and beyond it."""
    seed = sum(map(ord, name))
    network = settled(network.eval(), shape, seed)
    given = pictures(shape, seed, *span)
    means, stds = torch.full((shape[0],), mean) + torch.arange(shape[0]) / 97, torch.full((shape[0],), 0.25)
    images = torch.cat([given[:3], pictures(shape, seed + 1)[:3], extremes(shape)])
    batch = normalise(given, means, stds)
    head = quantise_int8(network if symbolic else trace(network, shape), [batch])
    if not code:
        return Case(name, images.numpy(), means, stds, head)
    with torch.no_grad():
        feature = head(batch)
    encoder = settled(code.pop("encoder").eval(), tuple(feature.shape[1:]), seed)
    encoder = quantise_int8(trace(encoder, tuple(feature.shape[1:])), [feature])
    return Case(name, images.numpy(), means, stds, head, encoder, **code)


# --- networks

CONVOLUTIONS: list[tuple[str, Shape, dict[str, Any]]] = [
    # name, image, arguments of nn.Conv2d
    ("3x3", (3, 7, 9), {"out_channels": 8, "kernel_size": 3, "padding": 1}),
    ("1x1", (4, 5, 7), {"out_channels": 5, "kernel_size": 1}),
    ("2x2, stride 2", (5, 7, 9), {"out_channels": 3, "kernel_size": 2, "stride": 2}),
    ("5x5", (1, 13, 3), {"out_channels": 7, "kernel_size": 5, "padding": 2}),
    ("one position of one channel", (1, 1, 1), {"out_channels": 1, "kernel_size": 1}),
    ("5x5 beyond the image", (4, 3, 2), {"out_channels": 4, "kernel_size": 5, "padding": 4, "stride": 3}),
    ("1x7", (4, 1, 11), {"out_channels": 4, "kernel_size": (1, 7), "padding": (0, 3)}),
    ("7x1, unequal strides", (8, 13, 3),
     {"out_channels": 6, "kernel_size": (7, 1), "stride": (2, 1), "padding": (1, 2)}),
    ("stride 3", (7, 11, 8), {"out_channels": 4, "kernel_size": 3, "stride": 3, "padding": 1}),
    ("stride beyond the kernel", (4, 9, 9), {"out_channels": 4, "kernel_size": 1, "stride": 2}),
    ("same, even kernel", (4, 5, 7), {"out_channels": 5, "kernel_size": (2, 4), "padding": "same"}),
    ("same, dilated", (8, 9, 7), {"out_channels": 4, "kernel_size": (3, 2), "padding": "same", "dilation": (2, 3)}),
    ("valid", (13, 4, 4), {"out_channels": 13, "kernel_size": 3, "padding": "valid"}),
    ("dilation 2", (4, 9, 8), {"out_channels": 4, "kernel_size": 3, "padding": 2, "dilation": 2}),
    ("dilation down alone", (8, 9, 8), {"out_channels": 3, "kernel_size": 3, "padding": 1, "dilation": (2, 1)}),
    ("groups, odd channels", (6, 5, 7), {"out_channels": 9, "kernel_size": 3, "padding": 1, "groups": 3}),
    ("groups of one input", (4, 5, 7), {"out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 4}),
    ("groups of three inputs, one output", (9, 5, 4), {"out_channels": 3, "kernel_size": 2, "groups": 3}),
    ("groups of 4 channels", (8, 5, 7), {"out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 2, "stride": 2}),
    ("1x1 groups", (12, 3, 5), {"out_channels": 10, "kernel_size": 1, "groups": 2}),
    ("depthwise", (8, 7, 9), {"out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 8}),
    ("depthwise of 3", (3, 7, 9), {"out_channels": 3, "kernel_size": 3, "padding": 1, "groups": 3, "stride": 2}),
    ("depthwise of 13", (13, 5, 7), {"out_channels": 13, "kernel_size": 5, "padding": 2, "groups": 13}),
    ("depthwise 1x7", (7, 1, 9), {"out_channels": 7, "kernel_size": (1, 7), "padding": (0, 3), "groups": 7}),
    ("depthwise, dilated", (5, 9, 9), {"out_channels": 5, "kernel_size": 3, "padding": 2, "dilation": 2, "groups": 5}),
    ("depthwise, large padding", (6, 3, 2), {"out_channels": 6, "kernel_size": 3, "padding": 3, "groups": 6}),
    ("depthwise 2x2", (4, 6, 6), {"out_channels": 4, "kernel_size": 2, "stride": 2, "groups": 4}),
    ("depthwise beyond the image", (13, 3, 2), {"out_channels": 13, "kernel_size": 5, "padding": 6, "groups": 13}),
    ("depthwise 3x3 of 13", (13, 6, 7), {"out_channels": 13, "kernel_size": 3, "padding": 1, "groups": 13}),
    ("depthwise 1x3", (9, 4, 6), {"out_channels": 9, "kernel_size": (1, 3), "padding": (0, 1), "groups": 9}),
    ("depthwise of one pixel", (5, 1, 1), {"out_channels": 5, "kernel_size": 3, "padding": 1, "groups": 5}),
    ("depthwise 4x5, unequal strides", (6, 9, 8),
     {"out_channels": 6, "kernel_size": (4, 5), "stride": (1, 2), "padding": (3, 2), "groups": 6}),
    ("depthwise 5x5, stride 3", (8, 7, 9),
     {"out_channels": 8, "kernel_size": 5, "stride": 3, "padding": 2, "groups": 8}),
    ("depthwise, same", (7, 5, 6), {"out_channels": 7, "kernel_size": (3, 4), "padding": "same", "groups": 7}),
    ("depthwise 5x3 beyond the image", (11, 2, 3),
     {"out_channels": 11, "kernel_size": (5, 3), "padding": (5, 4), "groups": 11}),
    # rows of windows that end within words, at the border and inside
    ("3x3 of 6", (6, 7, 9), {"out_channels": 5, "kernel_size": 3, "padding": 1}),
    ("3x3 of 7, stride 2", (7, 9, 11), {"out_channels": 6, "kernel_size": 3, "padding": 1, "stride": 2}),
    ("5x5 of 3", (3, 9, 10), {"out_channels": 4, "kernel_size": 5, "padding": 2}),
    ("5x5 of 1", (1, 9, 9), {"out_channels": 4, "kernel_size": 5, "padding": 1}),
    ("3x3 of 1", (1, 7, 9), {"out_channels": 3, "kernel_size": 3, "padding": 1}),
    ("3x1 of 1", (1, 9, 5), {"out_channels": 3, "kernel_size": (3, 1)}),
    ("4x4 of 1", (1, 8, 9), {"out_channels": 2, "kernel_size": 4, "padding": (1, 2)}),
    ("1x3 of 3", (3, 5, 8), {"out_channels": 3, "kernel_size": (1, 3)}),
    ("7x1 of 5", (5, 9, 7), {"out_channels": 4, "kernel_size": (7, 1), "padding": (2, 0)}),
    ("1x1 of 6", (6, 5, 7), {"out_channels": 5, "kernel_size": 1}),
    ("1x1 of 3", (3, 5, 7), {"out_channels": 4, "kernel_size": 1}),
    ("1x1 of 13, stride 2", (13, 6, 9), {"out_channels": 3, "kernel_size": 1, "stride": 2}),
    ("2x2 of 7", (7, 6, 7), {"out_channels": 4, "kernel_size": 2, "padding": 1}),
    ("4x3 of 10, unequal strides", (10, 9, 8),
     {"out_channels": 5, "kernel_size": (4, 3), "stride": (1, 2), "padding": (2, 1)}),
    ("6 channels, smaller than the kernel", (6, 2, 3), {"out_channels": 4, "kernel_size": 5, "padding": 2}),
    ("7 channels, as large as the kernel", (7, 3, 3), {"out_channels": 4, "kernel_size": 3, "padding": 1}),
    ("one column of positions", (5, 9, 3), {"out_channels": 4, "kernel_size": 3}),
    ("two columns of positions", (6, 8, 4), {"out_channels": 4, "kernel_size": 3}),
    ("four columns of positions", (9, 5, 5), {"out_channels": 5, "kernel_size": 2}),
]


def varies(answers: np.ndarray[Any, Any]) -> bool:
    """Whether images have different answers."""
    return len(np.unique(answers, axis=0)) > 2


def convolutions() -> Iterator[Case]:
    """Each with its levels read by another layer."""
    for number, (name, shape, arguments) in enumerate(CONVOLUTIONS):
        torch.manual_seed(number)
        layer = nn.Conv2d(shape[0], **arguments)
        with torch.no_grad():
            side = tuple(layer(torch.zeros(1, *shape)).shape[2:])
        activation: nn.Module = [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.2, 0.3)][number % 4]
        last = nn.Conv2d(arguments["out_channels"], 2, side)
        yield case(name, nn.Sequential(layer, activation, last, nn.Flatten()), shape, mean=(0.5, 0.0, 1.1)[number % 3])


def random_convolutions(count: int) -> Iterator[Case]:
    """Two of any kind one after the other."""
    made = 0
    for seed in range(10 * count):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        channels = int(rng.choice([1, 3, 4, 5, 7, 8, 13]))
        shape = (channels, int(rng.integers(1, 14)), int(rng.integers(1, 12)))
        layers: list[nn.Module] = []
        given = torch.zeros(1, *shape)
        for _ in range(2):
            inputs = given.shape[1]
            groups = int(rng.choice([g for g in (1, 1, 2, 3, 4, 5, 7, 8, 13) if inputs % g == 0]))
            outputs = groups * int(rng.integers(1, 1 + max(1, 9 // groups)))
            if groups == inputs and rng.random() < 0.6:
                outputs = inputs
            kernel = tuple(int(k) for k in rng.choice([1, 2, 3, 3, 5], 2))
            dilation = tuple(int(d) for d in rng.choice([1, 1, 1, 2], 2))
            padding: Any = tuple(int(p) for p in rng.integers(0, 4, 2))
            stride = tuple(int(s) for s in rng.choice([1, 1, 2, 3], 2))
            reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
            padding = tuple(max(p, -(-(r - s) // 2)) for p, r, s in zip(padding, reach, given.shape[2:], strict=True))
            if rng.random() < 0.2:
                padding, stride = "same", 1
            bias = bool(rng.integers(2))
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias))
            layers.append([nn.Identity(), nn.ReLU(), nn.BatchNorm2d(outputs), nn.Hardswish()][int(rng.integers(4))])
            with torch.no_grad():
                given = layers[-2](given)
        span = ((0, 255), (0, 255), (100, 140), (0, 30), (230, 255))[int(rng.integers(5))]
        network = nn.Sequential(*layers, nn.Flatten(), linear(int(rng.integers(2, 6))))
        found = case(f"random {seed}", network, shape, mean=float(rng.choice([0.0, 0.5, 1.1])), span=span)
        if varies(found.torch):  # else its activations are all zero, whatever comes in
            yield found
            made += 1
        if made == count:
            return


def conv(inputs: int = 3, outputs: int = 4, kernel: Any = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **more)


def linear(outputs: int = 3) -> nn.Module:
    """For as many inputs as there are."""
    return nn.LazyLinear(outputs)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class Viewed(nn.Module):
    """Ends with levels: a value whose size is asked for is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv(), nn.AdaptiveAvgPool2d((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv(x))
        return x.reshape(x.size(0), -1)


class ClampedLevels(nn.Module):
    """Limits that lie between two levels, and another clamp before the rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.last = conv(), nn.MaxPool2d(2), conv(4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.hardtanh(self.pool(self.conv(x)), -0.1, 0.273))
        return self.last(x).mean((2, 3))


# name, network (made anew each time), image where it is another one than `PICTURE`
OPERATORS: list[tuple[Any, ...]] = [
    ("residual", lambda: Network(lambda x, a, b, c: pooled(c(a(x) + b(x))), conv(), conv(), conv(4))),
    ("residual, relu", lambda: Network(lambda x, a, b, c: pooled(c(F.relu(a(x) + b(x)))), conv(), conv(), conv(4))),
    ("residual, relu6", lambda: Network(lambda x, a, b, c: pooled(c(F.relu6(a(x) * 9 + b(x)))), conv(), conv(),
                                        conv(4))),
    ("difference", lambda: Network(lambda x, a, b, c: pooled(c(a(x) - b(x))), conv(), conv(), conv(4))),
    ("the image added", lambda: Network(lambda x, a, b: pooled(b(x + a(x))), conv(3, 3, padding=1), conv())),
    ("twice and squared", lambda: Network(lambda x, a, b: pooled(b((lambda y: y + y * y)(a(x)))), conv(), conv(4))),
    ("product", lambda: Network(lambda x, a, b, c: pooled(c(a(x) * torch.sigmoid(b(x)))), conv(), conv(), conv(4))),
    ("squeeze and excitation", lambda: Network(
        lambda x, a, b, c, d: (lambda y: pooled(d(y * torch.sigmoid(c(F.relu(b(F.adaptive_avg_pool2d(y, 1))))))))(a(x)),
        conv(3, 8), conv(8, 3, 1), conv(3, 8, 1), conv(8))),
    ("squeeze and excitation, the other way round", lambda: Network(
        lambda x, a, b, c: (lambda y: pooled(c(F.hardsigmoid(b(F.adaptive_avg_pool2d(y, 1))) * y)))(a(x)),
        conv(3, 5), conv(5, 5, 1), conv(5))),
    ("one channel of two positions times a number", lambda: Network(
        lambda x, a, b, c: (lambda y: c(y * torch.sigmoid(b(F.adaptive_avg_pool2d(y, 1))) + y).flatten(1))(a(x)),
        conv(3, 1, 1), conv(1, 1, 1), conv(1, 2, (1, 2))), (3, 1, 2)),
    ("joined", lambda: Network(lambda x, a, b, c: pooled(c(torch.cat([a(x), F.relu(b(x)), a(x)], 1))), conv(),
                               conv(3, 5), conv(13))),
    ("joined, relu", lambda: Network(lambda x, a, b, c: pooled(c(F.relu(torch.cat([a(x), b(x)], 1)))), conv(),
                                     conv(3, 1), conv(5))),
    ("joined vectors", lambda: Network(lambda x, a, b, c: c(torch.cat([pooled(a(x)), pooled(b(x))], -1)), conv(),
                                       conv(3, 3), nn.Linear(7, 4))),
    ("max pool", lambda: nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1), conv(4, 3, 2), nn.Flatten(), linear()),
     (3, 10, 12)),
    ("max pool, ceil mode", lambda: nn.Sequential(conv(), nn.MaxPool2d((2, 3), 2, (1, 1), ceil_mode=True), nn.Flatten(),
                                                  linear())),
    ("max pool, adaptive", lambda: nn.Sequential(conv(), nn.AdaptiveMaxPool2d((3, 4)), nn.Flatten(), linear())),
    ("max pool of negative values", lambda: nn.Sequential(conv(), nn.Hardtanh(-2.0, -0.1), nn.MaxPool2d(3, 2, 1),
                                                          nn.Flatten(), linear())),
    ("average pool", lambda: nn.Sequential(conv(), nn.AvgPool2d(2), conv(4, 3, 2), nn.Flatten(), linear())),
    ("average pool with padding", lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), linear())),
    ("average pool without padding", lambda: nn.Sequential(
        conv(), nn.AvgPool2d((3, 2), (2, 1), (1, 1), count_include_pad=False), nn.Flatten(), linear())),
    ("average pool, ceil mode", lambda: nn.Sequential(
        conv(), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Flatten(), linear()), (3, 8, 10)),
    ("average pool, ceil mode without padding", lambda: nn.Sequential(
        conv(), nn.AvgPool2d(3, 3, 1, ceil_mode=True, count_include_pad=False), nn.Flatten(), linear()), (3, 8, 10)),
    ("average pool, own divisor", lambda: nn.Sequential(
        conv(), nn.AvgPool2d(3, 2, 1, divisor_override=5), nn.Flatten(), linear())),
    ("average pool, relu", lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 1), nn.ReLU(), conv(4, 3, 3), nn.Flatten()),
     (3, 7, 7)),
    ("average pool, adaptive", lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), linear())),
    ("average pools of the image", lambda: nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2, 1), conv(3, 4, 2),
                                                         nn.Flatten(), linear())),
    ("global average", lambda: nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()),
     (3, 13, 11)),
    ("global average at the end", lambda: nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
     (3, 13, 11)),
    ("mean at the end", lambda: Network(lambda x, a: pooled(F.hardswish(a(x))), conv(3, 5))),
    ("linear layers", lambda: nn.Sequential(conv(3, 5), nn.Flatten(), nn.Linear(175, 7), nn.ReLU(), nn.Linear(7, 6),
                                            nn.Hardswish(), nn.Linear(6, 3))),
    ("a wide linear layer", lambda: nn.Sequential(nn.Flatten(), nn.Linear(819, 9), nn.ReLU(), nn.Linear(9, 3)),
     (13, 7, 9)),
    ("linear on one channel of the map", lambda: Network(lambda x, a, b: b(a(x)[:, 1:3].flatten(1)), conv(),
                                                         nn.Linear(70, 3))),
    ("groups at the end", lambda: nn.Sequential(conv(3, 6), conv(6, 9, (5, 7), groups=3), nn.Flatten())),
    ("batch norm of a linear layer", lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(189, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3))),
    ("batch norm by itself", lambda: nn.Sequential(nn.BatchNorm2d(3), conv(), nn.ReLU(), nn.BatchNorm2d(4),
                                                   conv(4, 3, 2), nn.Flatten(), linear())),
    ("batch norm of a sum", lambda: Network(lambda x, a, b, n, c: pooled(c(F.relu(n(a(x) + b(x))))), conv(), conv(),
                                            nn.BatchNorm2d(4), conv(4))),
    *[(f"table: {type(f).__name__}", lambda f=f: nn.Sequential(conv(), f, conv(4, 3, 2), nn.Flatten(), linear()))
      for f in (nn.Hardswish(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Mish(),
                nn.Softplus(), nn.Hardsigmoid(), nn.Tanh())],
    ("table and relu", lambda: nn.Sequential(conv(), nn.SiLU(), nn.ReLU(), conv(4, 3, 2), nn.Flatten(), linear())),
    ("own slopes", lambda: nn.Sequential(conv(), nn.PReLU(4, 0.2), conv(4, 3, 2), nn.Flatten(), linear())),
    ("absolute values", lambda: Network(lambda x, a, b: pooled(b(a(x).abs())), conv(), conv(4))),
    *[(f"clamp: {f}", lambda f=f: nn.Sequential(conv(), f, conv(4, 3, 2), nn.Flatten(), linear()))
      for f in (nn.ReLU6(), nn.Hardtanh(-0.3, 0.2), nn.Sequential(nn.ReLU6(), nn.ReLU()),
                nn.Sequential(nn.ReLU(), nn.Hardtanh(-1.0, 0.4)))],
    ("clamp of levels", lambda: nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU6(), nn.MaxPool2d(2, 1), nn.ReLU(),
                                              nn.Flatten(), linear())),
    ("clamp of levels twice", ClampedLevels),
    ("constants", lambda: Network(lambda x, a, b: pooled(b(1 - a(x) / 3 + 0.25)), conv(), conv(4))),
    ("hardswish by hand", lambda: Network(lambda x, a, b: pooled(b((lambda y: y * F.relu6(y + 3) / 6)(a(x)))), conv(),
                                          conv(4))),
    ("chunk", lambda: Network(lambda x, a, b: pooled(b(torch.cat(a(x).chunk(2, 1)[::-1], 1))), conv(3, 6), conv(6))),
    ("gated halves", lambda: Network(
        lambda x, a, b: (lambda y: pooled(b(y[0] * torch.sigmoid(y[1]))))(a(x).chunk(2, 1)), conv(3, 6), conv(3))),
    ("channel shuffle", lambda: nn.Sequential(conv(3, 6), nn.ChannelShuffle(3), conv(6, 4, 3, groups=2),
                                              nn.Flatten(), linear())),
    ("shuffle by hand", lambda: Network(
        lambda x, a, b: pooled(b(a(x).reshape(-1, 2, 3, 5, 7).transpose(1, 2).reshape(-1, 6, 5, 7))), conv(3, 6),
        conv(6, 4, groups=2))),
    ("slices", lambda: Network(lambda x, a, b: pooled(b(a(x)[:, 1:, ::2, 1:-1])), conv(3, 6), conv(5))),
    ("zero padding", lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), conv(), nn.ZeroPad2d((0, 1, 2, 0)),
                                           conv(4, 3, 2), nn.Flatten(), linear())),
    ("padding as a function", lambda: Network(lambda x, a, b: pooled(b(F.pad(a(x), (1, -1, 2, 0)))), conv(), conv(4))),
    ("reflected and repeated", lambda: nn.Sequential(conv(), nn.ReflectionPad2d(1), nn.ReplicationPad2d((0, 2, 1, 0)),
                                                     conv(4, 2, 2), nn.Flatten(), linear())),
    ("pixel shuffle", lambda: nn.Sequential(conv(3, 8), nn.PixelShuffle(2), conv(2, 3), nn.PixelUnshuffle(2), conv(12),
                                            nn.Flatten(), linear())),
    ("nearest neighbours", lambda: nn.Sequential(conv(), nn.UpsamplingNearest2d(scale_factor=2), conv(4, 2),
                                                 nn.Flatten(), linear())),
    ("turned and rolled", lambda: Network(lambda x, a, b: pooled(b(a(x).transpose(2, 3).roll(1, 2))), conv(), conv(4))),
    ("identities", lambda: nn.Sequential(conv(), nn.Dropout2d(), StochasticDepth(0.5, "row"), nn.Identity(),
                                         conv(4, 3, 2), nn.Dropout(), nn.Flatten(), linear())),
    ("a grey image of one row", lambda: nn.Sequential(conv(1, 4, (1, 3)), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Flatten(),
                                                      linear()), (1, 1, 13)),
]


def operators() -> Iterator[Case]:
    """One for each entry, calibrated as its images are."""
    for number, (name, network, *shape) in enumerate(OPERATORS):
        torch.manual_seed(number)
        yield case(name, network(), *shape)
    yield case("levels at the end", Viewed(), symbolic=True)


def saturated() -> Iterator[Case]:
    """Calibrated on a narrow range, as a bright or dark scene gives it; zeros at both ends of the levels."""
    for mean in (0.0, 0.5, 1.1):
        for span in ((120, 135), (0, 12), (243, 255)):
            torch.manual_seed(span[0])
            network = Network(
                lambda x, a, b, c, d: F.avg_pool2d(F.hardswish(d(torch.cat([a(x) + b(x), a(x) * c(x)], 1))), 3, 2, 1),
                conv(), conv(), conv(), conv(8, 5, 3, padding=1))
            network = nn.Sequential(network, nn.Flatten(), linear())
            yield case(f"calibrated on {span}, mean {mean}", network, mean=mean, span=span)
    torch.manual_seed(0)
    yield case("the largest sums", Ones(), (7, 10, 20))
    for groups in (1, 4):
        # of large values only the differences matter: a level is less than four sums wide
        steep = nn.Conv2d(4, 4, 1, groups=groups)
        with torch.no_grad():
            weights = [1.0, -0.7, 0.9, 0.2] if groups == 4 else [
                1.0, 0.0, 0.0, 0.0, 0.0, -0.7, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.4, -0.4]
            steep.weight.copy_(torch.tensor(weights).view(steep.weight.shape))
            steep.bias.copy_(-2 * steep.weight.flatten(1).sum(1))
        yield case(f"steep, {groups} groups", nn.Sequential(steep, nn.ReLU6(), conv(4, 3), nn.Flatten(), linear()),
                   (4, 7, 9), mean=0.0, span=(125, 131))


def with_powers_of_two(found: Case, parameters: dict[str, tuple[float, int]]) -> Case:
    """The same with scales and zeros set by hand, by name of what they round, such that many values are exact ties.

    Of the encoder where there is one, else of the whole network.
    """
    graph = found.encoder or found.head
    assert isinstance(graph, fx.GraphModule)
    modules = dict(graph.named_modules())
    for name, (scale, zero) in parameters.items():
        rounding = modules[f"{name}_grid"]
        assert isinstance(rounding, Requantise)
        rounding.scale.fill_(scale)
        rounding.zero.fill_(zero)
    for node in graph.graph.nodes:
        layer = modules.get(str(node.target))
        if isinstance(layer, Int8Layer):
            source = node.all_input_nodes[0]
            while not isinstance(modules.get(str(source.target)), Requantise):
                source = source.all_input_nodes[0]
            layer.in_scale.copy_(modules[str(source.target)].scale)
            layer.scale.fill_(2.0**-7)
            layer.bias.zero_()
    return found


def ties() -> Iterator[Case]:
    """Half way between two levels the even one is right: what steps of equal width do not give has to be listed.

    With weights of 127 and levels that are 254 sums wide every other sum is such a tie.
    """
    unit = 2.0**-6
    for groups in (1, 4):
        found = case(f"ties of sums, {groups} groups", nn.Sequential(
            conv(4, 4, 1, groups=groups), conv(4, 3), nn.Flatten(), linear()), (4, 6, 8), mean=0.0)
        first = found.head.get_submodule("_0")
        weight = 127 * torch.tensor([1, -1, 1, 1])
        first.weight.copy_((weight if groups == 4 else torch.diag(weight)).view(first.weight.shape))
        yield with_powers_of_two(found, {"x": (unit, 0), "_0": (254 * unit / 128, 90)})
    network = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d((1, 2), 1), conv(3, 3, 1), nn.Flatten(), linear())
    yield with_powers_of_two(case("ties of means", network, (3, 6, 8), mean=0.0), {
        "x": (unit, 10), "float_1": (unit, 3), "float_2": (unit * 2, 77), "_2": (unit, 100)})
    network = nn.Sequential(nn.AdaptiveMaxPool2d((4, 4)), conv(3, 3, 1), nn.Flatten(), linear())
    yield with_powers_of_two(case("another zero", network), {"x": (unit, 120), "_0": (unit, 90), "_1": (4 * unit, 128)})
    for kind in ("add", "sub", "mul"):
        function = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}[kind]
        two = Network(lambda x, c, f=function: c(f(F.max_pool2d(x, 1), x.roll(1, 3))).flatten(1), conv(4, 3, (6, 8)))
        yield with_powers_of_two(case(f"ties of {kind}", two, (4, 6, 8), mean=0.0), {
            "x": (unit, 37), kind: (unit**2 * 128 if kind == "mul" else unit * 64, 127)})
        if kind != "mul":  # ties of a step that no float32 is: what has to be listed lies beside a level's begin
            yield with_powers_of_two(case(f"near ties of {kind}", two, (4, 6, 8), mean=0.0), {
                "x": (unit, 37), kind: (unit * 46 / 7, 127)})


class Ones(nn.Module):
    """The largest sums that there are, at a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(1400, 5), nn.Linear(5, 3)
        nn.init.ones_(self.wide.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(x.flatten(1)))


def bounds() -> Iterator[Case]:
    """Clamps whose limits are levels in the middle, after each operation that rounds: low ones, high ones and both."""
    kinds: dict[str, Callable[..., Tensor]] = {
        "convolution": lambda x, a, b, d: a(x), "depthwise convolution": lambda x, a, b, d: d(x),
        "sum": lambda x, a, b, d: a(x) + b(x), "product": lambda x, a, b, d: a(x) * b(x),
        "mean": lambda x, a, b, d: F.avg_pool2d(a(x), 2), "join": lambda x, a, b, d: torch.cat([a(x), b(x)], 1),
        "table": lambda x, a, b, d: a(x) / 2,
    }
    for name, function in kinds.items():
        for limits in ((-99.0, 0.5), (0.25, 99.0), (0.25, 0.5)):
            torch.manual_seed(len(name))
            clamped = Network(lambda x, *layers, f=function, ends=limits: F.hardtanh(f(x, *layers), *ends),
                              conv(4, 4), conv(4, 4), conv(4, 4, groups=4))
            found = case(f"{name} within {limits}", nn.Sequential(clamped, nn.Flatten(), linear()), (4, 6, 7))
            yield with_powers_of_two(found, {"hardtanh": (2.0**-6, 100)})


class Patches(nn.Module):
    """As the codecs' encoders are."""

    def __init__(
        self, width: int, patch: int, groups: int = 1, *more: nn.Module, pool: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.pad, self.pool = nn.ZeroPad2d((0, 1, 0, 1)), pool or nn.Identity()
        self.conv = nn.Conv2d(6, width, patch, patch, groups=groups, bias=False)
        self.norm, self.more = nn.BatchNorm2d(width, affine=False), nn.Sequential(*more)

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.norm(self.pool(self.conv(self.pad(x)))))


def codes() -> Iterator[Case]:
    """Heads of any kind with an encoder behind: symbols of 1 to 8 bits, with one limit or one for each channel."""
    for bits in range(1, 9):
        torch.manual_seed(bits)
        width = (4, 3, 5, 8)[bits % 4]
        head = nn.Sequential(conv(3, 6), nn.ReLU()) if bits % 2 else Network(
            lambda x, a, b: F.relu(a(x) + b(x)), conv(3, 6), conv(3, 6))
        limit = torch.tensor(0.9) if bits % 3 == 0 else torch.linspace(0.5, 2.5, width).view(width, 1, 1)
        yield case(f"code of {bits} bits", head, (3, 9, 11), encoder=Patches(width, 2), bits=bits, limit=limit)
    head = nn.Sequential(conv(3, 6, 1), nn.Hardswish())
    yield case("code of a depthwise layer", head, (3, 5, 7), encoder=Patches(6, 3, 6), bits=4, limit=torch.tensor(1.5))
    yield case("code of groups", nn.Sequential(conv(3, 6, 1)), (3, 5, 7), encoder=Patches(4, 2, 2), bits=8,
               limit=torch.linspace(1, 2, 4).view(4, 1, 1))
    for bits in (3, 8):
        yield case(f"code of a relu, {bits} bits", nn.Sequential(conv(3, 6, 1)), (3, 5, 7),
                   encoder=Patches(5, 2, 1, nn.ReLU()), bits=bits, limit=torch.linspace(1, 2, 5).view(5, 1, 1))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(210, 12), nn.ReLU(), nn.Linear(12, 9), nn.Unflatten(1, (9, 1, 1)))
    yield case("code of a vector", nn.Sequential(conv(3, 6, 1)), (3, 5, 7), encoder=encoder, bits=5,
               limit=torch.tensor(0.7))
    for name, head, shape in (
        ("code of a max pool", nn.Sequential(conv(3, 6), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (3, 11, 13)),
        ("code of a max pool and clamps", nn.Sequential(conv(3, 6), nn.Hardtanh(-0.4, 0.8), nn.MaxPool2d(2),
                                                        nn.ReLU()), (3, 12, 14)),
        ("code of moves and clamps", nn.Sequential(conv(3, 6), nn.Hardtanh(-0.4, 0.3), nn.ChannelShuffle(2),
                                                   nn.Hardtanh(-0.6, 0.2), nn.ChannelShuffle(3)), (3, 9, 11)),
        ("code of a shuffle", nn.Sequential(conv(3, 6), nn.ReLU(), nn.ChannelShuffle(2)), (3, 9, 11)),
        ("code of a shuffle by hand", Network(
            lambda x, a, b: torch.cat([a(x), F.relu(b(x))], 1).reshape(-1, 2, 3, 7, 9).transpose(1, 2).reshape(
                -1, 6, 7, 9), conv(3, 2), conv(3, 4)), (3, 9, 11)),
        ("code of a padding, a shuffle and a max pool", Network(
            lambda x, a: F.max_pool2d(F.pad(a(x), (0, 1, 1, 0)).roll(2, 1), 2, 1).clamp(-0.3, 0.6).transpose(2, 3),
            conv(3, 6)), (3, 6, 9)),
        ("code of a padding", nn.Sequential(conv(3, 6), nn.ZeroPad2d((1, 0, 2, 1)), nn.Hardtanh(0.05, 0.4)),
         (3, 6, 9)),
        ("code of joined features", Network(lambda x, a, b: F.max_pool2d(F.relu(torch.cat([a(x), b(x)], 1)), 2),
                                            conv(3, 2), conv(3, 4)), (3, 12, 14)),
        ("code of a sum", Network(lambda x, a, b: F.pixel_shuffle(F.relu(a(x) + b(x)), 2), conv(3, 24), conv(3, 24)),
         (3, 6, 8)),
    ):
        coded = case(name, head, shape, encoder=Patches(4, 2), bits=6, limit=torch.linspace(0.7, 2, 4).view(4, 1, 1))
        # such that limits of clamps lie in the middle of the levels
        yield with_powers_of_two(coded, {"x": (2.0**-6, 100)}) if "clamps" in name or "padding" in name else coded
    for number, (bits, pool) in enumerate([
            (1, nn.AdaptiveAvgPool2d((2, 3))), (2, nn.AdaptiveAvgPool2d(1)), (3, nn.AdaptiveAvgPool2d((2, 3))),
            (4, nn.AvgPool2d(2)), (5, nn.AvgPool2d((2, 3), 1)), (8, nn.AdaptiveAvgPool2d((3, 2)))]):
        torch.manual_seed(number)
        limit = torch.tensor(0.4) if number % 2 else torch.linspace(0.1, 0.9, 5).view(5, 1, 1)
        yield case(f"code of a pool, {bits} bits", nn.Sequential(conv(3, 6), nn.ReLU()), (3, 11, 13),
                   encoder=Patches(5, 2, pool=pool), bits=bits, limit=limit)
    yield case("code of a hardswish", nn.Sequential(conv(3, 6), nn.Hardswish()), (3, 7, 9), encoder=Patches(4, 3),
               bits=8, limit=torch.tensor(1.5))


GROUPS: dict[str, Callable[[], Iterable[Case]]] = {
    "convolutions": lambda: [*convolutions(), *random_convolutions(32)], "operators": operators,
    "edges": lambda: [*ties(), *bounds(), *saturated()], "codes": codes,
}


@functools.cache
def group(name: str) -> list[Case]:
    return list(GROUPS[name]())
