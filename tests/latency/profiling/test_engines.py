"""What runs a network that is timed."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from autosplit.core.errors import ConfigError
from autosplit.latency.profiling import engines, run
from autosplit.latency.profiling.engines import OnnxEngine, TorchEngine
from autosplit.latency.profiling.run import profile_machine
from autosplit.latency.profiling.stopwatch import WallClock
from autosplit.latency.profiling.units import folded
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8
from autosplit.runtime.standalone.profiling import clock
from tests.latency.profiling.machines import LawfulClock, settings
from tests.runs import failure

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return folded(trace(resnet8(10, 3).eval(), SHAPE))


def test_both_engines_time_every_operator(graph):
    image = torch.zeros(1, *SHAPE)
    for engine in (OnnxEngine(WallClock(), 1), TorchEngine(WallClock())):
        units, timer = engine.by_unit(graph, image)
        seconds = timer(3)
        assert len(units) == len(seconds) == 14
        assert seconds.min() > 0
        assert engine.whole(graph, image)(3) > 0


def test_a_profile_of_onnxruntime_says_so_and_adds_up(tmp_path, monkeypatch):
    every = run.variants_of
    monkeypatch.setattr(clock, "ROUNDS", 1)
    monkeypatch.setattr(run, "variants_of", lambda *given: islice(every(*given), 1))  # writing ONNX takes seconds
    wanted = settings(tmp_path, "resnet8", engine="onnxruntime", repeats=2)
    made = profile_machine(wanted, tmp_path / "mine.yaml", stopwatch=LawfulClock())  # whose calls take 0.2 ms
    assert "onnxruntime" in made.device.title
    assert sum(t.time_ms for t in made.timings) == pytest.approx(0.2)


def test_kernels_that_are_not_found_are_an_error(graph, monkeypatch):
    monkeypatch.setattr(engines, "kernel_seconds", lambda *_: {"another": 1e-5})
    _, timer = OnnxEngine(WallClock(), 1).by_unit(graph, torch.zeros(1, *SHAPE))
    with pytest.raises(ConfigError, match=r"only 0 of 10 layers are found .* --engine torch"):
        timer(2)


def test_an_engine_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("autosplit.models.onnx_files.importlib.util.find_spec", lambda name: None)
    assert "pip install onnx onnxscript onnxruntime" in failure(
        "profile", "--backbone", "resnet8", "--image-shape", "3x32x32", "--engine", "onnxruntime", "--out",
        tmp_path / "mine.yaml")
