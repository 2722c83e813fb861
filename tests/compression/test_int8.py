from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import fx, nn
from torch.nn import functional as F

from autosplit.backbones.splitting import cut, find_split_points, trace
from autosplit.backbones.zoo import resnet8, resnet20, resnet56
from autosplit.compression.int8 import _Float, _graph_module, _Grids, _Observer, int8_structure, quantise_int8
from autosplit.compression.int8_layers import ChannelAffine, Grid, Int8Conv2d, Int8Layer, Int8Linear, Lookup
from autosplit.compression.network import recalibrate
from autosplit.compression.pruning import HeadPruner
from autosplit.errors import ConfigError, TraceError
from autosplit.evaluation.cost import stage_cost
from tests.tiny import randomise_norms, tiny_network

ZOO = {"resnet8": resnet8, "resnet20": resnet20, "resnet56": resnet56}


def images(n=16, size=32, seed=0, channels=3):
    """Noise on three scales, so that images differ as photographs do."""
    generator = torch.Generator().manual_seed(seed)

    def noise(side):
        x = torch.randn(n, channels, side, side, generator=generator)
        return F.interpolate(x, size=size, mode="bilinear") if side < size else x

    return noise(size) / 2 + noise(4) + noise(12)


def ready(network, x, seed=0):
    """In evaluation mode, batch norms with statistics of `x` and scales of their own."""
    for i, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine):
        randomise_norms(norm, seed + i)
    recalibrate(network, x, len(x))
    return network.eval()


def build(name, x, split=""):
    """A network of the zoo or of torchvision, up to a split point where one is given."""
    torch.manual_seed(0)
    network = ZOO[name]() if name in ZOO else torchvision.models.get_model(name, num_classes=10)
    graph = trace(ready(network, x))
    if not split:
        return graph
    return cut(graph, next(p for p in find_split_points(graph, tuple(x.shape[1:])) if split in (p.name, *p.aliases)))[0]


def run(network, x):
    with torch.inference_mode():
        return network(x)


def snr_db(reference, other):
    return float(10 * torch.log10(reference.var() / (reference - other).square().mean()))


def weakest_step_db(network, quantised, x):
    """Lowest ratio of signal to error among the steps of a quantised network, each given what the last one made.

    What an untrained network makes of the errors of its first layers says little; a wrong scale anywhere shows here.
    """
    net = _Float(network)
    _Grids(net)
    exact = fx.Interpreter(_graph_module(net))
    found = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n):
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.inference_mode():
        Recorder(quantised).run(x)
        ratios = {}
        for node in exact.module.graph.nodes:
            if node.op in {"call_module", "call_function", "call_method"}:
                exact.env = {n: found[n.name] for n in node.all_input_nodes}
                out = exact.run_node(node)
                got = found.setdefault(node.name, out)  # in a table, together with the rounding that follows
                step = getattr(quantised, node.name, None)
                if isinstance(step, Grid) and isinstance(out, torch.Tensor) and out.is_floating_point():
                    out = out.clamp(-step.zero * step.scale, (255 - step.zero) * step.scale)  # ranges are tested apart
                if isinstance(out, torch.Tensor) and out.is_floating_point():
                    ratios[node.name] = float(10 * torch.log10(out.square().sum() / (got - out).square().sum()))
    return min(ratios.values())


def count(network, kind):
    return sum(type(m) is kind for m in network.modules())


def layout(network):
    return {name: (t.shape, t.dtype) for name, t in network.state_dict().items()}


class Encoder(nn.Module):
    """As the codecs have it."""

    def __init__(self, channels, width, patch, grid, margin=0):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, margin, 0, margin)) if margin else nn.Identity()
        self.conv = nn.Conv2d(channels, width, patch, patch, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(grid) if grid else nn.Identity()
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, x):
        return self.norm(self.pool(self.conv(self.pad(x))))


