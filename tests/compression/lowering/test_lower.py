"""Which networks become programs, of which operations; and what is refused, in one line that tells what to do."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Requantise
from autosplit.compression.lowering import Lowering, Program
from autosplit.compression.lowering.operations import (
    Average,
    Channels,
    Convolution,
    Decision,
    Gather,
    Join,
    Maximum,
    Pixels,
    Product,
    Readout,
    Sum,
    Symbols,
    Table,
)
from autosplit.core.errors import ConfigError
from autosplit.models.costs import stage_cost
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8

SHAPE = (3, 7, 9)
REMEDY = "; leave --target c away, or choose a split point before it"


class Network(nn.Module):
    """A function of an image and of layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


class Shifted(nn.Module):
    """Adds a constant of its own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1] * shape[2]).view(1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def conv(inputs: int = 3, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def quantised(network: nn.Module, shape: tuple[int, ...] = SHAPE, symbolic: bool = False) -> nn.Module:
    torch.manual_seed(0)
    network = network.eval()
    return quantise_int8(network if symbolic else trace(network, shape), [torch.randn(8, *shape)])


def lower(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> Program:
    lowering = Lowering(shape)  # type: ignore[arg-type]
    image = lowering.image([0.5] * shape[0], [0.25] * shape[0])
    lowering.logits(lowering.network(network, image, shape))
    return lowering.program


def kinds(program: Program) -> list[str]:
    return [type(operation).__name__ for operation in program.operations]


# --- what is refused

REFUSED: dict[str, tuple[nn.Module, str]] = {
    "softmax": (Network(lambda x, a, b: pooled(b(a(x).softmax(1))), conv(), conv(4)),
                "operation 'softmax' (softmax) cannot be written as C"),
    "product of matrices": (Network(lambda x, a, b: b(a(x).flatten(2) @ a(x).flatten(2).transpose(1, 2)).mean(1),
                                    conv(), nn.Linear(4, 3)), "operation 'matmul' (matmul) cannot"),
    "layer norm": (Network(lambda x, a, n, b: pooled(b(n(a(x)))), conv(), nn.LayerNorm([4, 5, 7]), conv(4)),
                   "operation 'layers_1' (LayerNorm) cannot"),
    "group norm": (Network(lambda x, a, n, b: pooled(b(n(a(x)))), conv(), nn.GroupNorm(2, 4), conv(4)), "(GroupNorm)"),
    "transposed": (Network(lambda x, a, b: pooled(b(a(x))), nn.ConvTranspose2d(3, 4, 2, 2), conv(4)),
                   "(ConvTranspose2d)"),
    "reflected padding": (Network(lambda x, a, b: pooled(b(a(x))), conv(),
                                  nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "'layers_1' (Conv2d)"),
    "bilinear": (Network(lambda x, a, b: pooled(b(F.interpolate(a(x), scale_factor=2.0, mode="bilinear"))), conv(),
                         conv(4)), "(interpolate)"),
    "largest": (Network(lambda x, a, b: b(a(x).amax((2, 3))), conv(), nn.Linear(4, 3)), "(amax)"),
    "sum": (Network(lambda x, a, b: b(a(x).sum((2, 3))), conv(), nn.Linear(4, 3)), "(sum)"),
    "flip": (Network(lambda x, a, b: pooled(b(a(x).flip(3))), conv(), conv(4)), "(flip)"),
    "quotient": (Network(lambda x, a, b, c: pooled(c(a(x) / (b(x) * b(x) + 3.0))), conv(), conv(), conv(4)),
                 "operation 'div' (div) cannot be written as C with two tensors"),
    "two shapes": (Network(lambda x, a, b, c: pooled(c(a(x) * torch.sigmoid(b(a(x))))), conv(), nn.Conv2d(4, 1, 1),
                           conv(4)), "operation 'mul' (mul) cannot be written as C with tensors of two shapes"),
    "constant by position": (Network(lambda x, a, s, b: pooled(b(s(a(x)))), conv(), Shifted(1, 5, 7), conv(4)),
                             "operation 'add' (add) cannot be written as C with a constant that differs from place to"),
    "constant by row": (Network(lambda x, a, s, b: pooled(b(s(a(x)))), conv(), Shifted(4, 5, 1), conv(4)),
                        "with a constant that differs from place to place"),
    "limits by channel": (Network(lambda x, a, b: pooled(b(torch.clamp(a(x), torch.arange(4.0).view(4, 1, 1) / 9))),
                                  conv(), conv(4)), "operation 'clamp' (clamp) cannot be written as C with limits th"),
    "other padding": (Network(lambda x, a, b: pooled(b(F.pad(a(x), (1, 1, 1, 1), "constant", 0.7))), conv(), conv(4)),
                      "operation 'pad' (pad) cannot be written as C where it changes values or images"),
    "images as rows": (Network(lambda x, a, b: b(a(x).permute(0, 2, 3, 1).reshape(-1, 4)).view(-1, 35, 3).mean(1),
                               conv(), nn.Linear(4, 3)), "(reshape) cannot be written as C where it changes values or"),
    "linear on tokens": (Network(lambda x, a, b: b(a(x).flatten(2)).mean(1), conv(), nn.Linear(35, 6)),
                         "operation 'layers_1' (Int8Linear) cannot be written as C, as its input has more than one di"),
    "mean over channels": (Network(lambda x, a, b: pooled(b(a(x).mean(1, keepdim=True))), conv(), conv(1)),
                           "operation 'mean' (mean) cannot be written as C over other dimensions than height and"),
    "mean over rows": (Network(lambda x, a, b: b(a(x).mean(2)).mean(1), conv(), nn.Linear(7, 4)),
                       "operation 'mean' (mean) cannot be written as C, which knows only feature maps and vectors"),
    "gaps": (Network(lambda x, a, b: pooled(b(F.max_pool2d(a(x), 2, 1, dilation=2))), conv(), conv(4)),
             "operation 'max_pool2d' (max_pool2d) cannot be written as C with gaps in its windows"),
    "pool at the end": (Network(lambda x, a: F.max_pool2d(a(x), (5, 7)).flatten(1), conv()),
                        "operation 'max_pool2d' (max_pool2d) cannot be written as C at the end of a network"),
    "a map at the end": (Network(lambda x, a: a(x).flatten(1), conv()),
                         "operation 'flatten' (flatten) cannot be written as C at the end of a network"),
    "logits in another order": (Network(lambda x, a, b: b(pooled(a(x)))[:, [2, 0, 1]], conv(), nn.Linear(4, 3)),
                                "operation 'getitem' (getitem) cannot be written as C at the end of a network"),
    "halves at the end": (Network(lambda x, a, b: torch.cat(b(pooled(a(x))).chunk(2, 1)[::-1], 1), conv(),
                                  nn.Linear(4, 4)), "operation 'cat' (cat) cannot be written as C"),
    "logits moved on": (Network(lambda x, a, b: b(pooled(a(x))).roll(1, 1), conv(), nn.Linear(4, 3)), "(roll) cannot"),
    "clamped logits": (Network(lambda x, a, b: F.relu(b(pooled(a(x)))), conv(), nn.Linear(4, 3)),
                       "operation 'layers_1' cannot be written as C with its logits clamped"),
    "probabilities": (Network(lambda x, a, b: torch.sigmoid(b(pooled(a(x)))), conv(), nn.Linear(4, 3)),
                      "operation 'sigmoid' (sigmoid) cannot be written as C at the end of a network"),
    "sum at the end": (Network(lambda x, a, b: pooled(a(x)) + b(pooled(a(x))), conv(), nn.Linear(4, 4)),
                       "operation 'add' (add) cannot be written as C at the end of a network"),
    "joined at the end": (Network(lambda x, a, b: torch.cat([pooled(a(x)), pooled(b(x))], 1), conv(), conv()),
                          "operation 'cat' (cat) cannot be written as C at the end of a network"),
    "joined by rows": (Network(lambda x, a, b: pooled(b(torch.cat([a(x), a(x)], 2))), conv(), conv(4)),
                       "operation 'cat' (cat) cannot be written as C along another dimension than the channels"),
    "pixels": (Network(lambda x, a: pooled(a(F.relu6(x))), conv()),
               "operation 'relu6' (relu6) cannot be written as C, as its input is not rounded"),
    "a giant window": (Network(lambda x, a: a(F.pad(x, (0, 300, 0, 0))).flatten(1), nn.Conv2d(3, 2, (7, 309))),
                       "operation 'layers_0' (Int8Conv2d) cannot be written as C, as it is too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    network, message = REFUSED[name]
    int8 = quantised(network)
    with pytest.raises(ConfigError) as caught:
        lower(int8)
    told = str(caught.value)
    assert message in told
    assert told.startswith("operation '")
    assert told.endswith(REMEDY)
    assert "\n" not in told


def test_attention_is_refused() -> None:
    network = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    with pytest.raises(ConfigError, match=r"cannot be written as C.*leave --target c away"):
        lower(quantised(network, (3, 32, 32)), (3, 32, 32))


@pytest.mark.parametrize("network", [nn.Sequential(nn.Conv2d(3, 4, 3)), resnet8()], ids=["plain", "resnet8"])
def test_float_networks_are_refused(network: nn.Module) -> None:
    with pytest.raises(ConfigError, match="only int8 networks can be written as C; choose a device profile whose"):
        lower(network)


def test_float_graphs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"operation 'stem_0' \(Conv2d\) cannot be written as C; leave --target c"):
        lower(trace(resnet8().eval(), (3, 32, 32)), (3, 32, 32))


@fx.wrap
def relu(x: Tensor) -> Tensor:
    """Not torch's."""
    return torch.where(x > 0, x, 0.3 * x)


