"""Gymnasium's vectorised environments for stable-baselines3, which has an interface of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from autosplit.envs.features import FloatArray
from autosplit.envs.tree import BoolArray, IntArray

__all__ = ["StableBaselinesVecEnv"]

_Indices = int | Iterable[int] | None
_OFFERED = ("action_masks",)
"""Methods of a vectorised environment that return one row a copy."""


class StableBaselinesVecEnv(VecEnv):
    """A Gymnasium `VectorEnv` with autoreset in the same step, as a stable-baselines3 `VecEnv`.

    Equal to a `DummyVecEnv` of the single environments: rewards are float32, the info of an episode's last step holds
    `terminal_observation` and what the environment puts into `final_info`; the infos of other steps are empty. sb3's
    `MaskablePPO` finds `action_masks` here. Copies have no attributes of their own.

    Args:
        env: The environment. It is not copied, and belongs to the adapter from now on.

    Raises:
        ValueError: The environment resets its copies in another way.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
            raise ValueError(f"{type(env).__name__} does not reset its copies in the same step, as stable-baselines3 "
                             "expects")
        self.env = env
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> FloatArray:
        """Begin an episode in every copy, with the seeds and options given to `seed` and `set_options`.

        Raises:
            ValueError: The options differ between copies.
        """
        options = self._options[0]
        if any(o != options for o in self._options):
            raise ValueError("copies of a vectorised environment take the same options")
        seeds = self._seeds if any(s is not None for s in self._seeds) else None
        observations: FloatArray
        observations, infos = self.env.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self.reset_infos = [{} for _ in range(self.num_envs)]
        _enter(infos, np.arange(self.num_envs), self.reset_infos)
        # sb3 expects seeds and options to hold for one reset
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: IntArray) -> None:
        """Take one action a copy, shape (num_envs,)."""
        self._actions = actions  # nothing runs elsewhere: the step is taken in `step_wait`

    def step_wait(self) -> tuple[FloatArray, FloatArray, BoolArray, list[dict[str, Any]]]:
        """Observations, rewards, dones and infos; finished copies have begun their next episode."""
        observations, rewards, terminated, truncated, found = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        dones: BoolArray = terminated | truncated
        if "final_obs" in found:
            over = np.flatnonzero(dones)
            final = found["final_info"] | {"terminal_observation": found["final_obs"], "TimeLimit.truncated": truncated}
            _enter(final, over, [infos[i] for i in over.tolist()])
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[Any]:
        """An attribute of every copy: the copies share the environment's.

        Raises:
            AttributeError: There is no such attribute.
        """
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: _Indices = None) -> None:
        """Not supported: the copies share their state.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"copies of {type(self.env).__name__} have no attribute of their own to set")

    def env_method(self, method_name: str, *method_args: Any, indices: _Indices = None, **method_kwargs: Any
                   ) -> list[Any]:
        """Call a method of every copy; there is only `action_masks`.

        Raises:
            AttributeError: There is no such method.
        """
        if method_name not in _OFFERED or method_args or method_kwargs:
            raise AttributeError(f"copies of {type(self.env).__name__} have no method {method_name!r}")
        rows = getattr(self.env, method_name)()
        return list(rows if indices is None else rows[list(self._get_indices(indices))])

    def env_is_wrapped(self, wrapper_class: type[Any], indices: _Indices = None) -> list[bool]:  # noqa: ARG002
        """No copy is wrapped."""
        return [False for _ in self._get_indices(indices)]


def _enter(arrays: dict[str, Any], which: IntArray, infos: list[dict[str, Any]]) -> None:
    """Copy the entries of some copies out of arrays into their infos, column by column, since that is the quickest."""
    for name, array in arrays.items():
        if not name.startswith("_"):
            column = array[which]
            for info, value in zip(infos, column.tolist() if column.ndim == 1 else column, strict=True):
                info[name] = value