class Mixed(nn.Module):
    """One of each kind of operation that is computed on integers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.norm, self.pool = nn.BatchNorm2d(16), nn.AvgPool2d(3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.depthwise(x))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y += x
        left, right = (y * scale).chunk(2, 1)
        x = F.hardtanh(self.norm(torch.cat([x, right, left], 1)), -2.0, 2.0)
        x = F.dropout(F.max_pool2d(F.pad(self.pool(x), (1, 0, 1, 0)), 2), 0.5, self.training)
        return self.head(x.mean([2, 3]).view(x.size(0), -1))


class TestGrid:
    def test_by_hand(self):
        grid = Grid(0.5, 3)  # levels 0..255 stand for -1.5 .. 126
        x = torch.tensor([-9.0, -1.3, -0.2, 0.0, 0.25, 0.3, 0.75, 500.0])
        assert grid(x).tolist() == [-1.5, -1.5, 0.0, 0.0, 0.0, 0.5, 1.0, 126.0]

    @given(low=st.floats(-100, 0), high=st.floats(0, 100), seed=st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_error_is_at_most_half_a_step_and_zero_stays_zero(self, low, high, seed):
        x = torch.rand(200, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
        observer = _Observer("x")
        observer(torch.cat([x, torch.tensor([low, high])]))
        observer.counts.fill_(0.0)  # no error to be minimised: the full range is taken
        grid = observer.grid()
        assert grid(torch.zeros(1)) == 0
        once = grid(x)
        assert torch.equal(grid(once), once)
        assert float((once - x).abs().max()) <= float(grid.scale) * 1.001  # half a step, and half for moving zero
        assert 0 <= int(grid.zero) <= 255

    def test_only_floats_are_rounded(self):
        assert Grid()((1, 2)) == (1, 2)
        assert torch.equal(Grid()(torch.tensor([300, -2])), torch.tensor([300, -2]))


class TestRanges:
    def test_extremes_are_clipped_where_that_loses_less(self):
        values = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
        values[0] = 12.0
        observer = _Observer("x")
        observer(values)
        grid = observer.grid()
        assert float(grid.scale) * (255 - int(grid.zero)) < 9.0

        def loss(g):
            return float((g(values) - values).square().mean())

        low, high = float(values.min()), float(values.max())
        whole = Grid((high - low) / 255, round(-low / (high - low) * 255))
        assert loss(grid) < 0.8 * loss(whole)

    def test_flat_values_are_not_clipped(self):
        observer = _Observer("x")
        observer(torch.linspace(0.0, 3.0, 10_000))
        assert float(observer.grid().scale) == pytest.approx(3 / 255)
        assert int(observer.grid().zero) == 0

    def test_batches_add_up_in_any_order(self):
        parts = [torch.randn(500, generator=torch.Generator().manual_seed(i)) * 4.0**i for i in range(4)]
        observers = [_Observer("x") for _ in range(3)]
        for part in parts:
            observers[0](part)
        for part in reversed(parts):
            observers[1](part)
        observers[2](torch.cat(parts))
        for other in observers[1:]:
            assert other.limit == observers[0].limit
            assert torch.equal(other.counts, observers[0].counts)
        assert observers[0].counts.sum() == 2000

    def test_nothing_but_zeros(self):
        network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
        x = torch.zeros(2, 3, 4, 4)
        assert torch.allclose(run(quantise_int8(network, [x]), x), run(network, x), atol=0.01)


class TestLayer:
    def test_convolution_by_hand(self):
        layer = Int8Conv2d(nn.Conv2d(1, 2, (1, 2), padding=(0, 1)), own_bias=True)
        layer.fill(torch.tensor([[[[1.27, -0.63]]], [[[0.03, 0.04]]]]), torch.tensor([0.1, -0.02]), in_scale=0.5)
        assert layer.weight.flatten().tolist() == [127, -63, 95, 127]  # scales 0.01 and 0.04 / 127
        assert layer.bias.tolist() == [20, round(-0.02 / (0.5 * 0.04 / 127))] == [20, -127]
        out = layer(torch.tensor([[[[2.0, -1.0]]]]))  # levels 4, -2, a zero before and after
        sums = torch.tensor([[-63 * 4 + 20, 127 * 4 + 63 * 2 + 20, 127 * -2 + 20],
                             [127 * 4 - 127, 95 * 4 - 127 * 2 - 127, 95 * -2 - 127]])
        assert torch.allclose(out[0, :, 0], sums * torch.tensor([[0.005], [0.02 / 127]]), rtol=1e-6)
        assert (layer.weight.dtype, layer.bias.dtype) == (torch.int8, torch.int32)

    @given(data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_sums_are_those_of_integers(self, data):
        def draw(low, high):
            return data.draw(st.integers(low, high))

        groups, side, kernel = draw(1, 3), draw(5, 9), (draw(1, 3), draw(1, 3))
        conv = nn.Conv2d(groups * draw(1, 3), groups * draw(1, 3), kernel, (draw(1, 2), draw(1, 3)),
                         (draw(0, 2), draw(0, 2)), draw(1, 2), groups)
        generator = torch.Generator().manual_seed(draw(0, 1000))
        weight = torch.randn(conv.weight.shape, generator=generator)
        layer = Int8Conv2d(conv, own_bias=True)
        layer.fill(weight, torch.randn(len(weight), generator=generator), in_scale=0.037)
        levels = torch.randint(-255, 256, (2, conv.in_channels, side, side), generator=generator)
        exact = F.conv2d(levels.double(), layer.weight.double(), layer.bias.double(), conv.stride, conv.padding,
                         conv.dilation, groups)
        expected = exact.float() * (layer.in_scale * layer.scale).view(-1, 1, 1)
        assert torch.equal(layer(levels * layer.in_scale), expected)
        real = F.conv2d(levels * 0.037, weight, layer.bias * layer.scale * 0.037, conv.stride, conv.padding,
                        conv.dilation, groups)
        step = 0.5 * layer.scale.view(-1, 1, 1) * 0.037 * 255 * weight[0].numel()
        assert bool(((expected - real).abs() <= step + 1e-4).all())

    def test_scales_are_those_of_each_channel(self):
        layer = Int8Linear(nn.Linear(3, 4), own_bias=False)
        layer.fill(torch.tensor([[1.0, -2.0, 0.5], [1e-5, 0.0, -1e-6], [0.0, 0.0, 0.0], [3e4, -3e4, 0.0]]), None, 1.0)
        assert layer.weight.tolist() == [[64, -127, 32], [127, 0, -13], [0, 0, 0], [127, -127, 0]]
        assert layer.scale[[0, 1, 3]].tolist() == pytest.approx([2 / 127, 1e-5 / 127, 3e4 / 127])
        out = layer(torch.tensor([[1.0, 0.0, 0.0]]))
        assert torch.isfinite(out).all()
        assert out[0].tolist() == pytest.approx([1.0, 1e-5, 0.0, 3e4], rel=0.01)

    def test_a_bias_that_outweighs_its_weights_keeps_its_value(self):
        layer = Int8Linear(nn.Linear(1, 3), own_bias=True)
        layer.fill(torch.tensor([[0.0], [1e-12], [1.0]]), torch.tensor([0.3, -0.7, 0.0]), 0.1)
        assert layer.bias.abs().max() <= 2**23
        assert layer(torch.zeros(1, 1))[0].tolist() == pytest.approx([0.3, -0.7, 0.0], rel=1e-6)

    @pytest.mark.parametrize("kind", ["linear", "convolution"])
    def test_sums_beyond_float32_are_still_the_same_for_every_batch(self, kind):
        inputs = 4096
        signs = torch.randint(0, 2, (3, inputs), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        signs[0] = 1.0
        levels = torch.randint(200, 256, (33, inputs), generator=torch.Generator().manual_seed(1))
        if kind == "linear":
            layer = Int8Linear(nn.Linear(inputs, 3), own_bias=False)
            layer.fill(signs, None, 1.0)
        else:
            layer = Int8Conv2d(nn.Conv2d(inputs, 3, 1), own_bias=False)
            layer.fill(signs[..., None, None], None, 1.0)
            levels = levels[..., None, None]
        layer.scale.fill_(1.0)
        exact = levels.flatten(1).double() @ layer.weight.flatten(1).double().T
        assert exact.abs().max() > 2**24
        together = run(layer, levels.float())
        assert torch.allclose(together.flatten(1).double(), exact, rtol=3e-7, atol=0)
        assert torch.equal(together.flatten(1)[:, 1:], exact[:, 1:].float())
        assert torch.equal(torch.cat([run(layer, level[None].float()) for level in levels]), together)


class TestLookup:
    @pytest.mark.parametrize("function", [torch.sigmoid, F.silu, F.hardswish])
    def test_is_the_function_to_half_a_step(self, function):
        source, target = Grid(0.05, 128), Grid(0.03, 20)
        x = source(torch.linspace(-6.0, 6.0, 500))
        out = Lookup(function, source, target)(x)
        assert float((out - function(x)).abs().max()) < 0.0151
        assert len(out.unique()) > 20


@pytest.mark.parametrize(("name", "split", "size", "floor_db"), [
    ("resnet8", "", 32, 33), ("resnet20", "", 32, 30), ("resnet56", "layer1", 32, 17),
    ("resnet18", "layer1", 64, 26), ("mobilenet_v2", "features.3", 64, 22), ("efficientnet_b0", "features.2", 64, 17),
    ("densenet121", "features.denseblock1", 64, 25), ("regnet_y_400mf", "trunk_output.block1", 64, 25),
])
def test_close_to_float(name, split, size, floor_db):
    x = images(8, size)
    network = build(name, x, split)
    quantised = quantise_int8(network, x.split(4))
    reference, out = run(network, x), run(quantised, x)
    assert out.shape == reference.shape
    assert out.dtype == torch.float32
    assert snr_db(reference, out) > floor_db
    if not split:
        assert torch.equal(reference.argmax(1), out.argmax(1))


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121",
                                  "regnet_x_400mf", "shufflenet_v2_x0_5"])
def test_whole_network(name):
    x = images(4)
    network = build(name, x)
    quantised = quantise_int8(network, [x])
    assert weakest_step_db(network, quantised, x) > 25
    assert not list(quantised.parameters())
    assert count(quantised, Int8Conv2d) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert layout(int8_structure(network)) == layout(quantised)
    assert stage_cost(quantised, (3, 32, 32)) == stage_cost(network, (3, 32, 32))
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    assert sum(m.weight.numel() for m in quantised.modules() if isinstance(m, Int8Layer)) == weights


@pytest.fixture(scope="module", params=["mixed", "resnet8"])
def case(request):
    torch.manual_seed(0)
    x = images(32)
    network = ready(Mixed(), x) if request.param == "mixed" else build("resnet8", x)
    quantised = quantise_int8(network, [x])
    return quantised, x, run(quantised, x)


class TestDeterminism:
    @pytest.mark.parametrize("size", [1, 7])
    def test_batch_size(self, case, size):
        quantised, x, expected = case
        assert torch.equal(torch.cat([run(quantised, part) for part in x.split(size)]), expected)

    def test_threads(self, case):
        quantised, x, expected = case
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(run(quantised, x), expected)
        finally:
            torch.set_num_threads(before)

    def test_memory_layout(self, case):
        quantised, x, expected = case
        last = copy.deepcopy(quantised).to(memory_format=torch.channels_last)
        assert torch.equal(run(last, x), expected)
        assert torch.equal(run(last, x.to(memory_format=torch.channels_last)), expected)
        assert torch.equal(run(quantised, x.to(memory_format=torch.channels_last)), expected)

    def test_calibration(self):
        network, x = build("resnet8", images(32)), images(32)
        states = [quantise_int8(network, b).state_dict() for b in ((p for p in x.split(8)), [x[16:], x[:16]])]
        assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())


class TestStructure:
    def test_mixed_is_close_to_float(self):
        torch.manual_seed(0)
        x = images(32)
        network = ready(Mixed(), x)
        quantised = quantise_int8(network, [x])
        assert snr_db(run(network, x), run(quantised, x)) > 28
        assert (count(quantised, Int8Conv2d), count(quantised, Int8Linear), count(quantised, Lookup)) == (4, 1, 2)
        assert stage_cost(quantised, (3, 32, 32)) == stage_cost(network, (3, 32, 32))

    def test_one_rounding_after_a_clamp_and_none_where_the_grid_stays(self):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.MaxPool2d(2), nn.Identity(),
            nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 13 * 13, 3)).eval()
        quantised = quantise_int8(network, [images()])
        assert count(quantised, Grid) == 3  # the image, after each activation
        assert count(quantised, ChannelAffine) == 0
        first = [m for m in quantised.modules() if type(m) is Grid][1]
        assert int(first.zero) == 0  # the range of what the activation gives, not of what it gets

    def test_the_output_is_not_rounded(self):
        x = images(64)
        network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.ReLU()).eval()
        out = run(quantise_int8(network, [x]), x)
        assert len(out.unique()) > 1000
        assert out.min() == 0

    @pytest.mark.parametrize(("grid", "margin"), [((3, 3), 0), (None, 0), (None, 1)])
    def test_encoder(self, grid, margin):
        x = images(32, 15 if margin else 16, channels=8)
        torch.manual_seed(0)
        network = ready(Encoder(8, 4, 2, grid, margin), x)
        quantised = quantise_int8(network, [x])
        assert count(quantised, ChannelAffine) == 0
        assert count(quantised, Grid) == (2 if grid else 1)
        assert snr_db(run(network, x), run(quantised, x)) > 33

    def test_head_and_encoder_in_one(self):
        x = images(16, 16)
        graph = trace(ready(tiny_network(), x))
        head = cut(graph, next(p for p in find_split_points(graph, (3, 16, 16)) if p.name == "layer2"))[0]
        network = ready(nn.Sequential(head, Encoder(8, 3, 2, (2, 2))), x)
        quantised = quantise_int8(network, [x])
        assert snr_db(run(network, x), run(quantised, x)) > 28
        assert layout(int8_structure(network)) == layout(quantised)

    def test_pruned_head(self):
        x = images(16, 16)
        graph = trace(ready(tiny_network(), x))
        head = cut(graph, next(p for p in find_split_points(graph, (3, 16, 16)) if p.name == "layer2"))[0]
        pruner = HeadPruner(head, (3, 16, 16))
        tensors = {**dict(head.named_parameters()), **dict(head.named_buffers())}
        pruned = pruner.sub_network(pruner.keep_counts(0.5)).materialise(tensors).eval()
        quantised = quantise_int8(pruned, [x])
        assert snr_db(run(pruned, x), run(quantised, x)) > 28
        assert layout(int8_structure(pruned)) == layout(quantised) != layout(int8_structure(head))
        assert stage_cost(quantised, (3, 16, 16)) == stage_cost(pruned, (3, 16, 16))

    @pytest.mark.parametrize(("pool", "folded"), [
        (nn.AvgPool2d(2), True), (nn.AdaptiveAvgPool2d(3), True), (nn.AvgPool2d(3, 2, 1), False),
        (nn.AvgPool2d(2, divisor_override=3), False), (nn.MaxPool2d(2), False), (nn.ReLU(), False)], ids=str)
    def test_batch_norm_is_folded_through_true_averages(self, pool, folded):
        torch.manual_seed(0)
        x = images(16)
        network = ready(nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.BatchNorm2d(4)), x)
        quantised = quantise_int8(network, [x])
        assert count(quantised, ChannelAffine) == (not folded)
        assert snr_db(run(network, x), run(quantised, x)) > 32

    def test_batch_norm_of_a_linear_layer(self):
        torch.manual_seed(0)
        x = torch.randn(64, 6)
        network = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))
        recalibrate(network, x, 64)
        quantised = quantise_int8(network, [x])
        assert count(quantised, ChannelAffine) == 1
        assert snr_db(run(network, x), run(quantised, x)) > 32

    def test_a_layer_that_is_used_twice(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

            def forward(self, x):
                return self.conv(self.norm(self.conv(x)) * 20)

        torch.manual_seed(0)
        x = images(16)
        network = ready(Twice(), x)
        quantised = quantise_int8(network, [x])
        assert count(quantised, Int8Conv2d) == 2
        assert snr_db(run(network, x), run(quantised, x)) > 32

    def test_a_convolution_that_is_used_beside_its_batch_norm(self):
        class Beside(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

            def forward(self, x):
                x = self.conv(x)
                return self.norm(x) * x

        torch.manual_seed(0)
        x = images(16)
        network = ready(Beside(), x)
        assert snr_db(run(network, x), run(quantise_int8(network, [x]), x)) > 30

    @pytest.mark.parametrize(("layers", "grids", "tables"), [
        ([nn.MaxPool2d(2), nn.ReLU6()], 1, 1),  # a clamp of values that are on a grid already
        ([nn.Sigmoid(), nn.Hardtanh(0.0, 0.5)], 2, 0),  # rounded once, after the clamp
        ([nn.SiLU(), nn.ReLU()], 2, 0),
        ([nn.ZeroPad2d(1)], 1, 0),
        ([nn.ConstantPad2d(1, 20.0)], 2, 0),  # a value that the image's grid does not have
    ], ids=str)
    def test_where_values_are_rounded(self, layers, grids, tables):
        torch.manual_seed(0)
        x = images(16)
        network = nn.Sequential(*layers, nn.Conv2d(3, 4, 3)).eval()
        quantised = quantise_int8(network, [x])
        assert (count(quantised, Grid), count(quantised, Lookup)) == (grids, tables)
        assert snr_db(run(network, x), run(quantised, x)) > 28

    @pytest.mark.parametrize(("value", "grids"), [(0.0, 1), (20.0, 2)])
    def test_padding_as_a_function(self, value, grids):
        class Padded(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, x):
                return self.conv(F.pad(x, (1, 1, 1, 1), "constant", value))

        x, network = images(8), Padded().eval()
        quantised = quantise_int8(network, [x])
        assert count(quantised, Grid) == grids
        assert snr_db(run(network, x), run(quantised, x)) > 28

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_averages_are_exact(self, layout):
        x = images(3, 63).to(memory_format=layout)
        quantised = quantise_int8(nn.Sequential(nn.AdaptiveAvgPool2d(1)), [x])
        grid = next(m for m in quantised.modules() if isinstance(m, Grid))
        assert torch.equal(run(quantised, x), grid(x).double().mean((2, 3), keepdim=True).float())

    def test_values_that_are_changed_in_place(self):
        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 3, padding=1)

            def forward(self, x):
                y = self.conv(x)
                z = y.clone()
                z.add_(x)
                y.mul_(2.0).relu_()
                return self.conv(y + z)

        torch.manual_seed(0)
        x, network = images(8), InPlace().eval()
        quantised = quantise_int8(network, [x])
        assert snr_db(run(network, x), run(quantised, x)) > 30
        assert stage_cost(quantised, (3, 32, 32)) == stage_cost(network, (3, 32, 32))

    @pytest.mark.parametrize("layer", [nn.Conv2d(3, 2, 3), nn.Identity(), nn.ReLU()], ids=str)
    def test_a_single_layer(self, layer):
        x = images(4)
        assert torch.allclose(run(quantise_int8(layer.eval(), [x]), x), layer(x), atol=0.05)


@fx.wrap
def tanh(x):
    """Not torch's: brings each image to a largest value of one."""
    return x / x.abs().amax((1, 2, 3), keepdim=True)


