"""Deployments of untrained networks, built and exported: what a dry run has seen, a search can rely on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.core.progress import PhaseReporter
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.scorer import Scorer
from autosplit.models.onnx_files import require_onnx
from autosplit.pipeline.context import arithmetic_of, blueprint_of
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_bundle
from autosplit.training.prepare import Networks

__all__ = ["plans_to_try", "try_deployments"]

_CALIBRATION_IMAGES = 8
_COMPARED_IMAGES = 2


def plans_to_try(networks: Networks) -> list[Plan]:
    """A pruned plan in the middle of the network for each codec and kind of head, and the whole network on the device.

    Whatever layers there are, they lie in the head or the tail of such a plan; the last one has them all in the
    device's arithmetic.
    """
    space = networks.supernet.plan_space
    found: list[Plan] = []
    places = [place for place in space.splits if place not in {INPUT, OUTPUT}]
    for heads in ([p for p in places if p in networks.supernet.points],
                  [p for p in places if p not in networks.supernet.points]):
        for family in networks.scenario.codecs:
            middle = [place for place in heads if any(c.family == family for c in space.codecs[place])]
            if middle:
                place = middle[len(middle) // 2]
                codec = next(c for c in space.codecs[place] if c.family == family)
                found.append(Plan.at(place, max(space.sparsities[place]), codec))
    if OUTPUT in space.splits:
        found.append(Plan.at(OUTPUT, max(space.sparsities[OUTPUT]), space.codecs[OUTPUT][0]))
    return found


def try_deployments(networks: Networks, scorer: Scorer, progress: PhaseReporter) -> None:
    """Build some plans as they are, predict their latency, export them and compare bundle and deployment.

    Where the packages of the extra `deploy` are absent, nothing is exported.

    Args:
        networks: Untrained.
        scorer: Of their scenario.
        progress: Shows a phase.

    Raises:
        AutosplitError: A plan cannot be built or exported, or the latency model has no answer to it.
    """
    try:
        require_onnx("onnxruntime")
        exports = True
    except ConfigError:
        exports = False
    plans, data = plans_to_try(networks), networks.data
    few = replace(data, calibration=data.calibration.first(_CALIBRATION_IMAGES))
    images = data.validation.images[:_COMPARED_IMAGES]
    scorer.latency_model.latency(LiveEvaluator(networks).workloads(plans), [scorer.conditions])
    with progress.phase("try the export" if exports else "try a deployment", total=len(plans)) as advance:
        for plan in plans:
            arithmetic = arithmetic_of(networks.scenario.conditions.device.arithmetic)
            blueprint = blueprint_of(networks, plan, arithmetic, "trial")
            deployment = Deployment.fit(blueprint, networks.supernet.extract(plan), few)
            if exports:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        export_bundle(deployment, Path(folder) / "bundle", images=images)
                    except AutosplitError as e:
                        raise ConfigError(f"a search would run, but what it finds could not be exported "
                                          f"({plan.label}): {e}") from e
            else:
                deployment.run(images)
            advance(1)
