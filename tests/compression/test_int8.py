"""Whole networks in int8."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import fx, nn
from torch.nn import functional as F

from autosplit.compression.int8 import int8_structure, quantise_int8
from autosplit.compression.int8_layers import ChannelAffine, Int8Conv2d, Int8Layer, Int8Linear, Lookup, Requantise
from autosplit.compression.network import recalibrate
from autosplit.core.errors import ConfigError, TraceError
from autosplit.models.costs import stage_cost
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from tests.compression.int8_networks import (
    Encoder,
    Mixed,
    build,
    count,
    images,
    layout,
    ready,
    run,
    snr_db,
    weakest_step_db,
)
from tests.tiny import tiny_network


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
        assert count(quantised, Requantise) == 3  # the image, after each activation
        assert count(quantised, ChannelAffine) == 0
        first = [m for m in quantised.modules() if type(m) is Requantise][1]
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
        assert count(quantised, Requantise) == (2 if grid else 1)
        assert snr_db(run(network, x), run(quantised, x)) > 33

    def test_head_and_encoder_in_one(self):
        x = images(16, 16)
        graph = trace(ready(tiny_network(), x), (3, 16, 16))
        head = cut(graph, next(p for p in find_split_points(graph, (3, 16, 16)) if p.name == "layer2"))[0]
        network = ready(nn.Sequential(head, Encoder(8, 3, 2, (2, 2))), x)
        quantised = quantise_int8(network, [x])
        assert snr_db(run(network, x), run(quantised, x)) > 28
        assert layout(int8_structure(network)) == layout(quantised)

    def test_pruned_head(self):
        x = images(16, 16)
        graph = trace(ready(tiny_network(), x), (3, 16, 16))
        head = cut(graph, next(p for p in find_split_points(graph, (3, 16, 16)) if p.name == "layer2"))[0]
        pruner = HeadPruner(head, (3, 16, 16))
        pruned = pruner.sub_network(pruner.keep_counts(0.5)).materialise(head).eval()
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
        assert (count(quantised, Requantise), count(quantised, Lookup)) == (grids, tables)
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
        assert count(quantised, Requantise) == grids
        assert snr_db(run(network, x), run(quantised, x)) > 28

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_averages_are_exact(self, layout):
        x = images(3, 63).to(memory_format=layout)
        quantised = quantise_int8(nn.Sequential(nn.AdaptiveAvgPool2d(1)), [x])
        grid = next(m for m in quantised.modules() if isinstance(m, Requantise))
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
