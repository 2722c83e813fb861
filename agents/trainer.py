"""PPO training of a policy in the vectorised environment, apart from every other source of randomness."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from torch.distributions import Distribution

from autosplit.agents.network import network_of, policy_arguments
from autosplit.core.arrays import Array
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.tree import STEPS, IntArray
from autosplit.envs.vector import VectorCoInference
from autosplit.training.scalars import log_scalar

__all__ = ["EpisodicPPO", "PPOHyperparameters", "PolicyTrainer", "isolated", "keep_quiet", "training_rewards"]


@dataclass(frozen=True)
class EpisodicPPO:
    """PPO on episodes of known length with the reward at the end: no discount, no bootstrapping.

    Attributes:
        episodes: Episodes of one update; all run at once.
        minibatches: Parts that an update's steps are divided into.
        epochs: Passes over them.
        hidden: Hidden layers of actor and critic.
        learning_rate: Of Adam.
        entropy: Weight of the entropy bonus.
    """

    episodes: int = 512
    minibatches: int = 2
    epochs: int = 4
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    entropy: float = 0.03

    def arguments(self, steps: int) -> dict[str, Any]:
        """Arguments of stable-baselines3's PPO for episodes of so many steps, except those of its policy."""
        # on the CPU: networks and batches are so small that a GPU would spend its time on transfers
        return {"n_steps": steps, "batch_size": max(2, self.episodes * steps // self.minibatches),
                "n_epochs": self.epochs, "gamma": 1.0, "gae_lambda": 1.0, "ent_coef": self.entropy,
                "learning_rate": self.learning_rate, "device": "cpu"}


@dataclass(frozen=True)
class PPOHyperparameters(EpisodicPPO):
    """PPO for three-step episodes under many conditions, with masks.

    Attributes:
        target_share: Share of the episodes under the pool's first conditions.
        masks: Whether the policy knows which actions lead to a plan that may be chosen. If not, it draws among all, and
            the environment takes one that does not as the nearest that does.
    """

    target_share: float = 0.5
    masks: bool = True


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and put them back afterwards.

    stable-baselines3 draws from them; what else runs in this process must neither disturb a training nor be
    disturbed by it. One thread: the networks are so small that a second one costs more than it gives. And no checks
    of distributions: they take a twelfth of a training, and drawing an action fails on a NaN anyway.
    """
    # devices=[] below: a policy is trained on the CPU, and asking for the state of GPUs would initialise them
    numpy_state, python_state, threads = np.random.get_state(), random.getstate(), torch.get_num_threads()
    validate = Distribution._validate_args
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            Distribution.set_default_validate_args(validate)
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def keep_quiet(algorithm: BaseAlgorithm) -> None:
    """Keep an algorithm from logging on its own, which makes a folder below the system's temporary one.

    What it logs goes to TensorBoard where a search keeps such logs.
    """
    algorithm.set_logger(Logger(None, [_Curves()]))


class _Curves(KVWriter):
    """Losses of an algorithm, one step an update: its own count begins anew with each round of a search."""

    def __init__(self) -> None:
        self._updates = 0

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        for key, value in key_values.items():
            if key.startswith(("train/", "rollout/")):
                log_scalar(f"policy/{key.partition('/')[2]}", value, self._updates)
        self._updates += 1

    def close(self) -> None:
        """Nothing is open here."""


def training_rewards(core: CoInferenceCore, rewards: Array, sharpness: float = 0.05) -> Array:
    """exp(-regret / sharpness), where regret is measured against the best plan of the same conditions.

    So small differences near the optimum count, and easy conditions weigh no more than hard ones.

    Args:
        core: P plans under C conditions.
        rewards: Of every plan under every conditions, shape (P, C).
        sharpness: Reward lost against the best plan at which a training reward falls to 1/e.

    Returns:
        Shape (P, C), in [0, 1].
    """
    # plans that are not allowed may have a higher reward than the best allowed one: at most 1 for them too
    shaped: Array = np.exp(np.minimum(rewards - core.best(rewards), 0.0) / sharpness)
    return shaped


class PolicyTrainer:
    """Trains one policy in steps, between which the rewards may change.

    Args:
        core: Plans and the pool of conditions; the first conditions are the target.
        settings: Hyperparameters.
        seed: Seed of the initial weights.
    """

    def __init__(self, core: CoInferenceCore, settings: PPOHyperparameters, seed: int) -> None:
        self.settings = settings
        self._env = VectorCoInference(core, np.zeros(core.allowed.shape), settings.episodes,
                                      first_share=settings.target_share)
        self._adapter = StableBaselinesVecEnv(self._env)
        with isolated(seed):
            self._ppo = MaskablePPO("MlpPolicy", self._adapter, **settings.arguments(STEPS),
                                    policy_kwargs=policy_arguments(settings.hidden, core))
        keep_quiet(self._ppo)

    @property
    def network(self) -> MaskableActorCriticPolicy:
        """The policy as it is now."""
        return self._ppo.policy

    def train(
        self, core: CoInferenceCore, rewards: Array, updates: int, seed: int, target_share: float | None = None
    ) -> None:
        """Train the policy further.

        Args:
            core: Plans and conditions; of the same sizes as the first core.
            rewards: Reward of every plan under every conditions, shape (P, C).
            updates: PPO updates, `settings.episodes` episodes each.
            seed: Seed of this training.
            target_share: Share of episodes under the first conditions; that of the settings when left out.
        """
        self._env.use(core, rewards)
        self._env.first_share = self.settings.target_share if target_share is None else target_share
        self._adapter.seed(seed)  # the environment's own generators, which `isolated` does not reach
        with isolated(seed):
            self._ppo.learn(updates * self.settings.episodes * STEPS, use_masking=self.settings.masks)

    def visits(self, core: CoInferenceCore, seed: int) -> IntArray:
        """Plans that the episodes will end in if one update is trained with this seed, shape (episodes,).

        An episode's reward comes with its end, so no decision of an update depends on a reward of the same update: the
        same draws now and then give the same plans. So exactly these plans can be measured before the training.

        Args:
            core: Plans and conditions.
            seed: Seed of the training to come.
        """
        self._env.use(core, np.zeros(core.allowed.shape))  # rewards change no decision of this update
        self._env.first_share = self.settings.target_share
        self._adapter.seed(seed)
        self.network.set_training_mode(False)
        infos: list[dict[str, Any]] = []
        with isolated(seed), torch.no_grad():
            observations: Any = self._adapter.reset()
            for _ in range(STEPS):
                masks = self._env.action_masks() if self.settings.masks else None
                actions, _, _ = self.network(torch.as_tensor(observations), action_masks=masks)
                observations, _, _, infos = self._adapter.step(actions.numpy())
        return np.array([info["plan"] for info in infos], dtype=np.int64)

    def trained_copy(
        self, core: CoInferenceCore, rewards: Array, updates: int, seed: int, target_share: float | None = None
    ) -> MaskableActorCriticPolicy:
        """Like `train`, but returns a trained copy of the network and leaves this policy unchanged."""
        # weights and the optimiser's moments: without the latter the next round would train differently
        before = copy.deepcopy((self.network.state_dict(), self.network.optimizer.state_dict()))
        self.train(core, rewards, updates, seed, target_share)
        result = network_of(self.network.state_dict(), core.observation_size, core.tree.actions, self.settings.hidden)
        self.network.load_state_dict(before[0])
        self.network.optimizer.load_state_dict(before[1])
        return result
