"""A controller trained by PPO in many streams at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from autosplit.agents.control.network import ScoringPolicy, scores
from autosplit.agents.trainer import isolated, keep_quiet
from autosplit.envs.features import FloatArray
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.stream.vector import VectorStream
from autosplit.envs.stream.view import View
from autosplit.envs.tree import IntArray

__all__ = ["ControlPPO", "LearnedController", "train_controller"]


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

    devices: int = 256
    decisions: int = 64
    minibatch: int = 2048
    epochs: int = 4
    steps: int = 1_000_000
    hidden: int = 64
    learning_rate: float = 1e-3
    entropy: float = 0.005
    discount: float = 0.97


@dataclass(frozen=True)
class LearnedController:
    """Takes the level of the highest score.

    Attributes:
        weights: Of the network, float32.
    """

    weights: dict[str, FloatArray]

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        found: IntArray = scores(self.weights, view.observation()).argmax(axis=1)
        return found


class _Tells(BaseCallback):
    def __init__(self, advance: Callable[[int], None], each: int) -> None:
        super().__init__()
        self._advance, self._each = advance, each

    def _on_step(self) -> bool:
        self._advance(self._each)
        return True


def train_controller(
    env: VectorStream, settings: ControlPPO, seed: int, advance: Callable[[int], None] = lambda steps: None  # noqa: ARG005
) -> LearnedController:
    """Train a controller for all streams of an environment.

    Args:
        env: As many copies as `settings.devices`.
        settings: Hyperparameters.
        seed: Of initial weights, actions and episodes.
        advance: Called with the number of decisions taken.
    """
    adapter = StableBaselinesVecEnv(env)
    adapter.seed(seed)
    with isolated(seed):
        ppo = PPO(ScoringPolicy, adapter, n_steps=settings.decisions, batch_size=settings.minibatch,
                  n_epochs=settings.epochs, gamma=settings.discount, ent_coef=settings.entropy,
                  learning_rate=lambda left: settings.learning_rate * left, device="cpu",
                  policy_kwargs={"hidden": settings.hidden})
        keep_quiet(ppo)
        ppo.learn(settings.steps, callback=_Tells(advance, env.num_envs))
    found = ppo.policy.mlp_extractor.state_dict()
    return LearnedController({name: np.asarray(tensor) for name, tensor in found.items()
                              if not name.startswith("value.")})
