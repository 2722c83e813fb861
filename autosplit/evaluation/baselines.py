"""The trivial deployments that a found plan has to beat: the whole network on one side, or a cut without a codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autosplit.evaluation.base import Evaluator
from autosplit.latency.base import LatencyModel
from autosplit.plan import INPUT, OUTPUT, CodecSetting, LatencySummary, Measurement, Plan
from autosplit.report.tables import ComparisonRow
from autosplit.scenario import Conditions

__all__ = ["Baseline", "comparison_rows", "trivial_deployments"]

_MOST_LOSS = 0.02  # what a JPEG may lose to count as a deployment of the network


@dataclass(frozen=True)
class Baseline:
    """A deployment without learning of its own.

    Attributes:
        name: For tables.
        measurement: On validation data.
        latency: Under the scenario's conditions.
    """

    name: str
    measurement: Measurement
    latency: LatencySummary


def trivial_deployments(
    evaluator: Evaluator,
    latency_model: LatencyModel,
    conditions: Conditions,
    splits: Sequence[str],
    jpeg_qualities: Sequence[int],
) -> list[Baseline]:
    """Device-only, PNG, JPEG and the best cut without a codec, each measured on validation data.

    Of the JPEG qualities the smallest is taken that loses at most 2 points of accuracy against the backbone (the best
    one where all lose more); of the cuts the quickest.

    Args:
        evaluator: Measures.
        latency_model: Gives latencies.
        conditions: Device, edge, channel, budget.
        splits: Split points of the backbone.
        jpeg_qualities: Qualities to try.
    """

    def baseline(name: str, measurement: Measurement) -> Baseline:
        return Baseline(name, measurement, latency_model.latency([measurement.workload], [conditions]).summary(0))

    device_only = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
    png = Plan(split=INPUT, codec=CodecSetting(kind="png"))
    whole = evaluator.measure([device_only])[0]
    found = [baseline("whole network on device", whole), baseline("raw image (PNG)", evaluator.measure([png])[0])]
    jpegs = evaluator.measure([Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=q)) for q in jpeg_qualities])
    good = [m for m in jpegs if m.accuracy >= whole.accuracy - _MOST_LOSS]
    jpeg = (min(good, key=lambda m: m.workload.payload_bytes_mean) if good else max(jpegs, key=lambda m: m.accuracy))
    found.append(baseline(f"JPEG q{jpeg.plan.codec.quality}", jpeg))
    raw = [Plan(split=s, codec=CodecSetting(kind="raw")) for s in splits]
    if raw:
        cuts = [baseline("split, no compression", whole.model_copy(update={"plan": w.plan, "workload": w,
                                                                          "feature_bytes": w.payload_bytes_mean}))
                for w in evaluator.workloads(raw)]  # the backbone's own weights: its accuracy is the backbone's
        found.append(min(cuts, key=lambda b: b.latency.p95_ms))
    return found


def comparison_rows(
    baselines: Sequence[Baseline],
    accuracies: Sequence[float],
    chosen: Baseline,
    chosen_accuracy: float,
    budget_ms: float,
    stored_bytes: tuple[float, float],
) -> tuple[ComparisonRow, ...]:
    """The final table: the trivial deployments and the chosen plan.

    Args:
        baselines: The trivial deployments, the first of which is the whole network on the device.
        accuracies: Their test accuracies, in the same order.
        chosen: The chosen plan, with the payload measured on the test set.
        chosen_accuracy: Its test accuracy.
        budget_ms: The budget.
        stored_bytes: Mean bytes of a test image as PNG and as JPEG of the baseline's quality.
    """
    trivial_ms = min(b.latency.p95_ms for b in baselines)
    reference = accuracies[0]

    def row(b: Baseline, accuracy: float, is_chosen: bool) -> ComparisonRow:
        m = b.measurement
        payload = m.workload.payload_bytes_mean
        return ComparisonRow(
            name=b.name, plan=m.plan.label, accuracy=accuracy, accuracy_loss_points=100 * (reference - accuracy),
            payload_bytes=payload, ratio_to_feature=m.compression_ratio,
            ratio_to_png=stored_bytes[0] / payload if payload else None,
            ratio_to_jpeg=stored_bytes[1] / payload if payload else None,
            device_macs=m.workload.device.macs + m.workload.encode.macs, latency=b.latency,
            feasible=b.latency.p95_ms <= budget_ms, speed_up=trivial_ms / b.latency.p95_ms, chosen=is_chosen,
        )

    rows = [row(b, a, False) for b, a in zip(baselines, accuracies, strict=True)]
    return (*rows, row(chosen, chosen_accuracy, True))