class Strange(nn.Module):
    """Operations that the pass does not know, values that are no features."""

    def __init__(self):
        super().__init__()
        self.conv, self.reflect = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.norm, self.layer_scale = nn.LayerNorm(15), nn.Parameter(torch.linspace(0.5, 1.5, 8).view(8, 1, 1))
        self.up, self.fresh = nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        x = self.conv(x)[:, :, ::2, ::2]
        x = self.norm(F.conv2d(x, self.conv.weight.mean((2, 3), keepdim=True)[:, :1].expand(8, 8, 1, 1))) + x
        x = self.reflect(x * self.layer_scale).softmax(1) + x
        values, places = x.sort(2)
        x = torch.where(places > 3, values, x.flip(2)).reshape(x.shape[0], 8, x.size(2), -1)
        return self.fresh(self.up(x)).max(2)[0]


class TestUnknownOperations:
    def test_stay_in_float(self):
        torch.manual_seed(0)
        x = images(16)
        network = Strange().eval()
        quantised = quantise_int8(network, [x])
        assert weakest_step_db(network, quantised, x) > 30
        assert not any(p.requires_grad for p in quantised.parameters())
        assert layout(int8_structure(network)) == layout(quantised)

    def test_a_function_of_the_users_own_is_not_taken_for_torchs(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, x):
                return self.conv(tanh(x))

        x, network = images(4), Own().eval()
        assert snr_db(run(network, x), run(quantise_int8(network, [x]), x)) > 30

    def test_attention(self):
        torch.manual_seed(0)
        network = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5).eval()
        nn.init.normal_(network.heads.head.weight)
        x = images(8)
        assert weakest_step_db(network, quantise_int8(network, [x]), x) > 30


