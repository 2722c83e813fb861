"""Replaying a result: rebuild everything that the file claims, and hold it against the file, field by field.

The deployment is rebuilt from its weights and classifies the validation and the test images through real payloads; the
structure follows from the scenario, latencies and rewards from the scenario's own models, and the columns of the
comparison from its rows. How far a figure may be off is written here and not read from the file: on the machine that
wrote it not at all, on another one by what sums of floats differ in. What cannot be made again, such as the accuracies
of baselines, whose networks are in no file, is listed as not checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autosplit.compression.network import SplitNetwork
from autosplit.core.comparison import ComparisonRow
from autosplit.core.errors import AutosplitError, ReplayMismatchError
from autosplit.core.hashing import source_hash
from autosplit.core.intervals import accuracy_interval
from autosplit.core.measurement import LatencySummary, Measurement
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result, Tolerance, provenance
from autosplit.core.trust import code_file, code_sha256, found_again, require_trusted
from autosplit.data.recorded import located
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.baselines import LOSSY_IMAGES, related
from autosplit.pipeline.context import arithmetic_of, blueprint_of
from autosplit.pipeline.given import hand_over_again
from autosplit.runtime.deployment import Deployment, Evaluation
from autosplit.training.prepare import Networks, untrained

__all__ = ["Difference", "Replay", "replay"]

_EXACT = 1e-9
"""What reading and writing a number may change, relative."""

_LIMITS = Tolerance()
_QUICK_IMAGES = {"png", "jpeg", "jpeg-shared", "webp", "webp-shared"}
"""Image formats that are coded again for the payloads of baselines; the others take a tenth of a second an image."""


@dataclass(frozen=True)
class Difference:
    """One figure that is not what the file says.

    Attributes:
        field: Its place in the file, such as `test.correct`; rows of the comparison by their method.
        recorded: What the file says.
        replayed: What was found.
        within: Whether sums of floats on another processor can explain it.
    """

    field: str
    recorded: Any
    replayed: Any
    within: bool

    def __str__(self) -> str:
        return f"{self.field} {_short(self.replayed)} (recorded {_short(self.recorded)})"


@dataclass(frozen=True)
class Replay:
    """A replayed result.

    Attributes:
        result: As recorded.
        evaluation: Of the rebuilt deployment on the test set.
        recorded: Recorded latency on the test set's payloads.
        latency: The same, computed again.
        differences: Every figure that is not what the file says.
        unchecked: Fields of the file that cannot be made again.
        same_machine: Whether processor, libraries, code and threads are those of the file.
    """

    result: Result
    evaluation: Evaluation
    recorded: LatencySummary
    latency: LatencySummary
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]
    same_machine: bool

    @property
    def exact(self) -> bool:
        """Whether every figure that was checked is the recorded one, to the image and to the byte."""
        return not self.differences

    def check(self) -> None:
        """Raise if a figure is off by more than the arithmetic of another machine explains.

        Raises:
            ReplayMismatchError: Names each field, replayed and recorded.
        """
        wrong = [d for d in self.differences if not d.within]
        if wrong:
            raise ReplayMismatchError("replay differs from the record: " + "; ".join(map(str, wrong)))


def replay(
    path: str | Path, progress: PhaseReporter | None = None, data_root: Path | None = None, *, model: Any = None,
    data: Any = None, latency: Any = None, objective: Any = None, trust_code: bool = False,
) -> Replay:
    """Replay a result file.

    Args:
        path: `best.json`, its weights beside it; or a run directory.
        progress: Shows the phases.
        data_root: Where data sets lie.
        model: What was handed to the search as such, if the result is of another process; so for the next three.
        data: See `model`.
        latency: See `model`.
        objective: See `model`.
        trust_code: Whether code may run that the result names and that never ran here.

    Raises:
        ConfigError: An object is handed over that is not the recorded one.
        ResultError: The file or its weights are not what they were.
        ReplayMismatchError: Its data are others, so that nothing can be compared.
    """
    progress = progress or NullProgress()
    result = Result.load(path, trust_code=trust_code)
    hand_over_again(result.scenario, model=model, data=data, latency=latency, objective=objective)
    # whatever code will run is asked about before anything takes time
    scorer = Scorer.of(result.scenario)
    for spec in (result.scenario.backbone, *result.scenario.codecs):
        if code_file(spec := found_again(spec)) is not None:
            require_trusted(spec)
    with progress.phase("rebuild the deployment"):
        deployment = Deployment.from_result(result)
    scenario = result.scenario.model_copy(update={"dataset": located(result, data_root)})
    if scenario.weights is not None and not Path(scenario.weights).is_file():  # structures need none
        scenario = scenario.model_copy(update={"weights": None})
    networks = untrained(scenario, progress, data_root=data_root)
    data, recorded_print = networks.data, result.provenance.data_fingerprint
    if data.fingerprint != recorded_print:
        raise ReplayMismatchError(
            f"replay differs from the record: provenance.data_fingerprint {data.fingerprint} (recorded "
            f"{recorded_print}): data set {scenario.dataset!r} differs from the recorded one (another content, seed or "
            "image decoder); replay with the data that it was searched on")
    with progress.phase("decode the validation set's payloads"):
        validation = deployment.measurement(deployment.evaluate(data, "validation"))
    with progress.phase("decode the test set's payloads"):
        evaluation = deployment.evaluate(data, "test")
        tested = deployment.measurement(evaluation)
    with progress.phase("compare with the record"):
        latency = scorer.latency(tested)
        now = _replayed(result, networks, scorer, deployment, validation, tested, evaluation)
        same = _is_same_machine(result)
        differences, unchecked = [], []
        for field, recorded, found in _leaves(_by_method(result.model_dump(mode="json")), now):
            if found is _ABSENT:
                unchecked.append(field)
            elif not _equal(recorded, found, 0.0, _EXACT):
                within = not same and _explained(field, recorded, found)
                differences.append(Difference(field, recorded, found, within))
    chosen = next(row.latency for row in result.comparison if row.chosen)
    return Replay(result, evaluation, chosen, latency, tuple(differences), tuple(unchecked), same)


# --- what is made again ---------------------------------------------------------------------------------------------


def _replayed(
    result: Result, networks: Networks, scorer: Scorer, deployment: Deployment, validation: Measurement,
    tested: Measurement, evaluation: Evaluation,
) -> dict[str, Any]:
    """The file as it should be, without the fields that nothing here determines."""
    scenario, data, found = result.scenario, networks.data, scorer.outcome(validation)
    outcome = found.model_dump(mode="json")
    del outcome["measurement"]["seconds"]
    blueprint = deployment.blueprint
    try:
        structure = blueprint_of(networks, blueprint.plan, arithmetic_of(scenario.conditions.device.arithmetic), "")
        if scenario.search.granularity == "uniform" and not _possible(blueprint.plan, networks):
            raise KeyError("no plan of the scenario's space")
        again: Any = structure.model_dump(mode="json", exclude={"key", "backbone"})
        again["backbone"] = scenario.backbone
    except (LookupError, AutosplitError) as e:
        again = f"not possible in this scenario: {e}"
    png = next((row.accuracy for row in result.comparison if row.method == "png"), None)
    where = {"seed": scenario.search.seed, "agent": scenario.search.agent, "data_fingerprint": data.fingerprint}
    if result.provenance.source == source_hash() and networks.scenario.weights == scenario.weights:
        # made from the settings, the data and the code, so other code cannot check them
        where |= {"backbone_key": networks.backbone_key, "supernet_key": networks.supernet_key}
    code = {spec: code_sha256(found_again(spec)) for spec in scenario.code}
    return {
        "schema_version": result.schema_version,
        "scenario": {"code": code},
        "feasible": found.feasible,
        "plan": blueprint.plan.model_dump(mode="json"),
        "outcome": outcome,
        # nothing is lost on the way to the untouched backbone
        **({"backbone_accuracy": png} if png is not None else {}),
        "test": {"correct": evaluation.correct, "images": evaluation.images,
                 "payload_bytes_total": int(evaluation.payload_sizes.sum()),
                 "payload_bytes_p95": evaluation.payload_p95, "payload_sha256": evaluation.payload_sha256},
        "comparison": _rows(result, networks, scorer, tested),
        "deployment": {"blueprint": again, "sha256": result.stored.sha256,  # of the file that was loaded
                       **({"class_names": list(data.class_names)} if result.stored.class_names else {})},
        "tolerance": _LIMITS.model_dump(mode="json"),
        "provenance": where,
    }


def _rows(result: Result, networks: Networks, scorer: Scorer, tested: Measurement) -> dict[str, Any]:
    """The comparison: what a deployment without weights determines, and what follows from the columns themselves."""
    found: dict[str, Any] = {}
    plans, evaluator = _plans(networks), LiveEvaluator(networks)
    chosen = next(row for row in result.comparison if row.chosen)
    for key, row, derived in zip(_keys(result.comparison), result.comparison, related(result.comparison), strict=True):
        again: dict[str, Any] = {
            "feasible": row.latency.p95_ms <= scorer.conditions.budget_ms,
            "accuracy_loss_points": 100 * (result.backbone_accuracy - row.accuracy),
            "difference_points": 100 * (row.accuracy - chosen.accuracy),
            **{name: getattr(derived, name) for name in ("ratio_to_png", "ratio_to_jpeg", "speed_up")}}
        plan = plans.get(row.plan)
        if row.chosen:
            again |= {
                "plan": tested.plan.label, "accuracy": tested.accuracy, "name": "autosplit", "method": "autosplit",
                "chosen": True, **_measured(tested, scorer), **_intervals(tested, networks),
                **({"exit": tested.exits[0].model_dump(mode="json")} if tested.plan.exit is not None else {})}
        elif plan is not None and (measured := _without_weights(plan, networks, evaluator)) is not None:
            again |= {"plan": row.plan, "chosen": False, **_measured(measured, scorer)}
        known = tested.plan if row.chosen else plan
        use = evaluator.memory.of(known) if result.scenario.search.target == "c" and known is not None else ""
        found[key] = again if isinstance(use, str) else again | asdict(use)
    return found


def _measured(measured: Measurement, scorer: Scorer) -> dict[str, Any]:
    """Columns that payload and structure determine."""
    work, latency = measured.workload, scorer.latency(measured)
    return {"payload_bytes": work.payload_bytes_mean, "ratio_to_feature": measured.compression_ratio,
            "device_macs": work.device.macs + work.encode.macs, "latency": latency.model_dump(mode="json"),
            "feasible": latency.p95_ms <= scorer.conditions.budget_ms}


def _intervals(tested: Measurement, networks: Networks) -> dict[str, Any]:
    """How sure the accuracy of the chosen plan is, and what else its answers say."""
    sources, answers = networks.data.test.sources, tested.answers
    if answers is None:
        return {}
    interval = accuracy_interval(answers.hits, None if sources is None else sources.numpy())
    return {"accuracy_low": interval.low, "accuracy_high": interval.high,
            "balanced_accuracy": answers.balanced_accuracy, "least_recall": answers.least_recall}


def _without_weights(plan: Plan, networks: Networks, evaluator: LiveEvaluator) -> Measurement | None:
    """Payload and work of a deployment whose weights are in no file, where they do not depend on them."""
    data, kind = networks.data, plan.codec.kind
    if kind == "code" or (plan.split == INPUT and kind not in _QUICK_IMAGES):
        return None
    work = evaluator.workloads([plan])[0]
    feature_bytes = 0.0
    if plan.split == INPUT:
        blueprint = blueprint_of(networks, plan, "fp32", "")
        coder = Deployment(blueprint, SplitNetwork(nn.Identity(), networks.backbone), data.mean, data.std, None)
        batches = torch.split(data.test.images, data.images_at_once)
        sizes = np.array([len(p) for batch in batches for p in coder.encode(batch)])
        work = work.model_copy(update={"payload_bytes_mean": float(sizes.mean()),
                                       "payload_bytes_p95": float(np.percentile(sizes, 95))})
        feature_bytes = float(np.prod(data.shape))
    elif plan.split != OUTPUT:
        feature_bytes = 4.0 * float(np.prod(networks.supernet.points[plan.split].shape))
    return Measurement(plan=plan, accuracy=0.0, workload=work, feature_bytes=feature_bytes, fidelity="F3",
                       images=len(data.test), seconds=0.0)


def _possible(plan: Plan, networks: Networks) -> bool:
    """Whether a search of this scenario may choose a plan."""
    plans, space, leaving = _plans(networks), networks.scenario.space, plan.exit
    if leaving is None:
        return plan.label in plans
    thresholds = space.classifier_exits if leaving.network is None else space.cascade_exits
    device = leaving.network is None or leaving.network.label in plans
    return device and leaving.threshold in thresholds and plan.without_exit.label in plans


def _plans(networks: Networks) -> dict[str, Plan]:
    """Every plan without an exit that a search of this scenario or a baseline may choose, by label."""
    space, none = networks.supernet.plan_space, CodecSetting(kind="none")
    return {plan.label: plan for plan in (
        *space.plans(),
        *(Plan(split=INPUT, codec=setting)
          for setting in networks.scenario.space.image_settings("png", *LOSSY_IMAGES)),
        Plan(split=OUTPUT, codec=none),
        *(Plan(split=point.name, codec=CodecSetting(kind="raw")) for point in networks.points))}


# --- the comparison of the two --------------------------------------------------------------------------------------


class _Absent:
    """Stands for what cannot be made again."""


_ABSENT = _Absent()


def _by_method(data: dict[str, Any]) -> dict[str, Any]:
    """The recorded file with its rows named by what they are, and without what the replay starts from."""
    rows = [ComparisonRow.model_validate(row) for row in data["comparison"]]
    data["comparison"] = dict(zip(_keys(rows), data["comparison"], strict=True))
    data["scenario"] = {"code": data["scenario"].get("code", {})}
    del data["deployment"]["weights"]
    return data


def _keys(rows: Any) -> list[str]:
    """A name for each row: its method, numbered where there are several."""
    names: list[str] = []
    for row in rows:
        name = row.method or row.name
        names.append(name if name not in names else f"{name} {sum(n.startswith(name) for n in names) + 1}")
    return names


def _leaves(recorded: Any, now: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every recorded value with its place and what it should be; a branch that is absent as a whole is one value."""
    if recorded is None or recorded in ({}, []):
        # left out, as keys are that came after the file was written: nothing is claimed
        return
    if now is _ABSENT or not (isinstance(recorded, Mapping) and isinstance(now, Mapping)):
        yield field, recorded, now
        return
    for key, value in recorded.items():
        yield from _leaves(value, now.get(key, _ABSENT), f"{field}.{key}" if field else str(key))


