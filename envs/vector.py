"""The environment as a stable-baselines3 `VecEnv`: hundreds of episodes a step, rewards from an array."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env import VecEnv

from autosplit.envs.coinference import draw_conditions
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import FloatArray
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.latency.base import Array

__all__ = ["VectorCoInference"]

_Indices = int | Iterable[int] | None


class VectorCoInference(VecEnv):
    """`num_envs` copies of `CoInferenceEnv` over accuracies that are known or estimated beforehand.

    Step for step equal to `CoInferenceEnv` copies over the same pool of conditions, copy i seeded with seed + i. All
    copies are at the same step, since every episode takes three. The last step's info holds `plan`, the index of the
    plan, instead of an outcome.

    Args:
        core: Plans and conditions.
        rewards: Reward of every plan under every conditions, shape (P, C): `core.rewards(objective, accuracy)`, the
            accuracies measured, or estimated by a surrogate.
        num_envs: Number of episodes at once.
        first_share: Share of episodes under the pool's first conditions (those of the scenario); the rest draws
            uniformly from the whole pool.
    """

    def __init__(self, core: CoInferenceCore, rewards: Array, num_envs: int, *, first_share: float = 0.0) -> None:
        self.core = core
        self.rewards = rewards
        self.first_share = first_share
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._nodes: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._conditions: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._actions: IntArray = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (core.observation_size,), np.float32),
                         spaces.Discrete(core.tree.actions))

    @property
    def rewards(self) -> Array:
        """Reward of every plan under every conditions, shape (P, C); may be replaced between episodes."""
        return self._rewards

    @rewards.setter
    def rewards(self, rewards: Array) -> None:
        if rewards.shape != self.core.allowed.shape:
            raise ValueError(f"rewards have shape {rewards.shape}, plans x conditions are {self.core.allowed.shape}")
        self._rewards = rewards

    def reset(self) -> FloatArray:
        """Begin an episode in every copy."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self._rngs[i], _ = seeding.np_random(seed)
        self._reset_seeds()
        self._reset_options()
        self._begin()
        return self.core.observe(self._nodes, self._conditions)

    def step_async(self, actions: IntArray) -> None:
        """Take one action a copy, shape (num_envs,)."""
        self._actions = np.asarray(actions, dtype=np.int64).reshape(self.num_envs)

    def step_wait(self) -> tuple[FloatArray, FloatArray, BoolArray, list[dict[str, Any]]]:
        """Observations, rewards, dones and infos; finished copies have begun their next episode."""
        self._nodes = self.core.advance(self._nodes, self._conditions, self._actions)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones: BoolArray = self._nodes >= self.core.tree.inner
        if not dones[0]:
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            return self.core.observe(self._nodes, self._conditions), rewards, dones, infos
        plans = self._nodes - self.core.tree.inner
        rewards[:] = self._rewards[plans, self._conditions]
        last = self.core.observe(self._nodes, self._conditions)
        infos = [{"plan": p, "terminal_observation": o, "TimeLimit.truncated": False}
                 for p, o in zip(plans.tolist(), last, strict=True)]
        self._begin()
        return self.core.observe(self._nodes, self._conditions), rewards, dones, infos

    def action_masks(self) -> BoolArray:
        """Actions that each copy may take, shape (num_envs, A)."""
        return self.core.action_masks(self._nodes, self._conditions)

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[Any]:
        """An attribute of every copy: the copies share this object's."""
        known = {"render_mode": None}
        value = known[attr_name] if attr_name in known else getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: _Indices = None) -> None:
        """Not supported: the copies share their state.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"copies of {type(self).__name__} have no attribute of their own to set")

    def env_method(self, method_name: str, *method_args: Any, indices: _Indices = None, **method_kwargs: Any
                   ) -> list[Any]:
        """Call a method of every copy; `action_masks` is the one there is.

        Raises:
            AttributeError: There is no such method.
        """
        if method_name != "action_masks" or method_args or method_kwargs:
            raise AttributeError(f"copies of {type(self).__name__} have no method {method_name!r}")
        return list(self.action_masks()[list(self._get_indices(indices))])

    def env_is_wrapped(self, wrapper_class: type[Any], indices: _Indices = None) -> list[bool]:  # noqa: ARG002
        """No copy is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _begin(self) -> None:
        size = len(self.core.conditions)
        self._nodes = np.zeros(self.num_envs, dtype=np.int64)
        self._conditions = np.array([draw_conditions(rng, size, self.first_share) for rng in self._rngs],
                                    dtype=np.int64)
