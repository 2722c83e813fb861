"""What would be searched, and whether it could be deployed: plans are built, exported and compared untrained."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from torch import Tensor

from autosplit.core.errors import AutosplitError, ConfigError, ParityError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.plan import OUTPUT, CodecSetting, Plan, head_of
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.scenario import Scenario
from autosplit.core.space import channels_kept
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.memory import MemoryLimit, MemoryUse
from autosplit.evaluation.scorer import Scorer
from autosplit.models.costs import stage_cost
from autosplit.models.onnx_files import require_onnx
from autosplit.pipeline.context import arithmetic_of, blueprint_of
from autosplit.pipeline.search import scorer_of
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import Target, export_bundle
from autosplit.training.prepare import Networks, untrained

__all__ = ["Preview", "PreviewRow", "plans_to_try", "preview", "try_deployments"]

_log = logging.getLogger(__name__)
_FEW = 8  # images that ranges and tables come from
_COMPARED_IMAGES = 2


@dataclass(frozen=True)
class PreviewRow:
    """One place that a network can be cut at.

    Attributes:
        split: Its name.
        feature: Shape of what crosses there without a codec; empty where no feature does.
        head_mmacs: Work before it, unpruned, million multiply-adds.
        device_ms: What the device takes for it, milliseconds.
        groups: Of channels that can be pruned.
        plans: On offer.
        memory: Of the plans that take the least and the most RAM as C, where the device is to run that; else `None`.
        left_out: Why there are no plans, where the device is to run C; else empty.
    """

    split: str
    feature: tuple[int, ...]
    head_mmacs: float
    device_ms: float
    groups: int
    plans: int
    memory: tuple[MemoryUse, MemoryUse] | None = None
    left_out: str = ""


@dataclass(frozen=True)
class Preview:
    """What would be searched.

    Attributes:
        scenario: What was asked for.
        rows: In the order of execution.
    """

    scenario: Scenario
    rows: tuple[PreviewRow, ...]

    @property
    def plans(self) -> int:
        """On offer in all."""
        return sum(row.plans for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """A row a place."""
        found: pd.DataFrame = pd.DataFrame([asdict(row) for row in self.rows])
        return found

    def _repr_html_(self) -> str:
        """As a table, in a notebook."""
        shown: str = self.to_frame().to_html(index=False, float_format="{:.2f}".format)
        return shown


def preview(scenario: Scenario, progress: PhaseReporter | None = None, *, data_root: Path | None = None) -> Preview:
    """Look at what a search would do, and try deployments of it; see `try_deployments`.

    Args:
        scenario: What to search.
        progress: Shows the phases.
        data_root: Where data sets lie.

    Raises:
        AutosplitError: A search would fail, or what it finds could not be exported.
    """
    progress, scorer = progress or NullProgress(), scorer_of(scenario)
    networks = untrained(scenario, progress, data_root=data_root)
    evaluator = LiveEvaluator(networks)
    try_deployments(networks, scorer, progress)
    places = networks.supernet.plan_space.splits
    return Preview(scenario, tuple(_row(networks, scorer, evaluator, place) for place in places))


def _row(networks: Networks, scorer: Scorer, evaluator: LiveEvaluator, place: str) -> PreviewRow:
    supernet, scenario = networks.supernet, networks.scenario
    whole, pruner = supernet.plan_space, supernet.pruners.get(place)  # none where the device runs nothing
    offered = place in evaluator.space.splits
    space = evaluator.space if offered else whole
    groups, heads = (pruner.groups if pruner else ()), len(space.sparsities[place])
    if scenario.search.granularity == "layer":  # a sparsity for each group, whose channels go one by one
        most = max(space.sparsities[place])
        heads = math.prod(1 + g.channels - int(channels_kept(g.channels, most)) for g in groups)
    cost, device_ms = StageCost(), 0.0
    if pruner:  # the latency of the head is what it would be with nothing after it
        cost = stage_cost(supernet.head(place), networks.data.shape)
        work = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), device=cost)
        device_ms = float(scorer.latency_model.latency([work], [scorer.conditions]).device_ms[0, 0])
    feature = supernet.feature_shape(place) if place in supernet.places else ()
    plans = heads * len(space.codecs[place]) if offered else 0
    row = PreviewRow(place, feature, cost.macs / 1e6, device_ms, len(groups), plans)
    if scenario.search.target != "c":
        return row
    small, large = evaluator.memory.extremes(place, whole)
    uses = evaluator.memory.of(small), evaluator.memory.of(large)
    reason = evaluator.memory.excess(small, MemoryLimit.of(scenario.search, scenario.conditions.device))
    memory = None if isinstance(uses[0], str) or isinstance(uses[1], str) else (uses[0], uses[1])
    return replace(row, memory=memory, left_out="" if offered else reason)


def plans_to_try(networks: Networks) -> list[Plan]:
    """For each codec and kind of head the most pruned plan in the middle of the network.

    Every layer lies in the head, in the device's arithmetic, or in the tail. Where there is no place to cut at, the
    whole network on the device.
    """
    space = LiveEvaluator(networks).space
    found: list[Plan] = []
    for head in networks.scenario.space.heads:
        for family in networks.scenario.codecs:
            offers = [(place, codec) for place in space.splits for codec in space.codecs[place]
                      if place in networks.supernet.places and codec.family == family and head_of(place) == head]
            if offers:
                place, codec = offers[len(offers) // 2]
                found.append(Plan.at(place, max(space.sparsities[place]), codec))
    if not found and OUTPUT in space.splits:
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
    few = replace(data, calibration=data.calibration.first(_FEW), validation=data.validation.first(_FEW))
    images = data.validation.images[:_COMPARED_IMAGES]
    workloads = LiveEvaluator(replace(networks, data=few)).workloads(plans)
    scorer.latency_model.latency(workloads, [scorer.conditions])
    arithmetic = arithmetic_of(networks.scenario.conditions.device.arithmetic)
    with progress.phase("try the export" if exports else "try a deployment", total=len(plans)) as advance:
        for plan in plans:
            blueprint = blueprint_of(networks, plan, arithmetic, "trial")
            deployment = Deployment.fit(blueprint, networks.supernet.shared(plan), few)
            if exports:
                _export(deployment, images, networks.scenario.search.target)
            else:
                deployment.run(images)
            advance(1)


def _export(deployment: Deployment, images: Tensor, target: Target) -> None:
    """Write a bundle that is thrown away, and compare it on some images."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_bundle(deployment, Path(folder) / "bundle", images=images, target=target)
        except ParityError as e:  # untrained, a network may stand on the edge of every decision in it
            _log.warning("exported untrained, %s; look at the parity of an export after the search",
                         str(e).partition(": ")[2].partition(";")[0])
        except AutosplitError as e:
            raise ConfigError(f"a search would run, but what it finds could not be exported ({deployment.plan.label}): "
                              f"{e}") from e
