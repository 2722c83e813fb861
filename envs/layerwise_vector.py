"""Layer-wise episodes, hundreds at once, as a Gymnasium `VectorEnv`; rewards come from any function of the plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from autosplit.core.arrays import Array
from autosplit.envs.episodes import LayerwiseCore
from autosplit.envs.features import FloatArray
from autosplit.envs.layers import Choice
from autosplit.envs.tree import BoolArray

__all__ = ["VectorLayerwise"]

_Reward = Callable[[Sequence[Choice]], Array]


class VectorLayerwise(VectorEnv[FloatArray, FloatArray, Any]):
    """n copies of `CoInferenceLayerwiseEnv` under one set of conditions, over rewards known or estimated.

    Step for step equal to n single environments; nothing is random. A copy whose episode ends, sooner at split points
    with fewer groups, returns the first observation of its next episode (autoreset in the same step). Infos hold,
    each with a mask, of the episodes that end `final_obs`, shape (n, F), and `final_info["choice"]`, plans as `Choice`.

    Args:
        core: Plans and conditions.
        reward: Reward of finished plans, shape (number of plans,).
        num_envs: Number n of episodes at once.

    Raises:
        ValueError: There is no copy.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, core: LayerwiseCore, reward: _Reward, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"a vectorised environment needs at least one copy, got {num_envs}")
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 1.0, (core.observation_size,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.use(core, reward)

    def use(self, core: LayerwiseCore, reward: _Reward) -> None:
        """Go on with other conditions, payloads or rewards, from the next `reset` on, which has to follow.

        Args:
            core: Plans and conditions; observations as long as before.
            reward: Reward of finished plans, shape (number of plans,).

        Raises:
            ValueError: Observations are of another size.
        """
        if (core.observation_size,) != self.single_observation_space.shape:
            raise ValueError(f"observations have size {core.observation_size}, not "
                             f"{self.single_observation_space.shape} as before")
        self._core, self._reward = core, reward
        self._episodes = core.begin(self.num_envs)
        self._running = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode in every copy; seeds and options change nothing."""
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        self._episodes = self._core.begin(self.num_envs)
        self._running = True
        return self._core.observe(self._episodes), {}

    def step(self, actions: FloatArray) -> tuple[FloatArray, Array, BoolArray, BoolArray, dict[str, Any]]:
        """Take the next decision of every copy.

        Args:
            actions: Shape (n, 1), in [-1, 1]; see `CoInferenceLayerwiseEnv`.

        Returns:
            Observations (n, F), rewards (n,), whether an episode ended (n,), whether it was cut short (n,; never), and
            infos.

        Raises:
            ResetNeeded: `reset` was not called yet.
        """
        if not self._running:
            raise ResetNeeded("call reset() before the first step()")
        self._core.advance(self._episodes, (np.asarray(actions, dtype=np.float64).reshape(self.num_envs) + 1.0) / 2.0)
        over = self._core.done(self._episodes)
        observations = self._core.observe(self._episodes)
        rewards, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        if not over.any():
            return observations, rewards, over, truncated, {}
        # split points differ in their number of groups, so only some copies end in a step
        which = np.flatnonzero(over)
        choices = np.full(self.num_envs, None, dtype=object)
        for i, choice in zip(which.tolist(), self._core.choices(self._episodes, which), strict=True):
            choices[i] = choice
        rewards[which] = self._reward(choices[which].tolist())
        infos = {"final_obs": observations.copy(), "_final_obs": over.copy(), "_final_info": over.copy(),
                 "final_info": {"choice": choices, "_choice": over.copy()}}
        self._episodes.reset(which)
        observations[which] = self._core.observe(self._core.begin(1))
        return observations, rewards, over, truncated, infos
