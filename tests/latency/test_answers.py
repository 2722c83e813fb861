"""Models that take long, that vary, or that answer with lists and tensors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.scenario import load_scenario
from autosplit.latency import LatencyBreakdown, load_latency_model
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.checked import CheckedLatencyModel, is_slow, reporting, require_quick

HERE = load_scenario().conditions
CONDITIONS = [HERE, load_scenario().replace(conditions__budget_ms=5.0).conditions]
PLANS = [Workload(plan=Plan(split="stem", codec=CodecSetting(kind="code", width=w, grid=4, bits=4)),
                  device=StageCost(conv_macs=1e6 * w), payload_bytes_mean=10.0 * w, payload_bytes_p95=12.0 * w)
         for w in range(1, 41)]


CLOCK = SimpleNamespace(now=0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes only while a model of these tests answers."""
    monkeypatch.setattr("autosplit.latency.answers.time", SimpleNamespace(perf_counter=lambda: CLOCK.now))


class Counted:
    """A model that takes a while for each plan, or for each question; it counts both."""

    def __init__(self, each_s: float = 0.0, question_s: float = 0.0) -> None:
        self.each_s, self.question_s = each_s, question_s
        self.plans: list[int] = []

    def latency(self, workloads, conditions):
        self.plans.append(len(workloads))
        CLOCK.now += self.question_s + self.each_s * len(workloads)
        macs = np.array([[w.device.macs / 1e6] * len(conditions) for w in workloads])
        none = np.zeros_like(macs)
        return LatencyBreakdown.deterministic(conditions, device_ms=macs, encode_ms=none, uplink_ms=none, edge_ms=none,
                                              downlink_ms=none)


def test_a_slow_model_is_asked_once_about_each_plan():
    """And about the first one twice, to see whether the answer is the same."""
    inner = Counted(each_s=0.006)
    model = CheckedLatencyModel(inner, "mine")
    found = [model.latency(PLANS, [HERE]).p95_ms[:, 0].tolist() for _ in range(3)]
    assert found == [[float(w) for w in range(1, 41)]] * 3
    assert sum(inner.plans) == len(PLANS) + 1
    model.latency(PLANS[5:7], CONDITIONS)  # another deadline is another question to a class
    assert sum(inner.plans) == len(PLANS) + 3
    assert model.latency(PLANS[5:7], CONDITIONS).in_time.tolist() == [[1, 0], [1, 0]]


def test_a_model_that_takes_long_for_a_question_is_asked_about_many_plans():
    """Twenty milliseconds a question, however many plans: eight questions and not forty-one."""
    inner = Counted(question_s=0.02)
    model = CheckedLatencyModel(inner, "mine")
    model.latency(PLANS, [HERE])
    assert len(inner.plans) <= 8
    assert not is_slow(model)


def test_quick_models_are_asked_everything_at_once():
    inner = Counted()
    model = CheckedLatencyModel(inner, "mine")
    model.latency(PLANS, CONDITIONS)
    model.latency(PLANS, CONDITIONS)
    assert inner.plans == [1, 1, len(PLANS), len(PLANS)]
    assert not is_slow(model)
    require_quick(model, "the map", PLANS[0], HERE)


def test_what_needs_a_quick_model_finds_a_slow_one_by_asking():
    model = CheckedLatencyModel(Counted(each_s=0.006), "mine.py:Slow")
    assert not is_slow(model)
    with pytest.raises(ConfigError, match=r"the map asks latency model 'mine.py:Slow' .*takes \d+ ms for one"):
        require_quick(model, "the map", PLANS[0], HERE)
    assert is_slow(model)


def test_the_time_is_announced_and_progress_reported(caplog):
    model = CheckedLatencyModel(Counted(each_s=0.15), "mine")
    seen: list[float] = []
    with reporting(model, lambda steps=1, note="": seen.append(steps)):
        model.latency(PLANS, [HERE])
    assert sum(seen) == len(PLANS)
    assert max(seen) <= 4  # 0.6 s; a bar that stands still for longer tells nothing
    assert "latency model 'mine' takes 150 ms for a plan: about 6 s for the 39" in caplog.text


