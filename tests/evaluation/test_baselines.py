"""The trivial deployments, and the table that sets a plan against them."""

from __future__ import annotations

import pytest

from autosplit.evaluation.baselines import Baseline, comparison_rows, trivial_deployments
from autosplit.evaluation.live import LiveEvaluator
from autosplit.latency import load_latency_model
from autosplit.plan import INPUT, OUTPUT, CodecSetting, LatencySummary, Measurement, Plan, StageCost, Workload
from tests.synthetic import PlainLatency, make_conditions, small_table

WHOLE = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
PNG = Plan(split=INPUT, codec=CodecSetting(kind="png"))


def jpeg(quality):
    return Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=quality))


class Scripted:
    """Accuracies and bytes by plan; a raw cut of 1000 or 500 bytes at the splits a and b."""

    def __init__(self, jpegs, whole=0.9):
        self.accuracy = {WHOLE: whole, PNG: whole} | {jpeg(q): a for q, (a, _) in jpegs.items()}
        self.payload = {WHOLE: 0.0, PNG: 2000.0} | {jpeg(q): b for q, (_, b) in jpegs.items()}
        self.measured = []

    def work(self, plan):
        payload = {"a": 1000.0, "b": 500.0}.get(plan.split, self.payload.get(plan))
        return Workload(plan=plan, device=StageCost(conv_macs=1e6), payload_bytes_mean=payload,
                        payload_bytes_p95=payload)

    def workloads(self, plans):
        return [self.work(p) for p in plans]

    def measure(self, plans):
        self.measured.extend(plans)
        return [Measurement(plan=p, accuracy=self.accuracy[p], workload=self.work(p), feature_bytes=3072.0)
                for p in plans]


def trivial(evaluator, splits=("a", "b"), qualities=(10, 50, 90)):
    return trivial_deployments(evaluator, PlainLatency(), make_conditions(), splits, qualities)


def test_the_smallest_jpeg_that_loses_two_points_at_most():
    found = trivial(Scripted({10: (0.8, 300.0), 50: (0.881, 600.0), 90: (0.9, 1200.0)}))
    names = [b.name for b in found]
    assert names == ["whole network on device", "raw image (PNG)", "JPEG q50", "split, no compression"]
    assert found[2].measurement.plan == jpeg(50)


def test_size_decides_not_quality():
    found = trivial(Scripted({10: (0.9, 700.0), 50: (0.9, 600.0), 90: (0.9, 1200.0)}))
    assert found[2].measurement.plan == jpeg(50)


def test_the_best_jpeg_where_all_lose_more():
    found = trivial(Scripted({10: (0.5, 300.0), 50: (0.7, 600.0), 90: (0.6, 1200.0)}))
    assert found[2].name == "JPEG q50"


def test_the_quickest_cut_has_the_backbones_accuracy_and_is_not_measured():
    evaluator = Scripted({10: (0.8, 300.0), 50: (0.881, 600.0), 90: (0.9, 1200.0)})
    cut = trivial(evaluator)[3]
    assert cut.measurement.plan == Plan(split="b", codec=CodecSetting(kind="raw"))
    assert cut.measurement.accuracy == 0.9
    assert cut.measurement.workload.payload_bytes_mean == cut.measurement.feature_bytes == 500.0
    assert cut.measurement.compression_ratio == 1.0
    assert not [p for p in evaluator.measured if p.codec.kind == "raw"]


def test_a_backbone_without_cuts_has_three():
    assert len(trivial(Scripted({50: (0.9, 600.0)}), splits=(), qualities=(50,))) == 3


def test_latencies_are_the_models(prepared):
    model, conditions = load_latency_model("analytic"), prepared.scenario.conditions
    for b in trivial_deployments(LiveEvaluator(prepared), model, conditions, ("layer1", "layer3"), (50, 90)):
        assert b.latency == model.latency([b.measurement.workload], [conditions]).summary(0)
        assert b.measurement.plan == b.measurement.workload.plan


# --- the table ------------------------------------------------------------------------------------------------------


def latency(p95_ms):
    return LatencySummary(device_ms=1, encode_ms=0, uplink_ms=0, edge_ms=0, downlink_ms=0, p50_ms=p95_ms * 0.9,
                          p95_ms=p95_ms, in_time=1.0, energy_mj=1.0)


def rows(chosen_ms=50.0, budget_ms=100.0):
    table = small_table()
    code = next(m for m in table.measure(table.space.plans()) if m.plan.codec.kind == "code")
    whole, png = table.measure([WHOLE, PNG])
    baselines = [Baseline("whole", whole, latency(200.0)), Baseline("png", png, latency(400.0))]
    chosen = Baseline("autosplit", code, latency(chosen_ms))
    return code, comparison_rows(baselines, [0.95, 0.9], chosen, 0.93, budget_ms, (2000.0, 900.0))


def test_losses_and_speed_ups():
    _, table = rows()
    assert [r.accuracy_loss_points for r in table] == pytest.approx([0.0, 5.0, 2.0])
    assert [r.speed_up for r in table] == [1.0, 0.5, 4.0]
    assert [r.chosen for r in table] == [False, False, True]


@pytest.mark.parametrize(("budget_ms", "expected"), [(100.0, [False, False, True]), (200.0, [True, False, True]),
                                                     (49.9, [False, False, False])])
def test_feasibility_is_that_of_the_95th_percentile(budget_ms, expected):
    assert [r.feasible for r in rows(budget_ms=budget_ms)[1]] == expected


def test_ratios():
    code, table = rows()
    payload = code.workload.payload_bytes_mean
    assert table[0].ratio_to_feature is table[0].ratio_to_png is table[0].ratio_to_jpeg is None
    assert table[2].ratio_to_png == 2000 / payload
    assert table[2].ratio_to_jpeg == 900 / payload
    assert table[2].ratio_to_feature == code.feature_bytes / payload
    assert table[2].device_macs == code.workload.device.macs + code.workload.encode.macs
