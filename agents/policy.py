"""A trained policy: conditions in, plan out, in milliseconds and without a measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from pydantic import ValidationError
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor

from autosplit.agents.latency_estimates import counts_of, landmarks, plausible
from autosplit.agents.network import by_likelihood, network_of
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.files import write_beside, write_whole
from autosplit.core.hashing import sha256_of, sha256_of_file
from autosplit.core.intervals import share_interval
from autosplit.core.measurement import STAGE_COUNTS, LatencySummary, Measurement, StageCost, Workload
from autosplit.core.operators import TypeSums
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.space import PlanSpace
from autosplit.core.tensors import load_tensors
from autosplit.core.trust import named_in_file
from autosplit.core.validation import Frozen, first_error
from autosplit.envs.features import FloatArray, condition_features, node_features, plan_features
from autosplit.envs.tree import DecisionTree, IntArray
from autosplit.evaluation.objective import Objective, load_objective
from autosplit.latency.base import LatencyBreakdown, LatencyModel
from autosplit.runtime.standalone.files import read_json

__all__ = ["CoInferencePolicy", "Decision", "Knowledge", "Origin", "tensors_of_workloads", "workloads_of_tensors"]

_SCHEMA = 3
_ENOUGH = 8  # plans in time that a decision is taken among, if there are so many
_STAGES = ("device", "encode", "edge")
_BYTES = ("payload_bytes_mean", "payload_bytes_p95", "result_bytes")
_WEIGHT = "network."
_ENDS = ("low", "high")  # of the intervals
_MOST_WORK = 1e18  # of any count of work or bytes


class Decision(Frozen):
    """The answer of a policy.

    Attributes:
        plan: The plan.
        accuracy: Predicted top-1 accuracy in [0, 1]: as measured when the policy was trained, or estimated then. It is
            the proxy accuracy (F1), and never above that of the uncut network.
        accuracy_low: Lower end of its 95 % interval.
        accuracy_high: Upper end.
        payload_bytes: Mean bytes over the channel.
        latency: What the latency model says.
        budget_ms: The budget it was held against.
        reward: Of the objective.
        considered: Plans that latency was computed for.
    """

    plan: Plan
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    payload_bytes: float
    latency: LatencySummary
    budget_ms: float
    reward: float
    considered: int

    @property
    def feasible(self) -> bool:
        """Whether the 95th percentile of the latency is within the budget."""
        return self.latency.p95_ms <= self.budget_ms


class Origin(Frozen):
    """Where a policy comes from.

    Attributes:
        table: Name of the table or scenario that it was trained on.
        sha256: Of the table; of nothing where it was trained in a search.
        conditions: Conditions that it was trained under.
        steps: Steps of its training.
        seed: Of its training.
        unseen_regret: Median and 95th percentile of the regret on conditions drawn likewise but not trained under:
            1 - reward of the decision / reward of the best plan, accuracies as the policy knows them.
    """

    table: str = ""
    sha256: str = ""
    conditions: int = 0
    steps: int = 0
    seed: int = 0
    unseen_regret: tuple[float, float] | None = None


class _Space(Frozen):
    """`PlanSpace` in `policy.json`."""

    splits: tuple[str, ...]
    sparsities: dict[str, tuple[float, ...]]
    codecs: dict[str, tuple[CodecSetting, ...]]


class _Description(Frozen):
    """`policy.json`."""

    schema_version: int
    origin: Origin
    objective: str
    hidden: tuple[int, ...]
    observation_size: int
    actions: int
    space: _Space
    # both are left out in folders from before they were recorded
    weights: str = "policy.safetensors"
    sha256: str | None = None


@dataclass(frozen=True)
class Knowledge:
    """All plans that a policy may answer with, and what is known of them.

    Attributes:
        space: The P plans.
        workloads: Work and payload, one a plan, in the order of `space.plans()`.
        accuracy: Of every plan, measured or estimated, shape (P,).
        low: Lower ends of the 95 % intervals of these, shape (P,); the accuracies themselves where none are known.
        high: The upper ends.
    """

    space: PlanSpace
    workloads: tuple[Workload, ...]
    accuracy: Array
    low: Array | None = None
    high: Array | None = None

    def interval(self, number: int) -> tuple[float, float]:
        """The 95 % interval of a plan's accuracy."""
        low, high = (self.accuracy if ends is None else ends for ends in (self.low, self.high))
        return float(low[number]), float(high[number])

    def __post_init__(self) -> None:
        if not len(self.space) == len(self.workloads) == len(self.accuracy):
            raise ValueError(f"{len(self.workloads)} workloads and {len(self.accuracy)} accuracies do not describe a "
                             f"space of {len(self.space)} plans")

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The plans, numbered."""
        return tuple(self.space.plans())

    @cached_property
    def tree(self) -> DecisionTree:
        """The decisions that lead to them."""
        return DecisionTree.of(self.space)

    @cached_property
    def counts(self) -> Array:
        """Work and bytes of the plans, for `autosplit.agents.latency_estimates`."""
        return counts_of(self.workloads)

    @cached_property
    def landmarks(self) -> IntArray:
        """Plans that differ, from whose latencies those of the others are estimated."""
        return landmarks(self.counts)

    @cached_property
    def node_observations(self) -> FloatArray:
        """As in `CoInferenceCore`, shape (N + P, F)."""
        return node_features(self.tree, plan_features(self.space, self.workloads))


class CoInferencePolicy:
    """Answers for any device, edge, channel and budget with one of the plans it was trained on.

    The answer is the plan of the highest reward among those that the network finds likeliest and that are in time by
    the latency model. So latency is computed for a few plans instead of all.

    Args:
        knowledge: Plans, workloads, accuracies.
        latency_model: Decides which plans are within the budget.
        objective: Decides which of those is best.
        network: The trained network.
        hidden: Its hidden layers.
        origin: Where it comes from.
        allowed: Numbers of the plans that it may answer with; all when left out.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        latency_model: LatencyModel,
        objective: Objective,
        network: MaskableActorCriticPolicy,
        hidden: Sequence[int],
        origin: Origin | None = None,
        allowed: IntArray | None = None,
    ) -> None:
        self.knowledge, self.network, self.origin = knowledge, network, origin or Origin()
        self._latency_model, self._objective, self._hidden = latency_model, objective, tuple(hidden)
        self._allowed = allowed

    def restricted(self, measurements: Sequence[Measurement]) -> CoInferencePolicy:
        """The same policy, restricted to some of its plans, with new measurements of them.

        Args:
            measurements: One a plan.

        Raises:
            ConfigError: The policy does not know one of the plans.
        """
        known = self.knowledge
        number = {plan: i for i, plan in enumerate(known.plans)}
        unknown = [m.plan.label for m in measurements if m.plan not in number]
        if unknown:
            raise ConfigError(f"the policy does not know the plan {unknown[0]!r}; use one of a search of its space")
        allowed = np.array([number[m.plan] for m in measurements], dtype=np.int64)
        workloads = list(known.workloads)
        accuracy, low, high = (known.accuracy.copy() if v is None else v.copy()
                               for v in (known.accuracy, known.low, known.high))
        for i, m in zip(allowed, measurements, strict=True):
            accuracy[i], workloads[i] = m.accuracy, m.workload
            low[i], high[i] = share_interval(m.accuracy, m.images) if m.images else (m.accuracy, m.accuracy)
        return CoInferencePolicy(Knowledge(known.space, tuple(workloads), accuracy, low, high), self._latency_model,
                                 self._objective, self.network, self._hidden, self.origin, allowed)

    def ranked(self, conditions: Conditions) -> IntArray:
        """Numbers of the plans that it may answer with, the likeliest first, as the network sees these conditions."""
        known = self.knowledge
        order = by_likelihood(self.network, known.tree, known.node_observations, condition_features([conditions])[0])
        return self._only_allowed(order)

    def _only_allowed(self, numbers: IntArray) -> IntArray:
        return numbers if self._allowed is None else numbers[np.isin(numbers, self._allowed)]

    def decide(self, conditions: Conditions, among: int = 64, *, strict: bool = True) -> Decision:
        """The plan for these conditions.

        Args:
            conditions: Device, edge, channel and budget.
            among: Likeliest plans that are looked at. Where fewer than 8 of them are in time, others are looked at
                until 8 are: those that are in time by an estimate from the latencies of some plans
                (`autosplit.agents.latency_estimates`), the most accurate first; where none is then, those that may be
                until one is; all where there is no such estimate.
            strict: Whether the 95th percentile of the latency has to be within the budget. Else the reward alone
                decides, which may prefer a plan that is late now and then to one that is of little use.

        Returns:
            With `strict` a plan within the budget if any that was looked at is, else the least late of these.

        Raises:
            ValueError: `among` is below 1.
        """
        if among < 1:
            raise ValueError(f"a decision is taken among at least one plan, not {among}")
        order = self.ranked(conditions)
        looked = order[:among]  # the latency model is what takes the time, not the network
        breakdown = self._latency(looked, conditions)
        if len(looked) < len(order) and (breakdown.p95_ms <= conditions.budget_ms).sum() < _ENOUGH:
            looked, breakdown = self._look_further(order, looked, breakdown, conditions)
        return self._best(looked, breakdown, conditions, strict)

    def _look_further(self, order: IntArray, looked: IntArray, breakdown: LatencyBreakdown, conditions: Conditions
                      ) -> tuple[IntArray, LatencyBreakdown]:
        """Look at more plans than the likeliest, until enough are in time."""
        known, step = self.knowledge, len(looked)

        def look_at(following: IntArray) -> None:
            nonlocal looked, breakdown
            breakdown = LatencyBreakdown.joined([breakdown, self._latency(following, conditions)], axis=0)
            looked = np.concatenate([looked, following])

        # the latencies of plans that differ say what work and bytes cost, and so which other plans may be in time
        look_at(np.setdiff1d(self._only_allowed(known.landmarks), looked))
        tiers = plausible(known.counts, looked, breakdown.p95_ms[:, 0], conditions.budget_ms)
        if tiers is None:
            queues = [(order[~np.isin(order, looked)], _ENOUGH)]
        else:
            likely, others = (self._only_allowed(t[np.argsort(-known.accuracy[t], kind="stable")]) for t in tiers)
            queues = [(likely, _ENOUGH), (others, 1)]
        for queue, enough in queues:
            for start in range(0, len(queue), step):
                if (breakdown.p95_ms <= conditions.budget_ms).sum() >= enough:
                    break
                look_at(queue[start:start + step])
        return looked, breakdown

    def _latency(self, numbers: IntArray, conditions: Conditions) -> LatencyBreakdown:
        return self._latency_model.latency([self.knowledge.workloads[i] for i in numbers], [conditions])

    def _best(
        self, numbers: IntArray, breakdown: LatencyBreakdown, conditions: Conditions, strict: bool = True
    ) -> Decision:
        known, p95_ms = self.knowledge, breakdown.p95_ms[:, 0]
        rewards = self._objective.reward(known.accuracy[numbers], breakdown, [conditions])[:, 0]
        in_time = (p95_ms <= conditions.budget_ms) | (not strict)
        # where nothing is in time, the plan that is over the deadline by the least
        at = int(np.where(in_time, rewards, -np.inf).argmax() if in_time.any() else p95_ms.argmin())
        chosen = int(numbers[at])
        low, high = known.interval(chosen)
        return Decision(
            plan=known.plans[chosen], accuracy=float(known.accuracy[chosen]), accuracy_low=low, accuracy_high=high,
            payload_bytes=known.workloads[chosen].payload_bytes_mean, latency=breakdown.summary(at),
            budget_ms=conditions.budget_ms, reward=float(rewards[at]), considered=len(numbers))

    def regret(self, conditions: Sequence[Conditions], among: int = 64) -> Array:
        """How much worse decisions are than the best plan, accuracies taken as known.

        Args:
            conditions: C of them.
            among: As in `decide`.

        Returns:
            1 - reward / best reward, shape (C,); 0 where no plan is in time and the least late one was chosen.
        """
        every = np.arange(len(self.knowledge.plans)) if self._allowed is None else self._allowed
        pairs = [(self.decide(c, among), self._best(every, self._latency(every, c), c)) for c in conditions]
        result: Array = np.array([1 - found.reward / best.reward if best.feasible else float(found.plan != best.plan)
                                  for found, best in pairs])
        return result

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights and of the knowledge of plans; policies with equal hashes give equal answers."""
        tensors = sorted(self._tensors().items())
        return hashlib.sha256(b"".join(n.encode() + t.contiguous().numpy().tobytes() for n, t in tensors)).hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {_WEIGHT + k: v.clone() for k, v in self.network.state_dict().items()}
        tensors |= tensors_of_workloads(self.knowledge.workloads)
        tensors["accuracy"] = torch.tensor(self.knowledge.accuracy, dtype=torch.float64)
        for name in _ENDS:
            if (ends := getattr(self.knowledge, name)) is not None:
                tensors[name] = torch.tensor(ends, dtype=torch.float64)
        return tensors

    def save(self, path: str | Path) -> None:
        """Write `policy.safetensors` (weights, workloads, accuracies) and `policy.json` (all else) into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        known = self.knowledge
        description = {
            "schema_version": _SCHEMA,
            "origin": self.origin.model_dump(),
            "objective": self._objective.spec,
            "hidden": list(self._hidden),
            "observation_size": self.network.features_dim,
            "actions": self.network.action_net.out_features,
            "space": {**asdict(known.space), "codecs": {s: [c.model_dump(exclude_none=True) for c in codecs]
                                                        for s, codecs in known.space.codecs.items()}},
        }
        # safetensors and JSON: reading them runs no code, whoever the folder comes from
        content = safetensors.torch.save(self._tensors())
        weights = write_beside(folder / "policy.safetensors", content)
        description |= {"weights": weights, "sha256": sha256_of(content)}
        write_whole(folder / "policy.json", json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, latency_model: LatencyModel, objective: Objective | None = None
    ) -> CoInferencePolicy:
        """Read what `save` wrote.

        Args:
            path: The folder.
            latency_model: As in `CoInferencePolicy`.
            objective: The one it was trained for when left out.

        Raises:
            ResultError: A file is missing, damaged, or of another schema version.
        """
        folder = Path(path)
        data = read_json(folder / "policy.json", f"policy {folder}: policy.json", error=ResultError)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != _SCHEMA:
            raise ResultError(f"policy {folder}: schema version {version!r}, this version reads {_SCHEMA}; "
                              "train it anew")
        try:
            found = _Description.model_validate(data)
        except ValidationError as e:
            raise ResultError(f"policy {folder}: {first_error(e)}; train it anew") from e
        named_in_file(data, folder / "policy.json")
        objective = objective or load_objective(found.objective)
        weights_file = folder / Path(found.weights).name
        tensors = load_tensors(weights_file, error=ResultError)
        if found.sha256 not in (None, sha256_of_file(weights_file)):
            raise ResultError(f"policy {folder}: {weights_file.name} was altered (its hash is not the recorded one); "
                              "restore it")
        try:
            space = PlanSpace(found.space.splits, found.space.sparsities, found.space.codecs)
            weights = {k.removeprefix(_WEIGHT): v for k, v in tensors.items() if k.startswith(_WEIGHT)}
            # before anything is built: files may state any sizes, and those of the tensors are true
            sizes = (found.observation_size, *found.hidden, found.actions)
            layers = [weights[f"mlp_extractor.policy_net.{2 * i}.weight"] for i in range(len(found.hidden))]
            shapes = [tuple(layer.shape) for layer in (*layers, weights["action_net.weight"])]
            if shapes != list(zip(sizes[1:], sizes, strict=False)) or len(space) != len(tensors["accuracy"]):
                raise ValueError("the sizes in policy.json are not those of policy.safetensors")
            knowledge = Knowledge(space, workloads_of_tensors(space.plans(), tensors),
                                  tensors["accuracy"].to(torch.float64).numpy(),
                                  *(tensors[n].to(torch.float64).numpy() if n in tensors else None for n in _ENDS))
            if max(float(tensors[name].max()) for name in ("stages", "bytes")) > _MOST_WORK:
                raise ValueError("a workload is larger than any network's")
            if not all(((values >= 0) & (values <= 1)).all() and values.shape == knowledge.accuracy.shape
                       for values in (knowledge.accuracy, knowledge.low, knowledge.high) if values is not None):
                raise ValueError("an accuracy is not in [0, 1]")
            if knowledge.tree.actions > found.actions or knowledge.node_observations.shape[1] >= found.observation_size:
                raise ValueError("the network does not fit the space of plans")
            network = network_of(weights, found.observation_size, found.actions, found.hidden)
            # weights that are finite may still overflow on their way through the network
            probe = np.zeros(found.observation_size - knowledge.node_observations.shape[1], dtype=np.float32)
            by_likelihood(network, knowledge.tree, knowledge.node_observations, probe)
        except (LookupError, TypeError, RuntimeError, ValueError, ArithmeticError) as e:
            raise ResultError(f"policy {folder}: cannot be read ({e}); train it anew") from e
        return cls(knowledge, latency_model, objective, network, found.hidden, found.origin)


