"""From a plan to a deployment: take it out of the supernet, fine-tune it, quantise its head, measure it (F3).

Fine-tuned weights depend on neither device nor link, so they are kept in the cache for every search that asks for the
same plan; so is what was measured on them in the device's arithmetic.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from autosplit.compression.network import SplitNetwork
from autosplit.core.blueprint import Arithmetic, Blueprint
from autosplit.core.cache import write_whole
from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.hashing import content_hash
from autosplit.core.plan import INPUT, OUTPUT, Measurement, Outcome, Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.data.base import SplitName
from autosplit.evaluation.objective import best_outcome
from autosplit.models.splitting import cut
from autosplit.runtime.deployment import Deployment
from autosplit.training.finetune import finetune
from autosplit.training.loop import steps_per_epoch
from autosplit.training.prepare import Networks

__all__ = ["Finalists", "arithmetic_of", "blueprint_of", "fine_tuned", "ranked_heads", "uncut"]

_MOST_TRIES = 3  # finalists tried, in multiples of those asked for, while fine-tuned payloads miss the budget
_KEPT = 4  # deployments at hand; others are made anew from their cached weights


def fine_tuned(
    makers: Finalists, outcomes: Sequence[Outcome], wanted: int, outcome: Callable[[Measurement], Outcome],
    title: str = "finalist",
) -> list[Outcome]:
    """Fine-tune the best plans; go on to the next ones as long as every payload so far grew beyond the budget.

    Args:
        makers: Fine-tunes and measures.
        outcomes: What was measured at F1.
        wanted: Plans to fine-tune; those that need none come on top.
        outcome: Joins a measurement with its latency and reward; called with each new one as soon as it is there.
        title: For the progress bar; a number follows.

    Returns:
        Outcomes of fidelity F3 on validation images, in the order of `ranked_heads`.
    """
    found: list[Outcome] = []
    trained = 0
    for plan in ranked_heads(outcomes):
        if trained >= _MOST_TRIES * wanted or (trained >= wanted and any(o.feasible for o in found)):
            break
        trained += not uncut(plan)
        found.append(outcome(makers.measure(plan, title=f"{title} {trained}")))
    return found


def uncut(plan: Plan) -> bool:
    """Whether a plan runs the backbone whole and as it is, on one side, so that there is nothing to fine-tune."""
    return plan.split == INPUT or (plan.split == OUTPUT and plan.sparsity == 0.0)


def ranked_heads(outcomes: Sequence[Outcome]) -> list[Plan]:
    """Feasible plans, best first, one for each pruned head: fine-tuning changes what a head can do, not its cost.

    Where none is feasible, the least infeasible one alone.
    """
    feasible = [o for o in outcomes if o.feasible]
    if not feasible:
        return [best_outcome(outcomes).plan]
    chosen: dict[tuple[object, ...], Plan] = {}
    for outcome in sorted(feasible, key=lambda o: -o.reward):
        chosen.setdefault((outcome.plan.split, outcome.plan.sparsity), outcome.plan)
    return list(chosen.values())


class Finalists:
    """Makes deployments of one supernet's plans, and measures them through real payloads.

    Args:
        prepared: Data, backbone and supernet.
        arithmetic: Number format of the device.
        progress: Shows the phases.
        reuse: Whether weights and figures of earlier searches may be taken from the cache.
    """

    def __init__(
        self, prepared: Networks, arithmetic: str, progress: PhaseReporter | None = None, reuse: bool = True
    ) -> None:
        self._prepared = prepared
        self._arithmetic = arithmetic_of(arithmetic)
        self._progress = progress or NullProgress()
        self._reuse = reuse
        self._measured: dict[tuple[Plan, SplitName], Measurement] = {}
        self._made: OrderedDict[Plan, Deployment] = OrderedDict()

    def measure(self, plan: Plan, part: SplitName = "validation", title: str = "finalist") -> Measurement:
        """Fine-tune a plan (or find it fine-tuned) and classify one part of the data with its deployment.

        Args:
            plan: Any plan of the supernet, and every split point without a codec.
            part: Of the data set.
            title: For the progress bar.
        """
        if (plan, part) not in self._measured:
            self._measured[plan, part] = self._kept_figures(plan, part) or self._figures(plan, part, title)
        return self._measured[plan, part]

    def deployment(self, plan: Plan, title: str = "finalist") -> Deployment:
        """A plan, fine-tuned, as something that runs.

        Args:
            plan: As for `measure`.
            title: For the progress bar.
        """
        if plan not in self._made:
            network = self._network(plan, title)
            blueprint = self._blueprint(plan, self._arithmetic)
            self._made[plan] = Deployment.fit(blueprint, network, self._prepared.data)
        self._made.move_to_end(plan)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return self._made[plan]

    def _figures(self, plan: Plan, part: SplitName, title: str) -> Measurement:
        start = time.perf_counter()
        deployment = self.deployment(plan, title)
        evaluation = deployment.evaluate(self._prepared.data, part)
        measurement = deployment.measurement(evaluation, time.perf_counter() - start)
        with suppress(OSError):  # a cache that cannot be written costs time, not results
            write_whole(self._figures_path(plan, part), measurement.model_dump_json().encode())
        return measurement

    def _kept_figures(self, plan: Plan, part: SplitName) -> Measurement | None:
        if not self._reuse:
            return None
        try:
            return Measurement.model_validate_json(self._figures_path(plan, part).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None

    def _figures_path(self, plan: Plan, part: SplitName) -> Path:
        blueprint = self._blueprint(plan, self._arithmetic)
        return self._folder / f"{blueprint.key}-{blueprint.arithmetic}-{part}-{_code()}.json"

    def _network(self, plan: Plan, title: str) -> SplitNetwork:
        """The fine-tuned plan in fp32; the backbone itself where nothing was changed."""
        untouched = self._untouched(plan)
        if untouched is not None:
            return untouched
        blueprint = self._blueprint(plan, "fp32")
        path = self._folder / f"{blueprint.key}.safetensors"
        kept = _kept(blueprint, path) if self._reuse else None
        if kept is not None:
            with self._progress.phase(f"{title}: from the cache"):
                return kept.network
        network = self._prepared.supernet.extract(plan)
        self._finetune(network, blueprint.key, title)
        with suppress(OSError, ConfigError):  # a cache that cannot be written costs time, not results
            path.parent.mkdir(parents=True, exist_ok=True)
            Deployment.fit(blueprint, network, self._prepared.data).save(path)
        return network

    def _untouched(self, plan: Plan) -> SplitNetwork | None:
        """The backbone as trained, cut where the plan says; `None` for a plan that changes it."""
        backbone = self._prepared.backbone
        if plan.split == INPUT:
            return SplitNetwork(nn.Identity(), backbone)
        if plan.sparsity != 0.0 or plan.codec.kind == "code":
            return None
        if plan.split == OUTPUT:
            return SplitNetwork(backbone, nn.Identity())
        return SplitNetwork(*cut(backbone, self._prepared.supernet.points[plan.split]))

    @property
    def _folder(self) -> Path:
        return self._prepared.cache.root / "finalists"

    def _finetune(self, network: SplitNetwork, key: str, title: str) -> None:
        prepared, scenario = self._prepared, self._prepared.scenario
        settings, seed = scenario.training, scenario.search.seed
        steps = settings.finetune_epochs * steps_per_epoch(prepared.data, settings.batch_size)
        with self._progress.phase(f"fine-tune {title}", total=steps) as advance:
            finetune(network, prepared.teacher, prepared.data, settings, seed, advance,
                     cache=prepared.cache if self._reuse else None, key=key, name=f"fine-tune {title}")
        with suppress(OSError):
            prepared.cache.path("partial", key).unlink(missing_ok=True)

    def _blueprint(self, plan: Plan, arithmetic: Arithmetic) -> Blueprint:
        settings = self._prepared.scenario.training
        key = content_hash({
            "supernet": self._prepared.supernet_key, "plan": plan.model_dump(mode="json"),
            "epochs": settings.finetune_epochs, "patience": settings.finetune_patience, "lr": settings.finetune_lr,
            "batch": settings.batch_size, "seed": self._prepared.scenario.search.seed,
        })
        return blueprint_of(self._prepared, plan, arithmetic, key)


def arithmetic_of(device: str) -> Arithmetic:
    """What a device of some number format computes in here."""
    # half precision on a device costs no accuracy that these data could show; it is computed as fp32
    return "int8" if device == "int8" else "fp32"


def blueprint_of(prepared: Networks, plan: Plan, arithmetic: Arithmetic, key: str) -> Blueprint:
    """The structure of a plan.

    Args:
        prepared: Data, backbone and supernet.
        plan: Any plan of the supernet, and every split point without a codec.
        arithmetic: Number format of the device.
        key: Identifies the deployment.
    """
    supernet, data = prepared.supernet, prepared.data
    keep: tuple[int, ...] = ()
    if plan.sparsity != 0.0:
        pruner = supernet.pruners[plan.split]
        counts = pruner.keep_counts(plan.sparsity)
        keep = counts if any(k < g.channels for k, g in zip(counts, pruner.groups, strict=True)) else ()
    coded = plan.codec.kind == "code"
    codec = supernet.codec(plan.split, plan.codec.family) if coded else None
    return Blueprint(
        backbone=prepared.scenario.backbone, num_classes=data.num_classes, image_shape=data.shape, plan=plan,
        keep=keep, key=key, arithmetic="fp32" if plan.split == INPUT else arithmetic,
        feature_shape=supernet.points[plan.split].shape if plan.split in supernet.points else (),
        code_shape=codec.code_shape(plan.codec) if codec else (), codec=codec.structure(plan.codec) if codec else {})


def _kept(blueprint: Blueprint, path: Path) -> Deployment | None:
    """A plan that an earlier search fine-tuned, unless there is none or the file is damaged."""
    try:
        return Deployment.load(blueprint, path)
    except ResultError:
        return None


@cache
def _code() -> str:
    """Hash of the code that quantises, codes and runs: figures of other code are not taken for its own."""
    root = Path(__file__).parents[1]
    standalone = root / "runtime" / "standalone"
    files = [*sorted((root / "compression").rglob("*.py")), root / "runtime" / "deployment.py",
             standalone / "entropy.py", standalone / "raw.py", standalone / "stored.py"]
    return content_hash([file.read_text(encoding="utf-8") for file in files])[:8]
