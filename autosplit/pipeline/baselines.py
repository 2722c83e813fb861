"""Baselines that a found plan has to beat, chosen as searched plans are, and the table that sets them side by side.

A baseline is a set of plans, of which the best one is chosen in the same steps as by a search. Latency first (F0):
plans that cannot be in time are not measured. Then accuracy (F1), of a random part of the plans where there are more
than a search may measure. Then the best ones, one a pruned head, are fine-tuned and measured through real payloads in
the device's arithmetic (F3), and of these the cheapest that cannot be told apart from the best on validation images is
the baseline's deployment. Image formats are treated alike: the edge network is fine-tuned on pictures so coded, except
where they come too late whatever it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autosplit.core.comparison import CHOSEN, OWN_FILES, ComparisonRow, quickest_baseline
from autosplit.core.intervals import accuracy_interval
from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.scenario import SearchSettings, SearchSpace
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.choice import accuracy_difference, cheapest_of_equals
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import fine_tune_best, likely_finalists
from autosplit.runtime.standalone.payload.image_codecs import ImageKind

__all__ = ["DEVICE", "JPEG", "LOSSY_IMAGES", "PNG", "Baseline", "Choice", "baselines_of", "choose",
           "comparison_row", "foreseen", "related", "simple_baselines"]

DEVICE, PNG, JPEG = "device", "png", "jpeg"
LOSSY_IMAGES: tuple[ImageKind, ...] = ("jpeg", "jpeg-shared", "webp", "webp-shared", "avif", "avif-shared")


@dataclass(frozen=True)
class Baseline:
    """One way to deploy the network, with the plans that it chooses among.

    Attributes:
        method: Short name, the same in every scenario.
        title: Name for tables; `{codec}` stands for the codec of the plan that is chosen.
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
        finalists: Its deployments on validation images (F3).
        best: The one that it chose.
        tuned: Whether its networks are fine-tuned to the plan, and not to all image formats at once.
    """

    baseline: Baseline
    measured: tuple[Outcome, ...]
    finalists: tuple[Outcome, ...]
    best: Outcome
    tuned: bool = True

    @property
    def name(self) -> str:
        """For tables."""
        name = self.baseline.title.format(codec=self.best.plan.codec.label)
        return name if self.tuned else f"{name} (not tuned: late)"


def simple_baselines(
    space: SearchSpace, splits: Sequence[str], on_device: Sequence[Plan], own_files: bool = False
) -> list[Baseline]:
    """Baselines without a codec of their own: the network on the device, pruned or not, the image, a cut without codec.

    Args:
        space: Image formats to choose among.
        splits: Split points of the backbone.
        on_device: Whole networks on the device, pruned or reduced; none where these are not in the search space.
        own_files: Whether the data set's images came as files, which could be sent as they are.
    """
    whole, raw = CodecSetting(kind="none"), CodecSetting(kind="raw")
    pruned = tuple(plan for plan in on_device if plan.head == "pruned" and not plan.lossless)
    reduced = tuple(plan for plan in on_device if plan.head == "reduced")
    found = [
        Baseline(DEVICE, "whole network on device", (Plan(split=OUTPUT, codec=whole),), True),
        Baseline("device-pruned", "pruned network on device", pruned),
        Baseline("device-reduced", "network on device, smaller pictures", reduced),
        Baseline(PNG, "raw image (PNG)", (Plan(split=INPUT, codec=CodecSetting(kind="png")),), True),
        *([Baseline(OWN_FILES, "own files as they are", (Plan(split=INPUT, codec=CodecSetting(kind="file")),),
                    True)]
          if own_files else []),
        *(Baseline(kind, "{codec}", tuple(Plan(split=INPUT, codec=c) for c in space.image_settings(kind)))
          for kind in LOSSY_IMAGES),
        Baseline("raw", "split, no compression", tuple(Plan(split=s, codec=raw) for s in splits), True),
    ]
    return [c for c in found if c.plans]


def baselines_of(context: SearchContext) -> list[Baseline]:
    """The simple baselines of a scenario: over its own split points, sparsities, image formats and files."""
    networks = context.networks
    return simple_baselines(networks.scenario.space, [point.name for point in networks.points],
                            context.evaluator.space.plans(OUTPUT),
                            networks.data.validation.file_bytes is not None)


def choose(
    baselines: Sequence[Baseline], scorer: Scorer, context: SearchContext, settings: SearchSettings
) -> list[Choice]:
    """Let each of some baselines choose its best plan on validation data.

    Args:
        baselines: What chooses.
        scorer: Gives latency and reward.
        context: Measures (F1), fine-tunes and measures (F3).
        settings: How many plans may be measured and fine-tuned.
    """
    measured = [_measured(baseline, scorer, context, settings) for baseline in baselines]
    # the plans of all of them at once: workers fine-tune them side by side
    context.begin(_likely(baselines, measured, scorer, settings), scorer.conditions.device.arithmetic)
    return [_chosen(baseline, outcomes, scorer, context, settings)
            for baseline, outcomes in zip(baselines, measured, strict=True)]


def foreseen(
    baselines: Sequence[Baseline], scorer: Scorer, context: SearchContext, settings: SearchSettings
) -> list[Plan]:
    """The plans that `choose` fine-tunes in any case, measured for that at F1; arguments as there."""
    return _likely(baselines, [_measured(b, scorer, context, settings) for b in baselines], scorer, settings)


def _likely(
    baselines: Sequence[Baseline], measured: Sequence[Sequence[Outcome]], scorer: Scorer, settings: SearchSettings
) -> list[Plan]:
    """What each baseline fine-tunes of what was measured; it goes on to others where their payloads grow."""
    return [plan for baseline, outcomes in zip(baselines, measured, strict=True) if not _too_late(baseline, outcomes)
            for plan in likely_finalists(scorer, outcomes, settings.finalists)]


def _measured(
    baseline: Baseline, scorer: Scorer, context: SearchContext, settings: SearchSettings
) -> list[Outcome]:
    """The plans of a baseline that it compares, at F1."""
    plans: Sequence[Plan] = baseline.plans
    if not baseline.everything:
        # those that may be in time, or as many of them, drawn at random, as a search may measure
        affordable = scorer.affordable(context.evaluator.workloads(plans))
        drawn = np.random.default_rng(settings.seed).permutation(len(affordable))[: settings.evaluations]
        plans = [plans[affordable[i]] for i in sorted(drawn)]
    return scorer.outcomes(context.evaluator.measure(plans))


def _too_late(baseline: Baseline, measured: Sequence[Outcome]) -> bool:
    """Whether a baseline is late whatever its network is tuned to: the bytes of a picture do not depend on it."""
    return baseline.method in LOSSY_IMAGES and not best_outcome(measured).feasible


def _chosen(
    baseline: Baseline, measured: Sequence[Outcome], scorer: Scorer, context: SearchContext, settings: SearchSettings
) -> Choice:
    """What a baseline fine-tunes, and takes of it."""
    best = best_outcome(measured)
    if _too_late(baseline, measured):
        arithmetic = scorer.conditions.device.arithmetic
        best = scorer.outcome(context.measure(best.plan, arithmetic, tuned=False))
        return Choice(baseline, tuple(measured), (best,), best, tuned=False)
    finalists = fine_tune_best(context, scorer, measured, settings.finalists, title=f"{baseline.method} finalist")
    best = cheapest_of_equals(finalists, scorer, context.sources("validation")).taken
    return Choice(baseline, tuple(measured), tuple(finalists), best)


def comparison_row(
    method: str, name: str, measured: Measurement, chosen: Measurement, scorer: Scorer, reference: float,
    sources: ArrayLike | None,
) -> ComparisonRow:
    """One line of the table, without what relates it to others (`related`).

    Args:
        method: Short name.
        name: Name for people.
        measured: On test images.
        chosen: The chosen plan, on the same images.
        scorer: Gives the latency.
        reference: Test accuracy of the uncut network.
        sources: What each test image was made from.
    """
    latency, work, answers = scorer.latency(measured), measured.workload, measured.answers
    difference = accuracy_difference(measured, chosen, sources)
    assert answers is not None
    assert difference is not None
    accuracy = accuracy_interval(answers.hits, sources)
    return ComparisonRow(
        method=method, name=name, plan=measured.plan.label, accuracy=measured.accuracy,
        accuracy_loss_points=100 * (reference - measured.accuracy), payload_bytes=work.payload_bytes_mean,
        ratio_to_feature=measured.compression_ratio, device_macs=work.device.macs + work.encode.macs, latency=latency,
        feasible=latency.p95_ms <= scorer.conditions.budget_ms, chosen=method == CHOSEN,
        accuracy_low=accuracy.low, accuracy_high=accuracy.high,
        difference_points=100 * (measured.accuracy - chosen.accuracy), difference_low_points=100 * difference.low,
        difference_high_points=100 * difference.high, balanced_accuracy=answers.balanced_accuracy,
        least_recall=answers.least_recall, exit=measured.exits[0] if measured.plan.exit is not None else None,
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
