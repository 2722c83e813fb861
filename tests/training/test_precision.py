"""Training in 16 bits, clear of a kernel of oneDNN that writes beyond its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from autosplit.core.accelerator import CPU, Accelerator
from autosplit.training.loop import train_alone
from autosplit.training.precision import AroundKernels, autocast, gradient_scaler

CRASH = """
import torch
from torch import nn
from autosplit.training.precision import autocast
for channels in (4, 6, 8, 12):  # odd batches on two threads
    conv = nn.Conv2d(channels, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(33, channels, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    with autocast():
        y = conv(x)
    y.float().sum().backward()
"""


def test_narrow_strided_convolutions_leave_the_process_alive():
    environment = {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False, timeout=300,
                          env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding", "groups"), [
    (4, 1, 2, 0, 1), (4, 1, (2, 1), 0, 1), (4, 1, (1, 3), (0, 0), 1), (15, 1, 3, 0, 1), (8, 1, 2, 0, 4),
    (4, 1, 2, 1, 1), (4, 3, 2, 1, 1), (16, 1, 2, 0, 1), (4, 1, 1, 0, 1),
])
@pytest.mark.parametrize("side", [7, 8])
def test_the_result_is_the_same(channels, kernel, stride, padding, groups, side):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(channels, 8, kernel, stride, padding, groups=groups).double()
    x = torch.randn(5, channels, side, side, dtype=torch.float64, requires_grad=True)
    with AroundKernels():
        y = conv(x)
    assert torch.allclose(y, F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=groups))
    expected = torch.autograd.grad(conv(x).square().sum(), (x, conv.weight))
    for found, wanted in zip(torch.autograd.grad(y.square().sum(), (x, conv.weight)), expected, strict=True):
        assert torch.allclose(found, wanted)


def _calls(transposed):
    """How a convolution may be called, with a stride as large as its kernel."""
    functional = F.conv_transpose2d if transposed else F.conv2d
    return [lambda x, w: functional(x, w, None, w.shape[-1]), lambda x, w: functional(x, w, stride=w.shape[-1]),
            lambda x, w: functional(x, w, None, (w.shape[-1], w.shape[-1]), (0, 0))]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("channels", "side"), [
    (4, 16), (8, 8), (12, 8), (16, 4), (16, 16), (24, 4), (24, 8), (40, 4)])
def test_patches_are_right_in_16_bits(transposed, channels, side):
    torch.manual_seed(0)
    x = torch.randn(4, 32 if transposed else channels, 32, 32, requires_grad=True)
    weight = torch.randn((32, channels, side, side), requires_grad=True)
    for call in _calls(transposed):
        expected = call(x, weight)
        upstream = torch.randn_like(expected)
        wanted = (expected, *torch.autograd.grad(expected, (x, weight), upstream))
        with autocast():
            found = call(x, weight)
        got = (found.float(), *torch.autograd.grad(found, (x, weight), upstream.to(found.dtype)))
        for one, other in zip(got, wanted, strict=True):
            assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize(("function", "shape", "kernel"), [
    (F.conv1d, (2, 24, 96), (24,)), (F.conv1d, (2, 16, 192), (64,)), (F.conv3d, (1, 8, 16, 16, 16), (8, 8, 8)),
    (F.conv3d, (1, 16, 8, 8, 8), (4, 4, 4)), (F.conv2d, (2, 24, 9, 24), (3, 12))])
def test_other_kernels_of_that_kind_are_right_too(function, shape, kernel):
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn((16, shape[1], *kernel))
    wanted = function(x, weight, stride=kernel)
    with autocast():
        found = function(x, weight, stride=kernel).float()
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_functions_called_another_way_are_left_alone():
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(8, 4, 1, 1)
    expected = F.conv2d(x, weight, None, 2)
    with AroundKernels():
        for y in (F.conv2d(x, weight, None, 2), F.conv2d(x, weight, stride=2), F.conv2d(x, weight, None, 2, 0)):
            assert torch.allclose(y, expected)


@pytest.mark.parametrize(("kernel", "stride", "kept"), [(3, 1, False), (3, 2, True), (5, 1, True)])
def test_slow_depthwise_kernels_compute_in_float32(kernel, stride, kept):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6)
    x = torch.randn(2, 6, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16), AroundKernels():
        y = conv(x.bfloat16())
    assert (y.dtype == torch.float32) is kept
    torch.testing.assert_close(y.float(), conv(x.bfloat16().float()), atol=1e-6 if kept else 0.05, rtol=0)


def test_float16_keeps_small_gradients(monkeypatch):
    """On cards that compute in it: a gradient that float16 has no number for arrives all the same."""
    monkeypatch.setattr(Accelerator, "half", torch.float16)
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    images = torch.full((2, 4), 1e-3)

    def loss():
        return (F.linear(images, weight).float() * 1e-5).sum()

    train_alone([weight], loss, 1, 0.1, CPU)
    assert bool((weight < 0).all())
    with torch.autocast("cpu", dtype=torch.float16):
        assert not bool(torch.autograd.grad(loss(), weight)[0].any())  # what the scaler is for


def test_a_card_that_computes_in_float32_is_asked_for_nothing_else(monkeypatch):
    monkeypatch.setattr(Accelerator, "half", None)
    with autocast(Accelerator("mps")):
        assert not torch.is_autocast_enabled("mps")
    assert not gradient_scaler(Accelerator("mps")).is_enabled()