def _equal(recorded: Any, found: Any, absolute: float, relative: float) -> bool:
    if isinstance(recorded, list) and isinstance(found, (list, tuple)):
        return len(recorded) == len(found) and all(
            _equal(a, b, absolute, relative) for a, b in zip(recorded, found, strict=True))
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (recorded, found))
    if not numbers:
        return type(recorded) is type(found) and bool(recorded == found)
    return math.isclose(recorded, found, rel_tol=relative, abs_tol=max(absolute, 1e-12))


def _explained(field: str, recorded: Any, found: Any) -> bool:
    """Whether another processor explains a difference: a sum that is rounded otherwise moves a value of the code."""
    leaf = field.rpartition(".")[2]
    points, percent = _LIMITS.accuracy_points, _LIMITS.payload_percent / 100
    if leaf == "payload_sha256" or ".answers" in field:
        return True
    if leaf == "images" or isinstance(recorded, (bool, str)):
        return False
    if leaf == "correct":
        return _equal(recorded, found, points / 100 * max(found, 500), 0.0)
    if leaf.endswith("_points"):
        return _equal(recorded, found, 2 * points, 0.0)
    if leaf in {"accuracy", "in_time", "reward", "backbone_accuracy", "balanced_accuracy", "least_recall"} \
            or leaf.startswith("accuracy_"):
        return _equal(recorded, found, points / 100, 0.0)
    if leaf.startswith("payload_bytes"):
        return _equal(recorded, found, 1.0, percent)
    if leaf.startswith("ratio_") or re.search(r"_(ms|mj)$|^speed_up$", leaf):
        return _equal(recorded, found, 0.0, _LIMITS.latency_percent / 100)
    return False


def _is_same_machine(result: Result) -> bool:
    """Whether nothing is different here that a sum of floats could depend on."""
    then = result.provenance
    now = provenance(**{name: getattr(then, name) for name in (
        "seed", "data_fingerprint", "backbone_key", "supernet_key", "agent", "evaluations", "seconds")})
    return all(getattr(then, n) == getattr(now, n) for n in (
        "processor", "source", "versions", "machine", "cpu_capability", "threads"))


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."
