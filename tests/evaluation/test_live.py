"""The live evaluator: every kind of plan, the same answer whenever it is asked, and figures that can be checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autosplit.compression.network import recalibrate
from autosplit.core.measurement import RESULT_BYTES
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.data.stored import StoredFormat
from autosplit.evaluation.live import LiveEvaluator
from autosplit.training.loop import accuracy
from autosplit.training.precision import autocast


@pytest.fixture(scope="module")
def live(prepared):
    return LiveEvaluator(prepared)


@pytest.fixture(scope="module")
def measured(live):
    """Every plan of the space, in order."""
    plans = live.space.plans()
    return dict(zip(plans, live.measure(plans), strict=True))


def without_time(measurements):
    return [m.model_copy(update={"seconds": 0.0}) for m in measurements]


def test_every_plan_is_measured(live, measured, prepared):
    assert len(measured) == len(live.space)
    images = {"png", "jpeg", "jpeg-shared", "webp-shared"}
    assert {p.codec.kind for p in measured} - {"avif-shared"} == {"code", "none", *images}
    assert {p.split for p in measured} == {INPUT, OUTPUT, *(point.name for point in prepared.points)}
    for plan, m in measured.items():
        assert m.plan == m.workload.plan == plan
        assert m.fidelity == "F1"
        assert m.images == len(prepared.data.validation)
        assert m.accuracy * m.images == pytest.approx(round(m.accuracy * m.images))
        assert m.seconds > 0


def test_a_measurement_does_not_depend_on_what_was_measured_before(prepared, measured):
    chosen = list(measured)[::5]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(chosen)), rng.permutation(len(chosen))]
    for order in orders:
        fresh = LiveEvaluator(prepared)
        plans = [chosen[i] for i in order]
        assert without_time(fresh.measure(plans)) == without_time(measured[p] for p in plans)
        assert without_time(fresh.measure(plans[:3])) == without_time(measured[p] for p in plans[:3])


def test_little_memory_changes_nothing(prepared, measured, monkeypatch):
    monkeypatch.setattr("autosplit.evaluation.live._CACHED_BYTES", 0.0)
    plans = list(measured)[4::9]
    assert without_time(LiveEvaluator(prepared).measure(plans)) == without_time(measured[p] for p in plans)


def test_a_processor_with_bfloat16_measures_the_same(prepared, measured, monkeypatch):
    """Its training is in bfloat16; a measurement in it would be another one, and machines share ledgers and caches."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with autocast():
        assert torch.is_autocast_enabled("cpu")  # a training would be in bfloat16 now
    live, plans = LiveEvaluator(prepared), list(measured)[::7]
    assert {p.codec.kind for p in plans} >= {"code"}
    plans += [Plan(split="layer2", sparsity=0.5, codec=CodecSetting(kind="raw"))]
    again = without_time(live.measure(plans))
    assert again[:-1] == without_time(measured[p] for p in plans[:-1])
    assert {t.dtype for f in live._features.values() for t in (f.statistics, f.calibration, f.validation)} == {
        torch.float32}


def test_the_untouched_network_has_the_backbones_accuracy(prepared, measured):
    expected = accuracy(prepared.backbone, prepared.data, prepared.data.validation)
    assert measured[Plan(split=OUTPUT, codec=CodecSetting(kind="none"))].accuracy == expected
    assert measured[Plan(split=INPUT, codec=CodecSetting(kind="png"))].accuracy == expected


def test_jpeg_accuracy_is_that_of_the_decoded_files(prepared, measured):
    for quality in (50, 90):
        seen = prepared.data.coded_images("validation", StoredFormat("jpeg", quality))
        for kind in ("jpeg", "jpeg-shared"):
            m = measured[Plan(split=INPUT, codec=CodecSetting(kind=kind, quality=quality))]
            assert m.accuracy == accuracy(prepared.coded_backbone, prepared.data, seen)


def test_image_payloads_are_the_stored_files(prepared, measured):
    settings = [CodecSetting(kind=kind, quality=50) for kind in ("jpeg", "jpeg-shared")]
    for setting in (CodecSetting(kind="png"), *settings):
        sizes = prepared.data.stored_bytes("validation", setting.stored_format).numpy()
        work = measured[Plan(split=INPUT, codec=setting)].workload
        assert work.payload_bytes_mean == sizes.mean()
        assert work.payload_bytes_p95 == np.percentile(sizes, 95)


