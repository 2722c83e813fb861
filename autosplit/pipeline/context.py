"""`SearchContext`: what the phases of a search share, and scenarios that differ in their conditions alone."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from autosplit.compression.network import SplitNetwork
from autosplit.core.blueprint import Arithmetic, Blueprint
from autosplit.core.errors import ResultError
from autosplit.core.hashing import content_hash, source_hash
from autosplit.core.machine import arithmetic_key
from autosplit.core.measurement import Measurement
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.scenario import Scenario
from autosplit.core.workers import Here, Workers
from autosplit.data.base import SplitName
from autosplit.evaluation.cached import CachedEvaluator, measurement_file
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.memory import DeviceMemory, MemoryLimit
from autosplit.evaluation.spread import SpreadEvaluator
from autosplit.models.exits import ExitNetwork, build_classifier, classifier_structure
from autosplit.models.splitting import cut
from autosplit.runtime.deployment import Deployment, Evaluation
from autosplit.training.coded_images import train_on_coded_images
from autosplit.training.exits import fit_classifier
from autosplit.training.finetune import Finetuning, finetune
from autosplit.training.loop import steps_per_epoch
from autosplit.training.prepare import Networks
from autosplit.training.supernet import Supernet

__all__ = ["SearchContext", "arithmetic_of", "blueprint_of", "networks_key"]

_FOLDER, _EXITS, _ANSWERS = "finalists", "exits", "answers"
_CODE = ("core/plan.py", "core/measurement.py", "core/operators.py", "data", "models", "compression",
         "runtime/building.py", "runtime/deployment.py", "runtime/standalone/payload")
_Answers = tuple[NDArray[np.int64], NDArray[np.int64]]
_KEPT = 4  # deployments at hand; others are made anew from their cached weights


def networks_key(scenario: Scenario) -> str:
    """Hash of what determines networks and measurements: scenarios that differ in conditions alone have the same."""
    search = scenario.search
    parts = scenario.model_dump(mode="json", exclude={"name", "conditions", "latency_model", "objective", "search"})
    if search.granularity != "uniform":
        parts["granularity"] = search.granularity
    if not scenario.space.classifier_exits:  # the only ones that a measurement knows of
        del parts["space"]["exits"]
    del parts["space"]["exit_by"]
    return content_hash({**parts, "seed": search.seed, "validation": search.validation_images,
                         "recalibration": search.recalibration_images})


class SearchContext:
    """Networks with what measures their plans: in the supernet (F1), or fine-tuned, as deployments (F3).

    Nothing is measured or fine-tuned twice in the life of one context.

    Args:
        networks: Data, backbone and supernet.
        progress: Shows the phases.
        reuse: Whether measurements and fine-tuned plans of earlier searches may be taken from the cache.
        workers: Who measures (F1), and fine-tunes what `begin` is told of; this process by default.

    Attributes:
        networks: Data, backbone and supernet.
        evaluator: Measures plans at F1.
        reuse: Whether what earlier searches left in the cache may be taken.
    """

    def __init__(
        self, networks: Networks, progress: PhaseReporter | None = None, reuse: bool = True,
        workers: Workers | None = None,
    ) -> None:
        self.networks, self._workers = networks, workers or Here()
        evaluator = LiveEvaluator(networks) if self._workers.here else SpreadEvaluator(networks, self._workers)
        self.evaluator = CachedEvaluator(evaluator, file=measurement_file(networks) if reuse else None)
        self._progress, self.reuse = progress or NullProgress(), reuse
        self._cache = networks.cache
        self._done_by_workers: set[Path] = set()  # files of the cache that may be taken in any case
        self._measured: dict[tuple[Plan, Arithmetic, SplitName, bool], Measurement] = {}
        self._answers: dict[str, _Answers] = {}
        self._made: OrderedDict[tuple[Plan, Arithmetic, bool], Deployment] = OrderedDict()

    def deployable(self, plan: Plan) -> bool:
        """Whether a plan can run on the device: any can, but where it is to be C only those that fit as such."""
        scenario = self.networks.scenario
        if scenario.search.target != "c":
            return True
        limit = MemoryLimit.of(scenario.search, scenario.conditions.device)
        return not self.memory.excess(plan, limit)

    @cached_property
    def memory(self) -> DeviceMemory:
        """What plans take on a microcontroller."""
        data = self.networks.data
        return DeviceMemory(self.networks.supernet, data.shape, data.num_classes)

    def begin(self, plans: Sequence[Plan], device_arithmetic: str) -> None:
        """Let the workers fine-tune and measure plans, so that `measure` finds them; nothing without any.

        Args:
            plans: As for `measure`, on validation images.
            device_arithmetic: As for `measure`.
        """
        if self._workers.here:
            return
        left = [plan for plan in dict.fromkeys(plan.without_exit for plan in plans)
                if plan.codec.kind != "file" and not self._is_measured(plan, device_arithmetic)]
        if not left:
            return
        with self._progress.phase(f"fine-tune {len(left)} plans with {self._workers.number} workers",
                                  total=len(left)) as advance:
            work = partial(_measured_elsewhere, device_arithmetic, self.reuse)
            for files in self._workers.map(work, self.networks, left, lambda plan: f"plan {plan.label!r}"):
                self._cache.take(files)
                self._done_by_workers.update(self._cache.root / name for name in files)
                advance(1)

    def _is_measured(self, plan: Plan, device_arithmetic: str) -> bool:
        entry = self.measured_key(plan, device_arithmetic, "validation")
        return ((plan, arithmetic_of(device_arithmetic), "validation", True) in self._measured
                or (self._may_take(_FOLDER, entry, ".json") and self._cache.path(_FOLDER, entry, ".json").exists()))

    def _may_take(self, kind: str, key: str, suffix: str = ".safetensors") -> bool:
        """Whether an entry of the cache counts: of earlier searches where they do, of this one in any case."""
        return self.reuse or self._cache.path(kind, key, suffix) in self._done_by_workers

    def measure(
        self, plan: Plan, device_arithmetic: str, part: SplitName = "validation", title: str = "finalist",
        tuned: bool = True,
    ) -> Measurement:
        """Fine-tune a plan (or find it fine-tuned) and classify one part of the data with its deployment (F3).

        Args:
            plan: Any plan of the supernet, and every split point without a codec.
            device_arithmetic: Number format of the device's profile.
            part: Of the data set.
            title: For the progress bar.
            tuned: Whether the edge network is fine-tuned to the plan's own image format, or the one for all formats.
        """
        if plan.codec.kind == "file":
            return self._own_files(plan, device_arithmetic, part, title)
        arithmetic = arithmetic_of(device_arithmetic)
        key = (plan, arithmetic, part, tuned)
        if key not in self._measured:
            entry = self.measured_key(plan, device_arithmetic, part, tuned)
            found = None
            if self._may_take(_FOLDER, entry, ".json") and (
                    record := self._cache.load_record(_FOLDER, entry)) is not None:
                with suppress(ValidationError):  # not there, or damaged: measured anew
                    found = Measurement.model_validate(record)
            if found is None:
                start = time.perf_counter()
                deployment = self.deployment(plan, device_arithmetic, title, tuned)
                evaluation = deployment.evaluate(self.networks.data, part)
                self._keep_answers(entry, evaluation)
                found = deployment.measurement(evaluation, time.perf_counter() - start)
                self._cache.save_record(_FOLDER, entry, found.model_dump(mode="json"))
            self._measured[key] = found
        return self._measured[key]

    def answers(self, plan: Plan, device_arithmetic: str, part: SplitName) -> _Answers:
        """What a deployment made of each image: the class it was given, and its payload bytes, each int64 (N,).

        From when it was measured, or from the cache; arguments as of `measure`.
        """
        entry = self.measured_key(plan, device_arithmetic, part)
        found = self._answers.get(entry)
        if found is None and self._may_take(_ANSWERS, entry) and (
                tensors := self._cache.load(_ANSWERS, entry)) is not None:
            found = tensors["predicted"].numpy(), tensors["sizes"].numpy()
        if found is None:
            deployment = self.deployment(plan, device_arithmetic)
            found = self._keep_answers(entry, deployment.evaluate(self.networks.data, part))
        return found

    def _keep_answers(self, entry: str, evaluation: Evaluation) -> _Answers:
        found = self._answers[entry] = evaluation.predicted, evaluation.payload_sizes
        tensors = {name: torch.from_numpy(values) for name, values in zip(("predicted", "sizes"), found, strict=True)}
        self._cache.save(_ANSWERS, entry, tensors, {"kind": "answers"})
        return found

    def measured_key(self, plan: Plan, device_arithmetic: str, part: SplitName, tuned: bool = True) -> str:
        """Hash of whatever determines what `measure` finds; arguments as there."""
        blueprint = blueprint_of(self.networks, plan, arithmetic_of(device_arithmetic), self._key(plan, tuned))
        # figures depend on the code that quantises, codes, counts and runs, and on this processor's arithmetic
        return content_hash([blueprint.key, blueprint.arithmetic, part, source_hash(*_CODE), arithmetic_key()])

    def _own_files(self, plan: Plan, device_arithmetic: str, part: SplitName, title: str) -> Measurement:
        """The user's files as they are: what the edge sees of them is what a PNG would show it."""
        png = self.measure(Plan(split=INPUT, codec=CodecSetting(kind="png")), device_arithmetic, part, title)
        lengths = self.networks.data.split(part).file_bytes
        assert lengths is not None  # who asks for own files knows that there are some
        sizes = lengths.numpy()
        work = self.evaluator.workloads([plan])[0].model_copy(update={
            "payload_bytes_mean": float(sizes.mean()), "payload_bytes_p95": float(np.percentile(sizes, 95))})
        return png.model_copy(update={"plan": plan, "workload": work})

    def sources(self, part: SplitName) -> NDArray[np.int64] | None:
        """What each image of a part was made from; `None` where every image stands for itself."""
        found = self.networks.data.split(part).sources
        return None if found is None else found.numpy()

    def deployment(
        self, plan: Plan, device_arithmetic: str, title: str = "finalist", tuned: bool = True
    ) -> Deployment:
        """A plan, fine-tuned, as something that runs.

        Args:
            plan: As for `measure`.
            device_arithmetic: As for `measure`.
            title: For the progress bar.
            tuned: As for `measure`.
        """
        key = (plan, arithmetic := arithmetic_of(device_arithmetic), tuned)
        if key not in self._made:
            blueprint = blueprint_of(self.networks, plan, arithmetic, self._key(plan, tuned))
            network = self._fine_tuned(plan, title, tuned)
            if plan.exit is not None:
                network.exit = self._exit(plan, network, blueprint, title)
                network.eval()
            self._made[key] = Deployment.fit(blueprint, network, self.networks.data)
        self._made.move_to_end(key)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return self._made[key]

    def _fine_tuned(self, plan: Plan, title: str, tuned: bool) -> SplitNetwork:
        """The fine-tuned plan in fp32; the backbone itself, cut where the plan says, where nothing was changed."""
        networks, backbone = self.networks, self.networks.backbone
        if plan.split == INPUT and plan.lossless:
            return SplitNetwork(nn.Identity(), backbone)
        if plan.split == INPUT and not tuned:
            return SplitNetwork(nn.Identity(), networks.coded_backbone or backbone)
        if plan.split != INPUT and plan.lossless:
            if plan.split == OUTPUT:
                return SplitNetwork(backbone, nn.Identity())
            return SplitNetwork(*cut(backbone, networks.supernet.points[plan.split]))
        plan = plan.as_trained
        blueprint = blueprint_of(networks, plan, "fp32", self._key(plan))
        if self._may_take(_FOLDER, blueprint.key) and (tensors := self._cache.load(_FOLDER, blueprint.key)) is not None:
            with suppress(ResultError):  # not there, or damaged: fine-tuned anew
                kept = Deployment.of_tensors(blueprint, tensors, "weights in the cache")
                with self._progress.phase(f"{title}: from the cache"):
                    return kept.network
        settings, cache = networks.scenario.training, networks.cache
        steps = settings.finetune_epochs * steps_per_epoch(networks.data, settings.batch_size)
        with self._progress.phase(f"fine-tune {title}", total=steps) as advance:
            run = Finetuning(networks.data, settings, networks.scenario.search.seed, advance,
                             cache if self.reuse else None, blueprint.key, f"fine-tune {title}")
            if plan.split == INPUT:
                whole = copy.deepcopy(networks.coded_backbone or backbone)
                train_on_coded_images(whole, networks.teacher, [plan.codec.stored_format], run)
                network = SplitNetwork(nn.Identity(), whole).eval()
            else:
                network = networks.supernet.extract(plan)
                finetune(network, networks.teacher, run)
        with suppress(OSError):
            cache.path("partial", blueprint.key).unlink(missing_ok=True)
        cache.save(_FOLDER, blueprint.key, Deployment.fit(blueprint, network, networks.data).tensors(),
                   {"kind": "fine-tuned plan", "plan": plan.label})
        return network

    def _exit(self, plan: Plan, network: SplitNetwork, blueprint: Blueprint, title: str) -> ExitNetwork:
        """The exit of a plan: its network on the device, fine-tuned on its own, or a classifier behind its head."""
        assert plan.exit is not None
        if plan.exit.network is not None:
            return ExitNetwork(self._fine_tuned(plan.exit.network, title, tuned=True).head, whole=True)
        return ExitNetwork(self._classifier(plan.as_trained, network, blueprint, title), whole=False)

    def _classifier(self, plan: Plan, network: SplitNetwork, blueprint: Blueprint, title: str) -> nn.Module:
        """A classifier behind the head of a fine-tuned plan; all thresholds share one."""
        networks, key = self.networks, content_hash(["exit", self._key(plan), blueprint.exit])
        if self._may_take(_EXITS, key) and (tensors := self._cache.load(_EXITS, key)) is not None:
            with suppress(RuntimeError):  # damaged, or of another structure: fitted anew
                found = build_classifier(blueprint.exit)
                found.load_state_dict(tensors)
                return found.eval().requires_grad_(False)
        with self._progress.phase(f"fit the exit of {title}"):
            head = copy.deepcopy(network.head).to(networks.data.accelerator.device)
            found = fit_classifier(head, blueprint.exit, networks.data, networks.teacher.answers,
                                   networks.scenario.search.seed)
        self._cache.save(_EXITS, key, found.state_dict(), {"kind": "exit", "plan": plan.label})
        return found

    def _key(self, plan: Plan, tuned: bool = True) -> str:
        networks, settings = self.networks, self.networks.scenario.training
        # pictures are sent to the backbone, or to what became of it on coded ones: no other supernet changes them
        trained = {"supernet": networks.supernet_key}
        if plan.split == INPUT:
            trained = {"backbone": networks.backbone_key, **({} if plan.lossless else {"coded": networks.coded_key})}
        return content_hash({
            **({} if tuned else {"tuned": False}), **trained, "plan": plan.model_dump(mode="json"),
            "epochs": settings.finetune_epochs, "patience": settings.finetune_patience, "lr": settings.finetune_lr,
            "batch": settings.batch_size, "seed": networks.scenario.search.seed,
        })


