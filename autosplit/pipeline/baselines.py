"""Baselines that a found plan has to beat, chosen as searched plans are, and the table that sets them side by side.

A baseline is a *baseline*: a set of plans, of which the best one is chosen in the same steps as by a search. Latency
first (F0): plans that cannot be in time are not measured. Then accuracy (F1), of a random part of the plans where there
are more than a search may measure. Then the best ones, one a pruned head, are fine-tuned and measured through real
payloads in the device's arithmetic (F3), and the best of these on validation images is the baseline's deployment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.comparison import ComparisonRow, quickest_baseline
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Measurement, Outcome, Plan
from autosplit.core.scenario import SearchSettings
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import fine_tune_best

__all__ = ["JPEG", "PNG", "Baseline", "Choice", "choose", "comparison_row", "related", "simple_baselines"]

PNG, JPEG = "png", "jpeg"


@dataclass(frozen=True)
class Baseline:
    """One way to deploy the network, with the plans that it chooses among.

    Attributes:
        method: Short name, the same in every scenario.
        title: Name for tables; `{q}` stands for the JPEG quality of the plan that is chosen.
        plans: The plans, at least one.
        everything: Whether all of them are measured, whatever their number and latency: their accuracy is quickly had.
    """

    method: str
    title: str
    plans: tuple[Plan, ...]
    everything: bool = False


@dataclass(frozen=True)
class Choice:
    """What a baseline enters with.

    Attributes:
        baseline: Who.
        measured: Its F1 outcomes.
        best: The chosen deployment's outcome on validation images (F3).
    """

    baseline: Baseline
    measured: tuple[Outcome, ...]
    best: Outcome

    @property
    def name(self) -> str:
        """For tables."""
        return self.baseline.title.format(q=self.best.plan.codec.quality)


def simple_baselines(splits: Sequence[str], jpeg_qualities: Sequence[int]) -> list[Baseline]:
    """Baselines without training of their own: device only, the stored image, and a cut without a codec.

    Args:
        splits: Split points of the backbone.
        jpeg_qualities: Qualities to choose among.
    """

    def images(*settings: CodecSetting) -> tuple[Plan, ...]:
        return tuple(Plan(split=INPUT, codec=setting) for setting in settings)

    files, bodies = ([CodecSetting(kind=kind, quality=q) for q in jpeg_qualities] for kind in ("jpeg", "jpeg-shared"))
    device = (Plan(split=OUTPUT, codec=CodecSetting(kind="none")),)
    cuts = tuple(Plan(split=s, codec=CodecSetting(kind="raw")) for s in splits)
    found = [
        Baseline("device", "whole network on device", device, True),
        Baseline(PNG, "raw image (PNG)", images(CodecSetting(kind="png")), True),
        Baseline(JPEG, "JPEG q{q}", images(*files), True),
        Baseline("jpeg-shared", "JPEG q{q} with shared tables", images(*bodies), True),
        Baseline("raw", "split, no compression", cuts, True),
    ]
    return [c for c in found if c.plans]


def choose(baseline: Baseline, scorer: Scorer, context: SearchContext, settings: SearchSettings) -> Choice:
    """Let a baseline choose its best plan on validation data.

    Args:
        baseline: What chooses.
        scorer: Gives latency and reward.
        context: Measures (F1), fine-tunes and measures (F3).
        settings: How many plans may be measured and fine-tuned.
    """
    plans: Sequence[Plan] = baseline.plans
    if not baseline.everything:
        # those that may be in time, or as many of them, drawn at random, as a search may measure
        affordable = scorer.affordable(context.evaluator.workloads(plans))
        drawn = np.random.default_rng(settings.seed).permutation(len(affordable))[: settings.evaluations]
        plans = [plans[affordable[i]] for i in sorted(drawn)]
    measured = scorer.outcomes(context.evaluator.measure(plans))
    best = best_outcome(fine_tune_best(context, scorer, measured, settings.finalists,
                                       title=f"{baseline.method} finalist"))
    return Choice(baseline, tuple(measured), best)


def comparison_row(
    method: str, name: str, measured: Measurement, scorer: Scorer, reference: float, *, chosen: bool = False
) -> ComparisonRow:
    """One line of the table, without what relates it to others (`related`).

    Args:
        method: Short name.
        name: Name for people.
        measured: On test images.
        scorer: Gives the latency.
        reference: Test accuracy of the uncut network.
        chosen: Whether it is the plan that was searched.
    """
    latency, work = scorer.latency(measured), measured.workload
    return ComparisonRow(
        method=method, name=name, plan=measured.plan.label, accuracy=measured.accuracy,
        accuracy_loss_points=100 * (reference - measured.accuracy), payload_bytes=work.payload_bytes_mean,
        ratio_to_feature=measured.compression_ratio, device_macs=work.device.macs + work.encode.macs, latency=latency,
        feasible=latency.p95_ms <= scorer.conditions.budget_ms, chosen=chosen,
    )


def related(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """The rows with their ratios to the stored images and their speed-up, all of them taken from the rows themselves.

    The speed-up is over the quickest baseline that loses at most one point of accuracy.
    """
    sizes = {row.method: row.payload_bytes for row in rows}
    quickest = quickest_baseline(rows)

    def complete(row: ComparisonRow) -> ComparisonRow:
        payload = row.payload_bytes
        return row.model_copy(update={
            "ratio_to_png": sizes[PNG] / payload if payload and PNG in sizes else None,
            "ratio_to_jpeg": sizes[JPEG] / payload if payload and JPEG in sizes else None,
            "speed_up": quickest.latency.p95_ms / row.latency.p95_ms if quickest and row.latency.p95_ms else None,
        })

    return tuple(complete(row) for row in rows)