def test_predicted_payload_is_that_of_images_no_table_was_fitted_on(live, measured):
    codes = [p for p in measured if p.codec.kind == "code"]
    for plan, work in zip(codes, live.workloads(codes), strict=True):
        found = measured[plan].workload
        if plan.sparsity == 0.0:  # what is predicted from the unpruned head is then what is measured
            assert (work.payload_bytes_mean, work.payload_bytes_p95) == pytest.approx(
                (found.payload_bytes_mean, found.payload_bytes_p95), rel=1e-9), plan.label
        assert 0.7 < work.payload_bytes_mean / found.payload_bytes_mean < 1.4, plan.label
    exact = [p for p in measured if p.codec.kind != "code"]
    assert live.workloads(exact) == [measured[p].workload for p in exact]


def test_prediction_does_not_change_once_measured(live, measured, prepared):
    plans = list(measured)
    assert live.workloads(plans) == LiveEvaluator(prepared).workloads(plans)


def test_payload_grows_with_bits_and_width(measured):
    def mean(width, bits):
        plan = Plan(split="layer1", codec=CodecSetting(kind="code", width=width, grid=4, bits=bits))
        return measured[plan].workload.payload_bytes_mean

    assert mean(2, 2) < mean(2, 8) < mean(4, 8)
    assert mean(2, 2) < mean(4, 2)
    assert mean(4, 8) <= 4 + 4 * 4 * 4 * 2  # header, and never more than 16 bits a symbol


def test_pruning_takes_work_off_the_device_only(measured):
    codec = CodecSetting(kind="code", width=2, grid=4, bits=2)
    whole, pruned = (measured[Plan(split="layer2", sparsity=s, codec=codec)].workload for s in (0.0, 0.5))
    assert 0 < pruned.device.macs < 0.7 * whole.device.macs
    assert pruned.encode == whole.encode
    assert pruned.edge == whole.edge


def test_stages_of_an_unpruned_plan_are_the_whole_network(live, measured):
    whole = measured[Plan(split=OUTPUT, codec=CodecSetting(kind="none"))].workload
    for split in ("stem", "layer1", "layer2", "layer3"):
        (raw,) = live.workloads([Plan(split=split, codec=CodecSetting(kind="raw"))])
        assert raw.device.macs + raw.edge.macs == whole.device.macs
        assert raw.payload_bytes_mean == raw.payload_bytes_p95 == 4 * np.prod(live._supernet.points[split].shape)
    on_edge = measured[Plan(split=INPUT, codec=CodecSetting(kind="png"))].workload
    assert on_edge.device.macs == 0
    assert on_edge.edge.macs == whole.device.macs


def test_raw_cuts_are_measured_though_no_search_proposes_them(live, measured, prepared):
    raw = CodecSetting(kind="raw")
    whole = measured[Plan(split=OUTPUT, codec=CodecSetting(kind="none"))]
    plain, pruned = live.measure([Plan(split="layer2", sparsity=s, codec=raw) for s in (0.0, 0.5)])
    assert plain.accuracy == whole.accuracy
    assert plain.workload.payload_bytes_mean == plain.feature_bytes
    network = prepared.supernet.extract(Plan(split="layer2", sparsity=0.5, codec=raw))
    recalibrate(network, prepared.data.normalise(
        prepared.data.train.images[: prepared.scenario.search.recalibration_images]))
    assert pruned.accuracy == accuracy(network, prepared.data, prepared.data.validation)
    assert pruned.workload.device.macs < plain.workload.device.macs


def test_what_crosses_and_what_comes_back(measured):
    for plan, m in measured.items():
        stays = plan.split == OUTPUT
        assert (m.workload.payload_bytes_mean == 0) == stays
        assert m.workload.result_bytes == (0 if stays else RESULT_BYTES)
        assert (m.compression_ratio is None) == stays


def test_measuring_does_not_train(prepared, measured):
    before = {k: v.clone() for k, v in prepared.supernet.state_dict().items()}
    LiveEvaluator(prepared).measure(list(measured)[10:20:3])
    assert all((before[k] == v).all() for k, v in prepared.supernet.state_dict().items())
    assert not prepared.supernet.training
    assert not prepared.backbone.training