class Counter:
    """Each answer is a millisecond more than the last."""

    def __init__(self) -> None:
        self.calls = 0

    def latency(self, workloads, conditions):
        self.calls += 1
        return np.full((len(workloads), len(conditions)), float(self.calls))


class Noise:
    def latency(self, workloads, conditions):
        return np.random.default_rng().random((len(workloads), len(conditions)))


@pytest.mark.parametrize("inner", [Counter(), Noise()])
def test_models_whose_answers_vary_are_refused(inner):
    with pytest.raises(PluginError, match=r"'mine' on plan 'stem.*answers the same question differently, p50_ms is"):
        CheckedLatencyModel(inner, "mine").latency(PLANS, CONDITIONS)


def test_a_function_that_varies_is_refused():
    with pytest.raises(PluginError, match="answers the same question differently"):
        load_latency_model(lambda work: np.random.default_rng().random()).latency(PLANS, CONDITIONS)


@pytest.mark.parametrize("kind", [np.ndarray.tolist, torch.from_numpy,
                                  lambda a: torch.from_numpy(a).requires_grad_(True), lambda a: a.astype(np.int64)])
def test_milliseconds_alone_come_as_lists_tensors_or_arrays(kind):
    class Bare:
        def latency(self, workloads, conditions):
            return kind(np.array([[w.payload_bytes_mean] * len(conditions) for w in workloads]))

    found = CheckedLatencyModel(Bare(), "mine").latency(PLANS[:2], CONDITIONS)
    assert found.p95_ms.tolist() == [[10, 10], [20, 20]]
    assert found.in_time.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("kind", [np.ndarray.tolist, torch.from_numpy])
def test_the_fields_of_a_breakdown_may_be_lists_or_tensors(kind):
    class Listed:
        def latency(self, workloads, conditions):
            ones = kind(np.ones((len(workloads), len(conditions))))
            return LatencyBreakdown.deterministic(conditions, device_ms=ones, encode_ms=ones, uplink_ms=ones,
                                                  edge_ms=ones, downlink_ms=ones, energy_mj=ones)

    class Whole:
        def latency(self, workloads, conditions):
            ones = kind(np.ones((len(workloads), len(conditions))))
            return LatencyBreakdown(ones, ones, ones, ones, ones, p50_ms=ones, p95_ms=ones, in_time=ones,
                                    energy_mj=ones)

    assert CheckedLatencyModel(Listed(), "mine").latency(PLANS[:3], CONDITIONS).p95_ms.tolist() == [[5, 5]] * 3
    found = CheckedLatencyModel(Whole(), "mine").latency(PLANS[:3], CONDITIONS)
    assert found.compute_mj.tolist() == [[1, 1]] * 3
    assert found.tail_mj.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(("answer", "message"), [
    (12.0, r"milliseconds of shape \(\); return shape \(1, 1\)"), ([[1, 2, 3]], r"shape \(1, 3\)"),
    ("soon", "returned a str"), ([[1], [2, 3]], "returned a list"), (None, "returned a NoneType"),
    ([[float("nan")]], "must be finite"), ([["a"]], "returned a list"),
])
def test_other_answers_are_named(answer, message):
    class Wrong:
        def latency(self, workloads, conditions):
            return answer

    with pytest.raises(PluginError, match=f"latency model 'mine' on plan .*{message}"):
        CheckedLatencyModel(Wrong(), "mine").latency(PLANS, [HERE])


class Busy(AnalyticLatencyModel):
    """One's own, made of the packaged one, on a machine that has no time for it."""

    def latency(self, workloads, conditions):
        CLOCK.now += 1.0
        return super().latency(workloads, conditions)


def test_a_busy_machine_makes_no_packaged_model_slow(monkeypatch):
    own = CheckedLatencyModel(Busy(), "mine")
    own.latency(PLANS[:1], CONDITIONS[:1])
    assert is_slow(own)
    stages = AnalyticLatencyModel.stages_ms

    def held_up(*arguments):
        CLOCK.now += 1.0
        return stages(*arguments)

    monkeypatch.setattr(AnalyticLatencyModel, "stages_ms", held_up)
    packaged = load_latency_model("analytic")
    packaged.latency(PLANS[:1], CONDITIONS[:1])
    assert packaged.answers.seconds >= 1.0
    assert not is_slow(packaged)
