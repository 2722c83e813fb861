"""Cascades: the network on the device answers what it is sure of, and another deployment answers the rest.

A cascade needs no training of its own: it joins two deployments that were fine-tuned anyway, the whole network on the
device (pruned or not), and a plan that sends a picture or a code. What both answer on the same validation images says
what every threshold would do. So all pairs of finalists and baselines are tried, at every threshold on offer, and
compete with the deployments that they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from autosplit.core.answers import Answers
from autosplit.core.hashing import content_hash
from autosplit.core.plan import OUTPUT, Exit, Outcome, Plan, StageCost
from autosplit.data.base import SplitName
from autosplit.evaluation.scorer import Scorer
from autosplit.models.exits import confidence, exit_point, temperature
from autosplit.pipeline.context import SearchContext

__all__ = ["cascades"]

_FOLDER = "answers"


@dataclass(frozen=True)
class _Answered:
    """What became of each image.

    Attributes:
        predicted: Class that it was given, int64 (N,).
        sizes: Payload bytes, int64 (N,); zeros where nothing crosses.
        sure: Calibrated confidence where the device answers alone, float32 (N,); zeros elsewhere.
        cost: Work of the whole network on the device; none elsewhere.
    """

    predicted: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sure: NDArray[np.float32]
    cost: StageCost


def cascades(
    context: SearchContext, scorer: Scorer, found: Sequence[Outcome], thresholds: Sequence[float],
    part: SplitName = "validation",
) -> list[Outcome]:
    """Every cascade of two deployments, as if it had been measured on its own.

    Args:
        context: Has the deployments.
        scorer: Joins measurements with latency and reward.
        found: Fine-tuned deployments (F3); those that run on the device alone are paired with all that send something.
        thresholds: Confidences from which on the device may answer.
        part: Of the data set, on whose images they were measured.
    """
    measured = {o.plan: o.measurement for o in found if o.plan.exit is None and o.plan.codec.kind != "file"}
    alone = [plan for plan in measured if plan.split == OUTPUT]
    senders = [plan for plan in measured if plan.split != OUTPUT]
    if not (thresholds and alone and senders):
        return []
    arithmetic = scorer.conditions.device.arithmetic
    answered = {plan: _answered(context, plan, arithmetic, part) for plan in (*alone, *senders)}
    labels = context.networks.data.split(part).labels.numpy()
    joined = []
    for device, sender in product(alone, senders):
        first, rest = answered[device], answered[sender]
        for threshold in thresholds:
            leaves = first.sure >= np.float32(threshold)
            point = exit_point(Exit(threshold=threshold, sparsity=device.sparsity), leaves, first.predicted == labels,
                               rest.predicted == labels, rest.sizes, first.cost)
            work = measured[sender].workload.with_exit(point)
            joined.append(measured[sender].model_copy(update={
                "plan": work.plan, "accuracy": point.accuracy, "workload": work, "exits": (point,),
                "answers": Answers.of(np.where(leaves, first.predicted, rest.predicted), labels)}))
    return scorer.outcomes(joined)


def _answered(context: SearchContext, plan: Plan, arithmetic: str, part: SplitName) -> _Answered:
    """What a deployment makes of each image, from the cache where it was asked for before."""
    cache, key = context.networks.cache, content_hash([context.measured_key(plan, arithmetic, part), "answers"])
    if context.reuse and (tensors := cache.load(_FOLDER, key)) is not None:
        cost = cache.load_record(_FOLDER, key)
        if cost is not None:
            return _Answered(tensors["predicted"].numpy(), tensors["sizes"].numpy(), tensors["sure"].numpy(),
                             StageCost.model_validate(cost))
    data, deployment = context.networks.data, context.deployment(plan, arithmetic)
    if plan.split == OUTPUT:
        logits = deployment.logits(data, part)
        logits = logits / temperature(deployment.logits(data, "calibration"), data.calibration.labels)
        found = _Answered(logits.argmax(1).numpy(), np.zeros(len(logits), dtype=np.int64), confidence(logits).numpy(),
                          deployment.workload(0.0, 0.0).device)
    else:
        evaluation = deployment.evaluate(data, part)
        found = _Answered(evaluation.predicted, evaluation.payload_sizes,
                          np.zeros(evaluation.images, dtype=np.float32), StageCost())
    cache.save(_FOLDER, key, {name: torch.from_numpy(np.ascontiguousarray(getattr(found, name)))
                              for name in ("predicted", "sizes", "sure")}, {"kind": "answers", "plan": plan.label})
    cache.save_record(_FOLDER, key, found.cost.model_dump(mode="json"))
    return found