@pytest.fixture(scope="module")
def network():
    return build("resnet8", images())


class TestStorage:
    def test_round_trip(self, network, tmp_path):
        x = images()
        quantised = quantise_int8(network, [x])
        save_file(quantised.state_dict(), tmp_path / "w.safetensors")
        again = int8_structure(build("resnet8", images(seed=3)))
        again.load_state_dict(load_file(tmp_path / "w.safetensors"))
        assert torch.equal(run(again, x), run(quantised, x))

    def test_round_trip_of_tables(self):
        torch.manual_seed(0)
        x = images()
        quantised, again = quantise_int8(ready(Mixed(), x), [x]), int8_structure(Mixed())
        again.load_state_dict(quantised.state_dict())
        assert torch.equal(run(again, x), run(quantised, x))

    def test_a_quarter_of_the_bytes(self, network, tmp_path):
        save_file(network.state_dict(), tmp_path / "float.safetensors")
        save_file(quantise_int8(network, [images()]).state_dict(), tmp_path / "int8.safetensors")
        sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("int8", "float")]
        assert sizes[0] < 0.33 * sizes[1]

    def test_made_and_loaded_in_inference_mode(self, network):
        x = images()
        with torch.inference_mode():
            quantised, blank = quantise_int8(network, [x.clone()]), int8_structure(network)
        blank.load_state_dict(quantised.state_dict())
        assert torch.equal(run(blank, x), run(quantised, x))

    def test_the_network_is_left_as_it_was(self):
        network = tiny_network().train()
        before = copy.deepcopy(network.state_dict())
        quantise_int8(network, [images(4, 16)])
        assert all(m.training for m in network.modules())
        assert all(p.requires_grad for p in network.parameters())
        assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


