"""Layer-wise episodes as a stable-baselines3 `VecEnv`: hundreds at once, rewards from any function of the plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from autosplit.envs.episodes import LayerwiseCore
from autosplit.envs.features import FloatArray
from autosplit.envs.layers import Choice
from autosplit.envs.tree import BoolArray
from autosplit.latency.base import Array

__all__ = ["VectorLayerwise"]

_Indices = int | Iterable[int] | None


class VectorLayerwise(VecEnv):
    """`num_envs` copies of `CoInferenceLayerwiseEnv` under one set of conditions, over rewards known or estimated.

    Step for step equal to the copies. The last step's info holds `choice`, the plan as numbers, instead of an outcome.
    Copies at split points with fewer groups finish earlier, and begin their next episode at once.

    Args:
        core: Plans and conditions; may be replaced between episodes by one of the same sizes.
        reward: Reward of finished plans, shape (n,); may be replaced at any time.
        num_envs: Number of episodes at once.
    """

    def __init__(self, core: LayerwiseCore, reward: Callable[[Sequence[Choice]], Array], num_envs: int) -> None:
        self.core, self.reward = core, reward
        self._episodes = core.begin(num_envs)
        self._actions = np.zeros(num_envs)
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (core.observation_size,), np.float32),
                         spaces.Box(-1.0, 1.0, (1,), np.float32))

    def reset(self) -> FloatArray:
        """Begin an episode in every copy."""
        self._reset_seeds()
        self._reset_options()
        self._episodes = self.core.begin(self.num_envs)
        return self.core.observe(self._episodes)

    def step_async(self, actions: FloatArray) -> None:
        """Take one action a copy, shape (num_envs, 1), in [-1, 1]."""
        self._actions = (np.asarray(actions, dtype=np.float64).reshape(self.num_envs) + 1.0) / 2.0

    def step_wait(self) -> tuple[FloatArray, FloatArray, BoolArray, list[dict[str, Any]]]:
        """Observations, rewards, dones and infos; finished copies have begun their next episode."""
        self.core.advance(self._episodes, self._actions)
        dones = self.core.done(self._episodes)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observations = self.core.observe(self._episodes)
        finished = np.flatnonzero(dones)
        if len(finished):
            choices = self.core.choices(self._episodes, finished)
            rewards[finished] = self.reward(choices)
            for i, choice in zip(finished.tolist(), choices, strict=True):
                infos[i] = {"choice": choice, "terminal_observation": observations[i].copy(),
                            "TimeLimit.truncated": False}
            self._episodes.reset(finished)
            observations[finished] = self._first_observation()
        return observations, rewards, dones, infos

    def _first_observation(self) -> FloatArray:
        return self.core.observe(self.core.begin(1))

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[Any]:
        """An attribute of every copy: the copies share this object's."""
        value = None if attr_name == "render_mode" else getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: _Indices = None) -> None:
        """Not supported: the copies share their state.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"copies of {type(self).__name__} have no attribute of their own to set")

    def env_method(self, method_name: str, *_method_args: Any, indices: _Indices = None,  # noqa: ARG002
                   **_method_kwargs: Any) -> list[Any]:
        """Not supported: the copies share their state.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"copies of {type(self).__name__} have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: _Indices = None) -> list[bool]:  # noqa: ARG002
        """No copy is wrapped."""
        return [False for _ in self._get_indices(indices)]
