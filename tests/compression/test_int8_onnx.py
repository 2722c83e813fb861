"""The integer form of int8 networks: onnxruntime makes of it what torch makes of the original, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Int8Layer
from autosplit.compression.int8_onnx import integer_form
from autosplit.compression.integer_operators import translations
from tests.tiny import randomise_norms

onnx = pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")


class Everything(nn.Module):
    """Every kind of operation that int8 networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.same = nn.Conv2d(8, 8, (3, 2), padding="same", dilation=(2, 1))
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.norm = nn.BatchNorm2d(8)
        self.average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.grid = nn.AdaptiveAvgPool2d((3, 2))
        self.valid = nn.Conv2d(8, 6, 2, padding="valid")
        self.hidden, self.last = nn.Linear(12, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = torch.relu(x + self.same(x))
        x = self.norm(x * torch.sigmoid(self.depth(x)))
        x = self.valid(self.grid(self.average(F.avg_pool2d(x, 3, 1, 1))))
        return self.last(F.silu(self.hidden(x.flatten(1))))


class Global(nn.Module):
    """A mean over everything, and a layer whose input stays on its grid through a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.last = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(self.pool(F.relu(self.conv(x))), 1))


class OneActivation(nn.Module):
    """An activation that is one module, called after several layers, as in a ResNet's block."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.two(self.relu(self.one(x))))


class Several(nn.Module):
    """Layers and functions that give several tensors, of which some are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = x - 0.5 * x.max(1, keepdim=True)[0]
        tokens = x.flatten(2).transpose(1, 2)
        x = self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
        return self.two(x.clone())


class Masked(nn.Module):
    """Truths and constants beside the features, as the shifted windows of a Swin Transformer have them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        level = x.new_zeros(x.shape[-1]) + torch.arange(x.shape[-1]) % 2
        mask = level.masked_fill(level != 0, -4.0).masked_fill(level == 0, 0.0)
        x = torch.where((x > 0.1).logical_or(x < -0.1), x + mask, torch.zeros_like(x))
        return self.two(x)


def exported(network, shape, folder):
    """The integer form in onnxruntime, with its operators."""
    from autosplit.models.onnx_files import write_onnx

    write_onnx(integer_form(network, shape), torch.zeros(2, *shape), folder / "n.onnx", ("x", "y"),
               translations=translations())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(folder / "n.onnx"), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(folder / "n.onnx").graph.node]
    return (lambda x: session.run(None, {"x": x.numpy()})[0]), operators


@pytest.mark.parametrize("kind", [Everything, Global, OneActivation, Masked])
def test_equal_to_the_bit(kind, tmp_path):
    torch.manual_seed(0)
    network = kind().eval()
    randomise_norms(network)
    images = torch.randn(24, 3, 26, 22)
    quantised = quantise_int8(network, [images])
    run, operators = exported(quantised, (3, 26, 22), tmp_path)
    layers = sum(isinstance(m, Int8Layer) for m in quantised.modules())
    assert operators.count("ConvInteger") + operators.count("MatMulInteger") == layers
    assert "Conv" not in operators
    for batch in (images, images[:1] * 3):  # the second far outside of what was calibrated on
        with torch.inference_mode():
            expected = quantised(batch).numpy()
        assert len(np.unique(expected)) > len(expected)
        np.testing.assert_array_equal(run(batch), expected)


def test_sums_of_large_weights_do_not_overflow(tmp_path):
    """All products as large as they get: in 16 bits, as some engines add them, this would saturate."""
    network = nn.Sequential(nn.Conv2d(64, 2, 3, bias=False)).eval()
    nn.init.ones_(network[0].weight)
    images = torch.ones(2, 64, 3, 3)
    quantised = quantise_int8(network, [images])
    run, _ = exported(quantised, (64, 3, 3), tmp_path)
    assert run(images).ravel() == pytest.approx(np.full(4, 64 * 9), rel=1e-2)
    np.testing.assert_array_equal(run(images), quantised(images).numpy())


def test_float_networks_stay_as_they_are():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert integer_form(network, (3, 8, 8)) is network


def test_the_original_is_left_alone():
    torch.manual_seed(0)
    quantised = quantise_int8(Global().eval(), [torch.randn(4, 3, 8, 8)])
    before = str(quantised.graph)
    integer_form(quantised, (3, 8, 8))
    assert str(quantised.graph) == before
    assert sum(isinstance(m, Int8Layer) for m in quantised.modules()) == 2


def test_what_gives_several_tensors_is_exported(tmp_path):
    """Each is rounded when it is taken out. Attention computes in float: sums in another order may move a level."""
    torch.manual_seed(0)
    network, images = Several().eval(), torch.randn(8, 3, 9, 9)
    from autosplit.models.tracing import trace

    quantised = quantise_int8(trace(nn.Sequential(network, nn.Flatten()), (3, 9, 9)), [images])
    run, operators = exported(quantised, (3, 9, 9), tmp_path)
    assert operators.count("ConvInteger") == 2
    with torch.inference_mode():
        expected = quantised(images).numpy()
    found = run(images)
    assert np.mean(np.abs(found - expected) > 1e-5) < 0.05
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
