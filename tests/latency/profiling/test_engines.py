"""Time of an inference shared among the operators of its network."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from autosplit.core.errors import ConfigError
from autosplit.latency.profiling import engines, run
from autosplit.latency.profiling.engines import OnnxEngine, TorchEngine, attributed, undisturbed, weight_of
from autosplit.latency.profiling.run import profile_machine
from autosplit.latency.profiling.stopwatch import WallClock
from autosplit.latency.profiling.units import folded, units_of
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8
from tests.latency.profiling.machines import LawfulClock, settings
from tests.runs import failure

pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
onnx = pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return folded(trace(resnet8(10, 3).eval(), SHAPE))


def kernels_of(units):
    """A kernel for every operator with a weight, and one that has none."""
    weights = {f"k{i}": f"{unit.node.replace('_', '.')}.weight" for i, unit in enumerate(units) if unit.weights}
    return {name: 1e-5 * (i + 1) for i, name in enumerate(weights)} | {"pool": 3e-6}, {**weights, "pool": None}


def test_every_second_of_an_inference_is_somebodys(graph):
    units = units_of(graph, SHAPE)
    kernels, weights = kernels_of(units)
    seconds = attributed(units, graph, kernels, weights, whole_s=sum(kernels.values()) + 14e-6)
    assert seconds.sum() == pytest.approx(sum(kernels.values()) + 14e-6)
    alike = 14e-6 / len(units)
    owned = [s for s, unit in zip(seconds, units, strict=True) if unit.weights]
    assert np.array(owned) - alike == pytest.approx([s for name, s in kernels.items() if name != "pool"])
    rest = {unit.node: s - alike for s, unit in zip(seconds, units, strict=True) if not unit.weights}
    assert sum(rest.values()) == pytest.approx(3e-6)
    assert max(rest, key=rest.get) == "add", "the largest feature map"


def test_a_profiler_that_takes_time_itself_is_not_believed(graph):
    units = units_of(graph, SHAPE)
    kernels, weights = kernels_of(units)
    seconds = attributed(units, graph, kernels, weights, whole_s=1e-4)
    assert seconds.sum() == pytest.approx(1e-4)
    assert seconds.min() > 0


def test_kernels_of_unknown_names_are_an_error(graph):
    units = units_of(graph, SHAPE)
    kernels, weights = kernels_of(units)
    with pytest.raises(ConfigError, match=r"only 0 of 10 layers are found .* --engine torch"):
        attributed(units, graph, kernels, dict.fromkeys(weights), 1e-3)


def test_a_weight_that_is_used_twice_is_shared_in_the_order_of_use():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    graph = folded(trace(Twice().eval(), SHAPE))
    kernels, weights = {"a": 1e-5, "b": 2e-5}, {"a": "conv.weight", "b": "conv.weight"}
    seconds = attributed(units_of(graph, SHAPE), graph, kernels, weights, 3e-5)
    assert seconds == pytest.approx([1e-5, 2e-5])


def test_a_fused_kernel_is_traced_back_to_its_weight():
    node = onnx.helper.make_node
    weights = [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [0.0])
               for name in ("a.weight", "a.bias", "b.weight")]
    graph = onnx.helper.make_graph(
        [node("Conv", ["x", "a.weight", "a.bias"], ["conv"], name="node_Conv_1"), node("Relu", ["conv"], ["relu"]),
         node("Conv", ["relu", "b.weight"], ["conv_1"]), node("Add", ["conv_1", "relu"], ["add"], name="node_add"),
         node("Relu", ["add"], ["relu_1"])],
        "net", [], [], weights)
    for kernel, weight in (("relu_nchwc", "a.weight"), ("fused node_Conv_1", "a.weight"), ("node_Conv_1", "a.weight"),
                           ("conv_1_nchwc", "b.weight"), ("node_add", None), ("relu_1", None), ("ReorderOutput", None)):
        assert weight_of(graph, kernel) == weight, kernel


def test_both_engines_time_every_operator(graph):
    image = torch.zeros(1, *SHAPE)
    for engine in (OnnxEngine(WallClock(), 1), TorchEngine(WallClock())):
        units, timer = engine.by_unit(graph, image)
        seconds = timer(3)
        assert len(units) == len(seconds) == 14
        assert seconds.min() > 0
        assert engine.whole(graph, image)(3) > 0


def test_the_quickest_of_several_rounds_counts():
    given = iter([3.0, 5.0, 9.0, 4.0, 2.0, 7.0])
    steps = []
    found = undisturbed([lambda most: np.array([next(given), most])] * 2, 1, steps.append)
    assert [row.tolist() for row in found] == [[2.0, 1.0], [4.0, 1.0]]
    assert len(steps) == 6


def test_a_profile_of_onnxruntime_says_so_and_adds_up(tmp_path, monkeypatch):
    every = run.variants_of
    monkeypatch.setattr(engines, "ROUNDS", 1)
    monkeypatch.setattr(run, "variants_of", lambda *given: islice(every(*given), 1))  # writing ONNX takes seconds
    wanted = settings(tmp_path, "resnet8", engine="onnxruntime", repeats=2)
    made = profile_machine(wanted, tmp_path / "mine.yaml", stopwatch=LawfulClock())  # whose calls take 0.2 ms
    assert "onnxruntime" in made.device.title
    assert sum(t.time_ms for t in made.timings) == pytest.approx(0.2)


def test_an_engine_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("autosplit.models.onnx_files.importlib.util.find_spec", lambda name: None)
    assert "pip install onnx onnxscript onnxruntime" in failure(
        "profile", "--backbone", "resnet8", "--image-shape", "3x32x32", "--engine", "onnxruntime", "--out",
        tmp_path / "mine.yaml")
