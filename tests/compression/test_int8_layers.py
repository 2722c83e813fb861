"""Grids, ranges and single layers in int8."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from autosplit.compression.int8 import RangeObserver, quantise_int8
from autosplit.compression.int8_layers import Int8Conv2d, Int8Linear, Lookup, Requantise
from tests.compression.int8_networks import run


class TestGrid:
    def test_by_hand(self):
        grid = Requantise(0.5, 3)  # levels 0..255 stand for -1.5 .. 126
        x = torch.tensor([-9.0, -1.3, -0.2, 0.0, 0.25, 0.3, 0.75, 500.0])
        assert grid(x).tolist() == [-1.5, -1.5, 0.0, 0.0, 0.0, 0.5, 1.0, 126.0]

    @given(low=st.floats(-100, 0), high=st.floats(0, 100), seed=st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_error_is_at_most_half_a_step_and_zero_stays_zero(self, low, high, seed):
        x = torch.rand(200, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
        observer = RangeObserver("x")
        observer(torch.cat([x, torch.tensor([low, high])]))
        observer.counts.fill_(0.0)  # no error to be minimised: the full range is taken
        grid = observer.requantisation()
        assert grid(torch.zeros(1)) == 0
        once = grid(x)
        assert torch.equal(grid(once), once)
        assert float((once - x).abs().max()) <= float(grid.scale) * 1.001  # half a step, and half for moving zero
        assert 0 <= int(grid.zero) <= 255

    def test_only_floats_are_rounded(self):
        assert Requantise()((1, 2)) == (1, 2)
        assert torch.equal(Requantise()(torch.tensor([300, -2])), torch.tensor([300, -2]))


class TestRanges:
    def test_extremes_are_clipped_where_that_loses_less(self):
        values = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
        values[0] = 12.0
        observer = RangeObserver("x")
        observer(values)
        grid = observer.requantisation()
        assert float(grid.scale) * (255 - int(grid.zero)) < 9.0

        def loss(g):
            return float((g(values) - values).square().mean())

        low, high = float(values.min()), float(values.max())
        whole = Requantise((high - low) / 255, round(-low / (high - low) * 255))
        assert loss(grid) < 0.8 * loss(whole)

    def test_flat_values_are_not_clipped(self):
        observer = RangeObserver("x")
        observer(torch.linspace(0.0, 3.0, 10_000))
        assert float(observer.requantisation().scale) == pytest.approx(3 / 255)
        assert int(observer.requantisation().zero) == 0

    def test_batches_add_up_in_any_order(self):
        parts = [torch.randn(500, generator=torch.Generator().manual_seed(i)) * 4.0**i for i in range(4)]
        observers = [RangeObserver("x") for _ in range(3)]
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
        source, target = Requantise(0.05, 128), Requantise(0.03, 20)
        x = source(torch.linspace(-6.0, 6.0, 500))
        out = Lookup(function, source, target)(x)
        assert float((out - function(x)).abs().max()) < 0.0151
        assert len(out.unique()) > 20
