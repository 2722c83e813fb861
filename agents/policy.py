"""A trained policy: conditions in, plan out, in milliseconds and without a measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.distributions import Categorical

from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import FloatArray
from autosplit.envs.tree import STEPS, IntArray
from autosplit.errors import ResultError
from autosplit.evaluation.base import PlanSpace
from autosplit.latency.base import Array, LatencyModel
from autosplit.plan import CodecSetting, Plan, StageCost, Workload
from autosplit.scenario import Conditions

__all__ = ["CoInferencePolicy", "network_of", "policy_arguments", "rollout"]

_SCHEMA = 1
_STAGES = ("device", "encode", "edge")
_BYTES = ("payload_bytes_mean", "payload_bytes_p95", "result_bytes")
_COSTS = tuple(StageCost.model_fields)
_WEIGHT = "network."


class ScaledFeatures(BaseFeaturesExtractor):
    """Shifts and scales an observation by fixed numbers, stored with the weights.

    Conditions vary within a small part of their documented bounds; a network learns faster when that part fills its
    input range. The environment's observation stays what it is.

    Args:
        observation_space: The environment's.
        shift: What is subtracted, one number a feature; zeros when left out (they are loaded later).
        scale: What it is divided by; ones when left out.
    """

    def __init__(self, observation_space: spaces.Box, shift: Sequence[float] = (), scale: Sequence[float] = ()) -> None:
        size = observation_space.shape[0]
        super().__init__(observation_space, size)
        self.register_buffer("shift", torch.tensor(list(shift) or [0.0] * size, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(list(scale) or [1.0] * size, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """Scaled observations, cut to [-5, 5] so that conditions far from the trained ones do no harm."""
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        return torch.clamp((observations - shift) / scale, -5.0, 5.0)


def policy_arguments(hidden: Sequence[int], core: CoInferenceCore | None = None) -> dict[str, Any]:
    """`policy_kwargs` of the network: two separate tanh networks for actor and critic.

    Args:
        hidden: Width of each hidden layer.
        core: Whose pool of conditions sets the input scaling; none where weights are loaded.
    """
    scaling: dict[str, list[float]] = {}
    if core is not None:
        seen, choices = core.condition_observations, core.node_observations.shape[1]
        scaling = {"shift": [0.0] * choices + seen.mean(axis=0).tolist(),
                   "scale": [1.0] * choices + np.maximum(seen.std(axis=0), 1e-3).tolist()}
    return {"net_arch": list(hidden), "activation_fn": nn.Tanh, "features_extractor_class": ScaledFeatures,
            "features_extractor_kwargs": scaling}


def network_of(
    weights: Mapping[str, Tensor], observation_size: int, actions: int, hidden: Sequence[int]
) -> MaskableActorCriticPolicy:
    """A network for inference, with copies of the given weights."""
    network = MaskableActorCriticPolicy(
        spaces.Box(0.0, 1.0, (observation_size,), np.float32), spaces.Discrete(actions), lambda _: 0.0,
        **policy_arguments(hidden))
    network.load_state_dict(dict(weights), strict=True)
    network.set_training_mode(False)
    return network


def rollout(
    network: MaskableActorCriticPolicy,
    core: CoInferenceCore,
    conditions: IntArray,
    *,
    masked: bool = True,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
) -> IntArray:
    """Let a policy choose a plan under each of n conditions.

    Args:
        network: The policy.
        core: Plans and conditions; its masks say which plans may be chosen (see `CoInferenceCore.restricted`).
        conditions: Indices into the core's pool, shape (n,).
        masked: Whether the policy chooses among the actions inside the mask; else among all, and one outside the mask
            counts as the nearest inside it.
        temperature: 0 takes the likeliest action; else logits are divided by it and an action is drawn.
        rng: Draws the actions; needed for a temperature above 0.

    Returns:
        Numbers of the plans, shape (n,).
    """
    nodes = np.zeros(len(conditions), dtype=np.int64)
    for _ in range(STEPS):
        logits = _logits(network, core.observe(nodes, conditions))
        if temperature > 0:
            assert rng is not None
            logits = logits / temperature + rng.gumbel(size=logits.shape)  # the Gumbel-max trick: argmax is a draw
        if masked:
            inside = np.where(core.action_masks(nodes, conditions), logits, -np.inf)
            nodes = core.tree.child[nodes, inside.argmax(axis=1)]
        else:
            nodes = core.advance(nodes, conditions, logits.argmax(axis=1))
    return nodes - core.tree.inner


def _logits(network: MaskableActorCriticPolicy, observations: FloatArray) -> Array:
    with torch.no_grad():
        distribution = cast("Categorical", network.get_distribution(torch.as_tensor(observations)).distribution)
        result: Array = distribution.logits.numpy().astype(np.float64)
    return result


class CoInferencePolicy:
    """Answers for any device, edge, channel and budget with one of the plans it was trained on.

    Args:
        space: The plans.
        workloads: One a plan, in the order of `space.plans()`.
        latency_model: Tells which plans are within the budget; the policy chooses among those.
        network: The trained network.
        hidden: Its hidden layers.
    """

    def __init__(
        self,
        space: PlanSpace,
        workloads: Sequence[Workload],
        latency_model: LatencyModel,
        network: MaskableActorCriticPolicy,
        hidden: Sequence[int],
    ) -> None:
        self.space = space
        self.workloads = tuple(workloads)
        self._latency_model = latency_model
        self._network = network
        self._hidden = tuple(hidden)
        self._core: CoInferenceCore | None = None

    def decide(self, conditions: Conditions) -> Plan:
        """The plan for these conditions; within the budget if any plan is."""
        return self.decide_all([conditions])[0]

    def decide_all(self, conditions: Sequence[Conditions]) -> list[Plan]:
        """The plan for each of several conditions."""
        if self._core is None:
            self._core = CoInferenceCore.build(self.space, self.workloads, self._latency_model, conditions)
        core = self._core = self._core.under(conditions, self.workloads, self._latency_model)
        chosen = rollout(self._network, core, np.arange(len(conditions)))
        return [core.plans[i] for i in chosen]

    def save(self, path: str | Path) -> None:
        """Write `policy.safetensors` (weights and workloads) and `policy.json` (plan space, sizes) into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {_WEIGHT + k: v.clone() for k, v in self._network.state_dict().items()}
        tensors["workloads"] = torch.tensor([_row(w) for w in self.workloads], dtype=torch.float64)
        description = {
            "schema_version": _SCHEMA,
            "hidden": list(self._hidden),
            "observation_size": self._network.features_dim,
            "actions": self._network.action_net.out_features,
            "space": {**asdict(self.space), "codecs": {s: [c.model_dump(exclude_none=True) for c in codecs]
                                                       for s, codecs in self.space.codecs.items()}},
        }
        save_file(tensors, folder / "policy.safetensors")
        (folder / "policy.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, latency_model: LatencyModel) -> CoInferencePolicy:
        """Read what `save` wrote.

        Raises:
            ResultError: A file is missing, damaged, or of another schema version.
        """
        folder = Path(path)
        try:
            data = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
            if data["schema_version"] != _SCHEMA:
                raise ResultError(f"policy {folder}: schema version {data['schema_version']}, this version reads "
                                  f"{_SCHEMA}")
            return cls._read(data, load_file(folder / "policy.safetensors"), latency_model)
        except (OSError, LookupError, TypeError, RuntimeError, SafetensorError, ValueError) as e:
            if isinstance(e, ResultError):
                raise
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise ResultError(f"policy {folder}: cannot be read: {reason}") from e

    @classmethod
    def _read(cls, data: dict[str, Any], tensors: dict[str, Tensor], latency_model: LatencyModel) -> CoInferencePolicy:
        raw = data["space"]
        space = PlanSpace(tuple(raw["splits"]), {s: tuple(v) for s, v in raw["sparsities"].items()},
                          {s: tuple(CodecSetting(**c) for c in v) for s, v in raw["codecs"].items()})
        rows = zip(space.plans(), tensors.pop("workloads").tolist(), strict=True)
        weights = {k.removeprefix(_WEIGHT): v for k, v in tensors.items()}
        network = network_of(weights, data["observation_size"], data["actions"], data["hidden"])
        return cls(space, [_workload(p, row) for p, row in rows], latency_model, network, data["hidden"])


def _row(work: Workload) -> list[float]:
    costs = [getattr(getattr(work, stage), name) for stage in _STAGES for name in _COSTS]
    return [*costs, *(getattr(work, name) for name in _BYTES)]


def _workload(plan: Plan, row: list[float]) -> Workload:
    size = len(_COSTS)
    stages = {stage: dict(zip(_COSTS, row[i * size:(i + 1) * size], strict=True)) for i, stage in enumerate(_STAGES)}
    sizes = dict(zip(_BYTES, row[len(_STAGES) * size:], strict=True))
    return Workload.model_validate({"plan": plan, **stages, **sizes})