class TestErrors:
    @pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3, 16, 16)]], ids=["none", "empty"])
    def test_no_images(self, batches):
        with pytest.raises(ConfigError, match="got no images; give at least one batch"):
            quantise_int8(tiny_network(), batches)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_images_that_are_no_numbers(self, value):
        x = images(2, 16)
        x[1, 0, 3, 3] = value
        with pytest.raises(ConfigError, match="NaN or infinite values at 'x'"):
            quantise_int8(tiny_network(), [images(2, 16), x])

    @pytest.mark.parametrize(("path", "message"), [("layer1.0.conv1", "NaN or infinite values at 'layer1_0_relu1'"),
                                                   ("fc", "layer 'fc' has weights that are NaN")])
    def test_weights_that_are_no_numbers(self, path, message):
        network = tiny_network()
        nn.init.constant_(network.get_submodule(path).weight[0], float("nan"))
        with pytest.raises(ConfigError, match=message):
            quantise_int8(network, [images(2, 16)])

    def test_integer_images(self):
        with pytest.raises(ConfigError, match=r"normalised images in floating point, got torch\.uint8"):
            quantise_int8(tiny_network(), [torch.zeros(2, 3, 16, 16, dtype=torch.uint8)])

    def test_a_network_that_cannot_be_traced(self):
        class Branching(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(TraceError, match="cannot trace Branching"):
            int8_structure(Branching())