def _measured_elsewhere(device_arithmetic: str, reuse: bool, networks: Networks, plan: Plan) -> dict[str, bytes]:
    """Fine-tune and measure a plan in a worker; gives what that left in the cache."""
    cache = networks.cache.recording()
    context = SearchContext(dataclasses.replace(networks, cache=cache), reuse=reuse)
    context.measure(plan, device_arithmetic)
    return cache.written


def arithmetic_of(device: str) -> Arithmetic:
    """What a device of some number format computes in here."""
    # half precision on a device costs no accuracy that these data could show; it is computed as fp32
    return "int8" if device == "int8" else "fp32"


def blueprint_of(networks: Networks, plan: Plan, arithmetic: Arithmetic, key: str) -> Blueprint:
    """The structure of a plan.

    Args:
        networks: Data, backbone and supernet.
        plan: Any plan of the supernet, and every split point without a codec; with an exit or without.
        arithmetic: Number format of the device.
        key: Identifies the deployment.
    """
    supernet, data = networks.supernet, networks.data
    coded = plan.codec.kind == "code"
    codec = supernet.codec(plan.place, plan.codec.family) if coded else None
    return Blueprint(
        backbone=networks.scenario.backbone, num_classes=data.num_classes, image_shape=data.shape, plan=plan,
        keep=_kept(supernet, plan), key=key,
        arithmetic="fp32" if plan.split == INPUT and plan.exit is None else arithmetic,
        feature_shape=supernet.feature_shape(plan.place) if plan.is_split else (),
        exit=(classifier_structure(supernet.feature_shape(plan.place), data.num_classes)
              if plan.exit is not None and plan.exit.network is None else {}),
        exit_keep=() if plan.exit is None or plan.exit.network is None else _kept(supernet, plan.exit.network),
        head=supernet.structures.get(plan.place, {}),
        code_shape=codec.code_shape(plan.codec) if codec else (), codec=codec.structure(plan.codec) if codec else {})


def _kept(supernet: Supernet, plan: Plan) -> tuple[int, ...]:
    """Channels that a plan's head keeps in each group; none where it keeps all."""
    if plan.sparsity == 0.0:
        return ()
    pruner = supernet.pruners[plan.place]
    counts = pruner.keep_counts(plan.sparsity)
    return counts if any(k < g.channels for k, g in zip(counts, pruner.groups, strict=True)) else ()
