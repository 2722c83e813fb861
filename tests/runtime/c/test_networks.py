"""Whole networks in C: the logits of torch, onnxruntime, microcontrollers and RISC-V are the same, to the bit."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Int8Conv2d
from autosplit.compression.lowering.operations import Convolution
from autosplit.data.base import normalise
from autosplit.models.pruning import HeadPruner
from autosplit.models.reduced import reduced
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8, resnet20
from tests.compression.int8_networks import ready
from tests.runtime.c import emulated
from tests.runtime.c.lowered import (
    NO_RISC_V,
    RISC_V,
    Answers,
    Case,
    compiled,
    onnx_answers,
    read_answers,
    write_program,
)

IMAGES, ON_BOARD = 32, 20
MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])


def pictures(count: int, side: int) -> torch.Tensor:
    """Noise of several scales, three of them black, white and chequered."""
    generator = torch.Generator().manual_seed(side)
    noise = (torch.rand(count, 3, n, n, generator=generator) for n in (3, 8, side))
    mixed = torch.stack([F.interpolate(x, side, mode="bilinear") for x in noise]).mean(0)
    images = ((mixed - 0.5) * 500 + 128).clamp(0, 255).round().to(torch.uint8)
    images[0], images[1] = 0, 255
    images[2] = (torch.arange(side).view(-1, 1) + torch.arange(side)) % 2 * 255
    return images


def pruned(graph: fx.GraphModule, shape: tuple[int, int, int]) -> fx.GraphModule:
    """With seven tenths of all channels that can go, so that layers have odd numbers of them."""
    pruner = HeadPruner(graph, shape)
    return pruner.sub_network(pruner.keep_counts(0.3)).materialise(graph).eval()


@functools.cache
def network(name: str) -> Case:
    """An int8 network with random weights, calibrated on its images."""
    torch.manual_seed(0)
    mobilenet = functools.partial(torchvision.models.mobilenet_v2, width_mult=0.35, num_classes=10)
    made: nn.Module = {"resnet8": resnet8, "resnet8, reduced": resnet8, "resnet20, pruned": resnet20,
                       "mobilenet_v2": mobilenet}[name]()
    shape = (3, 96, 96) if name == "mobilenet_v2" else (3, 32, 32)
    images = pictures(IMAGES, shape[1])
    x = normalise(images, MEAN, STD)
    graph = trace(ready(made, x), shape)
    if name == "resnet8, reduced":
        graph = ready(reduced(graph), x)
    if name == "resnet20, pruned":
        graph = ready(pruned(graph, shape), x)
    return Case(name, images.numpy(), MEAN, STD, quantise_int8(graph, [x]))


NAMES = ("resnet8", "resnet8, reduced", "resnet20, pruned", "mobilenet_v2")


def compare(cases: list[Case], found: list[Answers]) -> None:
    for case, logits in zip(cases, found, strict=True):
        np.testing.assert_array_equal(logits, case.torch, err_msg=case.name)


def test_the_networks_are_what_they_should_be() -> None:
    """Else the comparisons below would show little: answers differ, and channels are odd where they were pruned."""
    for name in NAMES:
        case = network(name)
        assert len(np.unique(case.torch)) > 9 * IMAGES
        assert np.ptp(case.torch.argmax(axis=1)) > 0
        layers = [o for o in case.step.program.operations if isinstance(o, Convolution)]
        assert len(layers) == {"resnet8": 10, "resnet8, reduced": 10, "resnet20, pruned": 22, "mobilenet_v2": 53}[name]
    channels = [m.weight.shape[0] for m in network("resnet20, pruned").head.modules() if isinstance(m, Int8Conv2d)]
    assert any(c % 2 for c in channels)
    assert any(c % 4 for c in channels)
    assert sum(o.depthwise for o in layers) == 17


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Of one program with all networks, which reads its images from a file."""
    folder = tmp_path_factory.mktemp("networks")
    return write_program([network(name) for name in NAMES], folder, folder / "images.bin"), folder / "images.bin"


@pytest.mark.parametrize("options", ["gcc -O2", "gcc -O3", "clang -O2", "clang -O3"])
def test_on_this_machine(sources: tuple[list[Path], Path], options: str) -> None:
    compiler, level = options.split()
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} on this machine")
    cases = [network(name) for name in NAMES]
    compare(cases, compiled(cases, *sources, compiler, (level,)))


@pytest.mark.skipif(bool(NO_RISC_V), reason=f"not on this machine: {', '.join(NO_RISC_V)}")
def test_on_risc_v(sources: tuple[list[Path], Path]) -> None:
    cases = [network(name) for name in NAMES]
    compare(cases, compiled(cases, *sources, RISC_V, ("-O3", "-static")))


@pytest.mark.skipif(bool(emulated.MISSING), reason=f"not on this machine: {', '.join(emulated.MISSING)}")
@pytest.mark.parametrize("core", ["m4", "m7"])
def test_on_a_microcontroller(core: emulated.Core, tmp_path: Path) -> None:
    few = []
    for name in NAMES:
        case = network(name)
        few.append(replace(case, images=case.images[np.linspace(1, IMAGES - 1, ON_BOARD).astype(int)]))
    compare(few, read_answers(few, emulated.run(write_program(few, tmp_path), [], tmp_path, core)))


def test_as_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    for name in NAMES:
        compare([network(name)], onnx_answers([network(name)], tmp_path))
