"""The network of a policy: its layers, and how plans are read out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from scipy.special import log_softmax
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.distributions import Categorical

from autosplit.core.arrays import Array
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import FloatArray
from autosplit.envs.tree import STEPS, DecisionTree, IntArray

__all__ = ["ScaledFeatures", "by_likelihood", "network_of", "policy_arguments", "rollout"]


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
        # buffers, so that they are saved and loaded with the weights
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
                   # a condition that never varies in training must not blow up where it does later
                   "scale": [1.0] * choices + np.maximum(seen.std(axis=0), 1e-3).tolist()}
    return {"net_arch": list(hidden), "activation_fn": nn.Tanh, "features_extractor_class": ScaledFeatures,
            "features_extractor_kwargs": scaling}


def network_of(
    weights: Mapping[str, Tensor], observation_size: int, actions: int, hidden: Sequence[int]
) -> MaskableActorCriticPolicy:
    """A network for inference, with copies of the given weights."""
    network = MaskableActorCriticPolicy(
        spaces.Box(0.0, 1.0, (observation_size,), np.float32), spaces.Discrete(actions),
        lambda _: 0.0,  # the learning rate: it learns no more
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


def by_likelihood(
    network: MaskableActorCriticPolicy,
    tree: DecisionTree,
    node_observations: FloatArray,
    condition_observation: FloatArray,
) -> IntArray:
    """All plans, ranked by how likely a policy is to choose them under one set of conditions.

    Args:
        network: The policy.
        tree: The decisions.
        node_observations: As in `CoInferenceCore`, shape (N + P, F).
        condition_observation: Shape (K,).

    Returns:
        Numbers of the plans, shape (P,).
    """
    # the whole tree in one pass of the network: the probability of a plan is the product along its path
    inner = np.concatenate([node_observations[:tree.inner],
                            np.broadcast_to(condition_observation, (tree.inner, len(condition_observation)))], axis=1)
    log_probability = log_softmax(np.where(tree.exists, _logits(network, inner), -np.inf), axis=1)
    joint = np.zeros(tree.inner + tree.plans)
    for step in range(STEPS):
        nodes = np.flatnonzero(tree.step[:tree.inner] == step)
        there = tree.exists[nodes]
        joint[tree.child[nodes][there]] = (joint[nodes][:, None] + log_probability[nodes])[there]
    result: IntArray = np.argsort(-joint[tree.inner:], kind="stable")
    return result


def _logits(network: MaskableActorCriticPolicy, observations: FloatArray) -> Array:
    with torch.inference_mode():
        distribution = cast("Categorical", network.get_distribution(torch.as_tensor(observations)).distribution)
        result: Array = distribution.logits.numpy().astype(np.float64)
    return result