@fx.wrap
def flatten(x: Tensor, start: int) -> Tensor:
    """Not torch's."""
    return torch.flatten(x, start).flip(1)


class Own(nn.Module):
    """Functions of a user that are named as torch's are."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.last, self.name = conv(), nn.Conv2d(4, 2, (5, 7)), name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "relu":
            return self.last(relu(self.conv(x))).flatten(1)
        return flatten(self.last(self.conv(x)), 1)


@pytest.mark.parametrize("name", ["relu", "flatten"])
def test_functions_of_the_users_own_are_not_taken_for_torchs(name: str) -> None:
    with pytest.raises(ConfigError, match=f"operation '{name}' .* cannot be written as C; leave"):
        lower(quantised(Own(name), symbolic=True))


def test_steps_by_channel_and_a_clamp_are_refused() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(0.0, 0.5))
    lowering = Lowering(SHAPE)
    code = lowering.network(quantised(encoder), lowering.image([0.5] * 3, [0.25] * 3), SHAPE)
    with pytest.raises(ConfigError, match="clamped code with a step of its own for each channel cannot be written"):
        lowering.symbols(code, 4, torch.linspace(1, 3, 4).view(4, 1, 1))


def test_codes_of_levels_are_refused() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.view(x.size(0), -1)

    lowering = Lowering(SHAPE)
    code = lowering.network(quantised(Viewed(), symbolic=True), lowering.image([0.5] * 3, [0.25] * 3), SHAPE)
    with pytest.raises(ConfigError, match=r"an encoder that ends with levels .* cannot be written as C; leave"):
        lowering.symbols(code, 4, torch.tensor(1.0))


def test_a_network_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="without an operation that gives logits cannot be written as C; leave"):
        lower(quantised(nn.Identity(), symbolic=True))


# --- what becomes of the rest


@pytest.mark.parametrize(("network", "expected"), [
    (Network(lambda x, a: pooled(a(x)), conv()), [Pixels, Convolution, Average]),
    (Network(lambda x, a, b: b(F.relu(a(x)).flatten(1)), conv(), nn.Linear(140, 3)),
     [Pixels, Convolution, Convolution]),
    (Network(lambda x, a, b: b(F.max_pool2d(F.relu(a(x)), 2).flatten(1)), conv(), nn.Linear(24, 3)),
     [Pixels, Convolution, Maximum, Convolution]),
    (Network(lambda x, a, b: pooled(b(F.hardswish(a(x)))), conv(), conv(4)),
     [Pixels, Convolution, Table, Convolution, Average]),
    (Network(lambda x, a, b: pooled(b(F.relu(a(x) + F.pad(x, (-1, -1, -1, -1))))), conv(3, 3), conv()),
     [Pixels, Convolution, Gather, Sum, Convolution, Average]),
    (Network(lambda x, a, b, c: pooled(c(a(x) * torch.sigmoid(b(F.adaptive_avg_pool2d(a(x), 1))))), conv(),
             nn.Conv2d(4, 4, 1), conv(4)),
     [Pixels, Convolution, Convolution, Average, Convolution, Table, Product, Convolution, Average]),
    (Network(lambda x, a, b: pooled(b(torch.cat(a(x).chunk(2, 1)[::-1], 1))), conv(), conv(4)),
     [Pixels, Convolution, Channels, Channels, Join, Convolution, Average]),
    (Network(lambda x, a, b: pooled(b(F.pixel_shuffle(a(x), 2))), conv(3, 8), conv(2)),
     [Pixels, Convolution, Gather, Convolution, Average]),
    (Network(lambda x, a, n, b: pooled(b(n(F.relu(a(x))))), conv(), nn.BatchNorm2d(4), conv(4)),
     [Pixels, Convolution, Table, Convolution, Average]),
    (Network(lambda x, a, d, b: b(pooled(d(a(x)))), conv(), nn.Dropout(), nn.Linear(4, 3)),
     [Pixels, Convolution, Average, Convolution]),
])
def test_operations(network: nn.Module, expected: list[type]) -> None:
    """Nothing is computed twice, and what needs no operation has none."""
    assert kinds(lower(quantised(network))) == [kind.__name__ for kind in (*expected, Decision)]


def test_work_is_that_of_the_cost_model() -> None:
    mobile = torchvision.models.mobilenet_v3_small(num_classes=10)
    for network, shape in ((resnet8(), (3, 32, 32)), (mobile, (3, 64, 64))):
        int8 = quantised(network, shape)
        convolutions = [o for o in lower(int8, shape).operations if isinstance(o, Convolution)]
        assert sum(o.macs for o in convolutions) == stage_cost(int8, shape).macs
        assert sum(o.weight.size for o in convolutions) == sum(
            p.numel() for p in network.parameters() if p.dim() > 1)


def test_an_end_of_levels_is_read_in_the_order_of_torch() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.view(x.size(0), -1)

    program = lower(quantised(Viewed(), symbolic=True))
    assert kinds(program) == ["Pixels", "Convolution", "Gather", "Readout", "Decision"]
    gather, readout = program.operations[2:4]
    assert isinstance(gather, Gather)
    assert isinstance(readout, Readout)
    expected = np.arange(5 * 7 * 4).reshape(5, 7, 4).transpose(2, 0, 1).ravel()
    np.testing.assert_array_equal(gather.places, expected)
    assert readout.elements == 140


def test_clamps_one_after_the_other() -> None:
    """The second one moves both ends of the first one's range, also where the two do not overlap."""
    for clamps, ends in (([nn.ReLU(), nn.Hardtanh(-1.0, 2.0)], (0.0, 2.0)), ([nn.ReLU6(), nn.ReLU()], (0.0, 6.0)),
                         ([nn.ReLU(), nn.Hardtanh(-2.0, -1.0)], (-1.0, -1.0)),
                         ([nn.Hardtanh(-2.0, -1.0), nn.ReLU()], (0.0, 0.0))):
        int8 = quantised(nn.Sequential(conv(), *clamps, nn.Conv2d(4, 2, (5, 7)), nn.Flatten()))
        found = [m for m in int8.modules() if type(m) is Requantise][1]
        convolution = lower(int8).operations[1]
        assert isinstance(convolution, Convolution)
        assert convolution.levels is not None
        step, zero = float(found.scale), int(found.zero)
        low, high = (min(max(round(end / step) + zero, 0), 255) for end in ends)
        assert (convolution.levels.low, convolution.levels.high) == (low, high)


