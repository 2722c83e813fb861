"""A plain function as a latency model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autosplit.core.errors import PluginError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.scenario import load_scenario
from autosplit.latency import load_latency_model
from autosplit.latency.checked import CheckedLatencyModel
from autosplit.latency.function import FunctionLatency
from autosplit.testing.latency import LatencyModelContract

CONDITIONS = [load_scenario().conditions, load_scenario().replace(conditions__budget_ms=5.0).conditions]
PLANS = [Workload(plan=Plan(split="stem", codec=CodecSetting(kind="code", width=w, grid=4, bits=4)),
                  device=StageCost(conv_macs=1e6 * w), payload_bytes_mean=10.0 * w, payload_bytes_p95=12.0 * w)
         for w in (1, 2)]


def priced(work, conditions):
    return {"device_ms": work.device.macs / 1e6, "uplink_ms": work.payload_bytes_mean,
            "energy_mj": conditions.channel.uplink_kbps.value}


class TestContract(LatencyModelContract):
    @pytest.fixture
    def model(self):
        return FunctionLatency(priced)


def test_stages_sum_up():
    found = FunctionLatency(priced).latency(PLANS, CONDITIONS)
    assert found.p95_ms.tolist() == [[11, 11], [22, 22]]
    assert found.in_time.tolist() == [[1, 0], [1, 0]]
    assert found.energy_mj.tolist() == [[50, 50], [50, 50]]


@pytest.mark.parametrize("answer", [7, 7.0, np.float32(7), np.array(7), torch.tensor(7.0)])
def test_numbers_of_every_kind(answer):
    assert FunctionLatency(lambda work: answer).latency(PLANS, CONDITIONS).device_ms.tolist() == [[7, 7], [7, 7]]


@pytest.mark.parametrize(("function", "message"), [
    (lambda work: np.random.default_rng().random(), "answers the same question differently"),
    (lambda work: {"cloud_ms": 3}, "'cloud_ms'; known are device_ms"),
    (lambda work: "fast", "gives str .*; give one number of milliseconds"),
    (lambda work: "3", "gives str"), (lambda work: {"device_ms": "3"}, "gives dict .*'3' is no number"),
    (lambda work: True, "gives bool"),
    (lambda work: [1, 2], "gives list"), (lambda work: None, "gives NoneType"),
    (lambda work: -1.0, "no value may be negative"), (lambda work: float("nan"), "must be finite"),
])
def test_wrong_answers_name_the_model(function, message):
    with pytest.raises(PluginError, match=f"latency model 'mine' on plan .*{message}"):
        CheckedLatencyModel(FunctionLatency(function), "mine").latency(PLANS, CONDITIONS)


def test_a_function_of_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def milliseconds(work, conditions):\n    return 4.0\ndef factory():\n    return milliseconds\n")
    assert load_latency_model(f"{file}:milliseconds").latency(PLANS, CONDITIONS).p95_ms.tolist() == [[4, 4], [4, 4]]

