"""Cascades: the network on the device answers what it is sure of, and another deployment answers the rest.

A cascade needs no training of its own: it joins two deployments that were fine-tuned anyway, the whole network on the
device (pruned or not), and a plan that sends a picture or a code. What both answer on the same validation images says
what every threshold would do. So all pairs of finalists and baselines are tried, at every threshold on offer, and
compete with the deployments that they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from autosplit.core.answers import Answers
from autosplit.core.hashing import content_hash
from autosplit.core.measurement import Outcome
from autosplit.core.plan import OUTPUT, Exit, Plan
from autosplit.data.base import SplitName
from autosplit.evaluation.scorer import Scorer
from autosplit.models.exits import exit_point, temperature
from autosplit.pipeline.choice import cheapest_of_equals
from autosplit.pipeline.context import SearchContext
from autosplit.runtime.standalone.payload.exits import confidence

__all__ = ["best_cascades", "cascades", "halves_of"]

_FOLDER = "confidences"


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
    sure = {plan: _sure(context, plan, arithmetic, part) for plan in alone}
    answers = {plan: context.answers(plan, arithmetic, part) for plan in (*alone, *senders)}
    labels = context.networks.data.split(part).labels.numpy()
    joined = []
    for device, sender in product(alone, senders):
        first, (rest, sizes), cost = answers[device][0], answers[sender], measured[device].workload.device
        for threshold in thresholds:
            leaves = sure[device] >= np.float32(threshold)
            point = exit_point(Exit.by(device, threshold), leaves, first == labels, rest == labels, sizes, cost)
            work = measured[sender].workload.with_exit(point)
            joined.append(measured[sender].model_copy(update={
                "plan": work.plan, "accuracy": point.accuracy, "workload": work, "exits": (point,),
                "answers": Answers.of(np.where(leaves, first, rest), labels)}))
    return scorer.outcomes(joined)


def best_cascades(joined: Sequence[Outcome], scorer: Scorer, sources: NDArray[np.int64] | None) -> list[Outcome]:
    """The best cascade with a picture and the best one with a split, so that both are in the table.

    Args:
        joined: As `cascades` gives them.
        scorer: Gives rewards.
        sources: What each validation image was made from.
    """
    halves = [[o for o in joined if o.plan.is_split is split] for split in (False, True)]
    return [cheapest_of_equals(half, scorer, sources).taken for half in halves if half]


def halves_of(plan: Plan) -> list[tuple[str, Plan]]:
    """The two deployments that a cascade joins, with names for the table; none of another plan."""
    if plan.exit is None or plan.exit.network is None:
        return []
    return [("the cascade's network alone", plan.exit.network), ("what the cascade sends, alone", plan.without_exit)]


def _sure(context: SearchContext, plan: Plan, arithmetic: str, part: SplitName) -> NDArray[np.float32]:
    """Calibrated confidence of the whole network on the device in each image, (N,); kept in the cache."""
    cache, key = context.networks.cache, content_hash([context.measured_key(plan, arithmetic, part), "confidence"])
    if context.reuse and (tensors := cache.load(_FOLDER, key)) is not None:
        return tensors["confidence"].numpy()
    data, deployment = context.networks.data, context.deployment(plan, arithmetic)
    scale = temperature(deployment.logits(data, "calibration"), data.calibration.labels)
    found = confidence((deployment.logits(data, part) / scale).numpy())
    cache.save(_FOLDER, key, {"confidence": torch.from_numpy(found)}, {"kind": "confidence", "plan": plan.label})
    return found