def test_limits_of_a_code_are_those_of_the_quantiser() -> None:
    """One that training has pushed below the least one is taken as that."""
    from autosplit.compression.quantise import MIN_LIMIT, quantise

    int8 = quantised(nn.Sequential(nn.Conv2d(3, 4, 3)))
    limit = torch.tensor([1.0, 0.3, 0.0, -2.0]).view(4, 1, 1)
    lowering = Lowering(SHAPE)
    code = lowering.network(int8, lowering.image([0.5] * 3, [0.25] * 3), SHAPE)
    lowering.symbols(code, 3, limit)
    convolution, symbols = lowering.program.operations[-2:]
    assert isinstance(symbols, Symbols)
    assert symbols.shape == (4, 5, 7)
    assert isinstance(convolution, Convolution)
    assert convolution.by_channel
    assert convolution.levels is not None
    sums = np.linspace(-60_000, 60_000, 4001).astype(np.int64)
    real = (sums + convolution.bias[:, None]).astype(np.float32) * convolution.scale[:, None]
    wanted = quantise(torch.from_numpy(real)[..., None], 3, limit)[..., 0].numpy()
    inside = np.abs(sums) <= 255 * np.abs(convolution.weight.reshape(4, -1).astype(np.int64)).sum(axis=1).min() // 2
    np.testing.assert_array_equal(convolution.levels(np.tile(sums[inside], (4, 1))), wanted[:, inside])
    assert MIN_LIMIT > 0


def test_kinds_of_elementwise_functions() -> None:
    """Functions of one tensor and constants are tables, whichever side the constant stands on."""
    for function in (lambda x: 1 - x, lambda x: x / 3, lambda x: -x, lambda x: x * x, lambda x: x + x,
                     lambda x: 2.5 * x, lambda x: operator.sub(x, 0.25)):
        program = lower(quantised(Network(lambda x, a, b, f=function: pooled(b(f(a(x)))), conv(), conv(4))))
        assert kinds(program) == ["Pixels", "Convolution", "Table", "Convolution", "Average", "Decision"]