def tensors_of_workloads(workloads: Sequence[Workload]) -> dict[str, Tensor]:
    """Workloads as tensors for a file: plans share most of their stages, so each stage is stored once.

    Returns:
        `stages`, a row for each distinct stage: its counts, whether there are sums by operator type, and these;
        `stage_numbers`, shape (P, 3), rows of `stages`; `bytes`, shape (P, 3).
    """
    costs = list(dict.fromkeys(getattr(w, stage) for w in workloads for stage in _STAGES))
    number = {cost: i for i, cost in enumerate(costs)}
    rows = [[*(getattr(cost, name) for name in STAGE_COUNTS), float(cost.by_type is not None),
             *(cost.by_type or TypeSums()).flat] for cost in costs]
    return {
        "stages": torch.tensor(rows, dtype=torch.float64),
        "stage_numbers": torch.tensor([[number[getattr(w, s)] for s in _STAGES] for w in workloads], dtype=torch.int32),
        "bytes": torch.tensor([[getattr(w, name) for name in _BYTES] for w in workloads], dtype=torch.float64),
    }


def workloads_of_tensors(plans: Iterable[Plan], tensors: Mapping[str, Tensor]) -> tuple[Workload, ...]:
    """The inverse of `tensors_of_workloads`, for the plans in the same order."""
    costs, counts = [], len(STAGE_COUNTS)
    for row in tensors["stages"].tolist():
        sums = TypeSums.from_flat(row[counts + 1:]) if row[counts] else None
        costs.append(StageCost.model_validate({**dict(zip(STAGE_COUNTS, row[:counts], strict=True)), "by_type": sums}))
    rows = zip(plans, tensors["stage_numbers"].tolist(), tensors["bytes"].tolist(), strict=True)
    return tuple(Workload(plan=plan, **{s: costs[i] for s, i in zip(_STAGES, numbers, strict=True)},
                          **dict(zip(_BYTES, sizes, strict=True))) for plan, numbers, sizes in rows)
