"""Levels of plans that were measured, and which of them are worth having."""

from __future__ import annotations

import pytest

from autosplit.core.measurement import ExitPoint, Measurement, StageCost, Workload
from autosplit.core.plan import OUTPUT, CodecSetting, Exit, Plan
from autosplit.envs.stream.levels import Level, worth_having
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import score
from autosplit.latency import load_latency_model
from tests.envs.stream.streams import stream

MODEL = load_latency_model("analytic")


def on_device(macs, accuracy, sparsity=0.0):
    plan = Plan(split=OUTPUT, sparsity=sparsity, codec=CodecSetting(kind="none"))
    return Measurement(plan=plan, accuracy=accuracy, workload=Workload(plan=plan, device=StageCost(conv_macs=macs)))


def conditions(budget_ms=1e6):
    return stream(budget_ms=budget_ms).conditions


def test_what_another_beats_is_not_worth_having():
    plans = [on_device(m * 1e6, a, s) for m, a, s in
             [(1, 0.2, 0.9), (2, 0.6, 0.8), (3, 0.55, 0.7), (4, 0.8, 0.5), (4.1, 0.8, 0.4), (8, 0.9, 0.0)]]
    found = worth_having(plans, conditions(), MODEL, 10)
    # beaten are the third and the fifth, and the first is not half as accurate as the best
    assert [o.measurement.accuracy for o in found] == [0.6, 0.8, 0.9]
    assert [o.measurement.accuracy for o in worth_having(plans, conditions(), MODEL, 2)] == [0.6, 0.9]
    assert [o.measurement.accuracy for o in worth_having(plans, conditions(), MODEL, 1)] == [0.9]


def test_what_comes_too_late_is_not_worth_having_unless_all_do():
    plans = [on_device(2e6, 0.6, 0.5), on_device(8e6, 0.9)]
    quick, slow = (o.latency.p50_ms for o in worth_having(plans, conditions(), MODEL, 2))
    assert len(worth_having(plans, conditions((quick + slow) / 2), MODEL, 2)) == 1
    (least,) = worth_having(plans, conditions(quick / 2), MODEL, 2)
    assert least.measurement.accuracy == 0.6


def level_of(measurement):
    return Level.of(score([measurement], MODEL, load_objective("in-time-accuracy"), conditions())[0])


def test_a_plan_on_the_device_sends_nothing():
    level = level_of(on_device(2e6, 0.6))
    assert (level.sent, level.payload_bytes, level.encode_ms, level.edge_ms) == (0.0, 0.0, 0.0, 0.0)
    assert level.device_ms > 0
    assert level.accuracy == 0.6


def test_an_exit_answers_what_it_is_sure_of():
    codec = CodecSetting(kind="code", family="nested", width=4, bits=4, grid=8)
    plan = Plan(split="stem", codec=codec)
    work = Workload(plan=plan, device=StageCost(conv_macs=1e6), encode=StageCost(conv_macs=1e5),
                    edge=StageCost(conv_macs=1e8), payload_bytes_mean=100.0, payload_bytes_p95=150.0, result_bytes=4.0)
    point = ExitPoint(exit=Exit(threshold=0.9), sent=0.3, exit_accuracy=0.99, sent_accuracy=0.8,
                      payload_bytes_mean=120.0, payload_bytes_p95=160.0)
    whole, with_exit = Measurement(plan=plan, accuracy=0.9, workload=work, exits=(point,)).variants
    level = level_of(whole)
    assert (level.sent, level.edge_accuracy) == (1.0, 0.9)
    assert level.payload_sd_bytes == pytest.approx(50.0 / 1.645, rel=1e-3)
    assert level.edge_ms > 0
    left = level_of(with_exit)
    assert (left.sent, left.device_accuracy, left.edge_accuracy) == (0.3, 0.99, 0.8)
    assert left.payload_bytes == 120.0
    assert left.accuracy == pytest.approx(0.7 * 0.99 + 0.3 * 0.8)
