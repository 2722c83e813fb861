"""A controller trained by PPO in many streams at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from autosplit.agents.control.policy import ScoringPolicy
from autosplit.agents.trainer import isolated, keep_quiet
from autosplit.core.arrays import Array
from autosplit.envs.fleet.core import core_of
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.stream.stream import Stream
from autosplit.envs.stream.vector import VectorStream
from autosplit.runtime.standalone.control.network import NetworkController
from autosplit.runtime.standalone.control.rules import Myopic

__all__ = ["ControlPPO", "train_controller"]

_LEAST_DRAWS = 16
_SCALED_BY = 24  # devices a stream, and decisions of each
_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class ControlPPO:
    """Hyperparameters.

    Attributes:
        devices: Devices that are simulated at once.
        decisions: Of each between two updates.
        minibatch: Decisions of a gradient step.
        epochs: Passes over the decisions of an update.
        steps: Decisions of the whole training.
        hidden: Width of the network's hidden layers.
        learning_rate: Of Adam at the beginning; it falls to 0 in a straight line.
        entropy: Weight of the entropy bonus.
        discount: Of a reward one decision later.
    """

    devices: int = 64
    decisions: int = 32
    minibatch: int = 512
    epochs: int = 4
    steps: int = 1_500_000
    hidden: int = 64
    learning_rate: float = 1.5e-3
    entropy: float = 0.005
    discount: float = 0.97


class _Tells(BaseCallback):
    def __init__(self, advance: Callable[[int], None], each: int) -> None:
        super().__init__()
        self._advance, self._each = advance, each

    def _on_step(self) -> bool:
        self._advance(self._each)
        return True


def train_controller(
    streams: Sequence[Stream] | Sequence[Fleet], settings: ControlPPO, seed: int, *,
    start: NetworkController | None = None,
    advance: Callable[[int], None] = lambda steps: None,  # noqa: ARG005
) -> NetworkController:
    """Train a controller in some streams at once, or one that all devices of some fleets share.

    In a fleet what a device gains or loses is every device's: the reward of a decision is that of the whole fleet until
    the next one, whoever takes it (parameter sharing, Gupta et al. 2017, "Cooperative multi-agent control using deep
    reinforcement learning", with one reward for all).

    Rewards are divided by how much they vary in each stream under the rule that the network begins with: else streams
    whose queues are long would drown the others.

    Args:
        streams: Streams or fleets.
        settings: Hyperparameters.
        seed: Of draws, initial weights, actions and episodes.
        start: A controller to go on from; the myopic rule when left out.
        advance: Called with the number of decisions taken.
    """
    draws = max(_LEAST_DRAWS, settings.devices // len(streams))
    env = VectorStream(num_envs=settings.devices, core=core_of(streams, draws, seed), priced=True)
    env.scales = _scales(env.core, seed)
    adapter = StableBaselinesVecEnv(env)
    adapter.seed(seed)
    with isolated(seed):
        ppo = PPO(ScoringPolicy, adapter, n_steps=settings.decisions, batch_size=settings.minibatch,
                  n_epochs=settings.epochs, gamma=settings.discount, ent_coef=settings.entropy,
                  learning_rate=lambda left: settings.learning_rate * left, device="cpu",
                  policy_kwargs={"hidden": settings.hidden})
        if start is not None:
            ppo.policy.mlp_extractor.load_state_dict(
                {name: torch.as_tensor(array) for name, array in start.weights.items()}, strict=False)
        keep_quiet(ppo)
        ppo.learn(settings.steps, callback=_Tells(advance, env.num_envs))
    found = ppo.policy.mlp_extractor.state_dict()
    return NetworkController({name: found[name].numpy().copy() for name in NetworkController.NAMES})


def _scales(core: Any, seed: int) -> Array:
    """One over the standard deviation of the rewards of decisions of the myopic rule, a number a stream."""
    rng, rule = np.random.default_rng(seed), Myopic()
    which = np.repeat(np.arange(len(core.streams)), _SCALED_BY)
    state, rewards = core.begin(which, rng), []
    for _ in range(_SCALED_BY):
        step = core.step(state, rule.decide(core.view(state)), rng)
        rewards.append(step.reward)
        if step.over.any():
            over = np.flatnonzero(step.over)
            state.enter(over, core.begin(which[over], rng))
    each = np.stack(rewards, axis=1).reshape(len(core.streams), -1)
    scales: Array = 1.0 / np.maximum(each.std(axis=1), _LEAST_SPREAD)
    return scales
