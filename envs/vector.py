"""The environment for many episodes at once, as a Gymnasium `VectorEnv`: a step is a few lookups in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from autosplit.core.arrays import Array
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import FloatArray
from autosplit.envs.generators import Selection, UniformGenerators, pick_conditions
from autosplit.envs.tree import BoolArray, IntArray

__all__ = ["VectorCoInference"]

_ALL = slice(None)


class VectorCoInference(VectorEnv[FloatArray, IntArray, Any]):
    """n copies of `CoInferenceEnv` over rewards that are known or estimated beforehand.

    Step for step equal to n single environments over the same pool of conditions, copy i seeded with seed + i: the
    i-th copy draws what the i-th single environment draws from its `np_random`.

    **Autoreset.** In the same step: a copy whose episode ends returns the first observation of its next episode.
    Hence no step is wasted, of three.

    **Infos** are arrays over the copies, each with a mask of the copies that it concerns (`_plan` for `plan`):
    `action_mask`, int8, shape (n, A); `conditions`, the `Conditions` of the episodes that begin; of those that end
    `final_obs`, shape (n, observation size), and `final_info["plan"]`, the number of the plan in `PlanSpace.plans()`.

    Args:
        core: Plans and C conditions.
        rewards: Reward of every plan under every conditions, shape (P, C): `core.rewards(objective, accuracy)`, the
            accuracies measured, or estimated by a surrogate.
        num_envs: Number n of episodes at once.
        first_share: Share of episodes under the pool's first conditions (those of the scenario); the rest draws
            uniformly from the whole pool.

    Raises:
        ValueError: The rewards do not fit plans and conditions, or there is no copy.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, core: CoInferenceCore, rewards: Array, num_envs: int, *, first_share: float = 0.0) -> None:
        if num_envs < 1:
            raise ValueError(f"a vectorised environment needs at least one copy, got {num_envs}")
        self.num_envs = num_envs
        self._sizes = core.observation_size, core.tree.actions  # fixed by the spaces from now on
        self.first_share = first_share
        self.single_observation_space = spaces.Box(0.0, 1.0, (core.observation_size,), np.float32)
        self.single_action_space = spaces.Discrete(core.tree.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.use(core, rewards)
        self._generators = UniformGenerators(num_envs)
        self._nodes: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._conditions: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._episodes: IntArray = np.zeros(num_envs, dtype=np.int64)  # that a copy began since its last seed

    @property
    def core(self) -> CoInferenceCore:
        """Plans and conditions."""
        return self._core

    def use(self, core: CoInferenceCore, rewards: Array) -> None:
        """Go on with other conditions or rewards, from the next `reset` on, which has to follow.

        Args:
            core: Plans and conditions; the same number of actions and size of observations as before.
            rewards: Reward of every plan under every conditions, shape (P, C).

        Raises:
            ValueError: Sizes do not fit.
        """
        if rewards.shape != core.allowed.shape:
            raise ValueError(f"rewards have shape {rewards.shape}, plans x conditions are {core.allowed.shape}")
        sizes = core.observation_size, core.tree.actions
        if sizes != self._sizes:
            raise ValueError(f"observation size and actions are {sizes}, not {self._sizes} as before")
        self._set(core, rewards)
        self._running = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode in every copy, or in some.

        Args:
            seed: Seed of the first copy, the others counting up; or one seed a copy (`None` = go on as it is).
            options: `reset_mask`, shape (n,), for the copies that begin anew while the others keep their episodes;
                `conditions`, an index into the pool for all copies, or one a copy, instead of a draw.

        Returns:
            Observations of all copies, infos of those that begin.

        Raises:
            ValueError: Seeds or options have another shape.
            IndexError: The pool has no such conditions.
            ResetNeeded: Some copies never began an episode.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        options = options or {}
        which: Selection = _ALL
        begun: BoolArray = np.ones(self.num_envs, dtype=np.bool_)
        if (mask := options.get("reset_mask")) is not None:
            begun = np.array(mask)
            if begun.shape != (self.num_envs,) or begun.dtype != np.bool_ or not begun.any():
                raise ValueError(f"reset_mask must hold {self.num_envs} booleans, one of them true")
            if not self._running:
                raise ResetNeeded("call reset() without reset_mask before the first reset() with one")
            which = np.flatnonzero(begun)
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(f"{len(seeds)} seeds do not fit {self.num_envs} copies")
            numbers = np.arange(self.num_envs)[which]
            self._episodes[self._generators.seed(which, [seeds[i] for i in numbers])] = 0
        self._begin(which, options.get("conditions"))
        self._running = True
        return self._core.observe(self._nodes, self._conditions), self._infos(which, begun, begun)

    def step(self, actions: IntArray) -> tuple[FloatArray, Array, BoolArray, BoolArray, dict[str, Any]]:
        """Take the next decision of every copy.

        Args:
            actions: Shape (n,). An action outside the mask counts as the nearest one inside it.

        Returns:
            Observations (n, observation size), rewards (n,), whether an episode ended (n,), whether it was cut short
            (n,; never), and infos.

        Raises:
            ResetNeeded: `reset` was not called yet.
        """
        if not self._running:
            raise ResetNeeded("call reset() before the first step()")
        actions = np.asarray(actions, dtype=np.int64).reshape(self.num_envs)
        self._nodes = self._core.advance(self._nodes, self._conditions, actions)
        inner = self._core.tree.inner
        over: BoolArray = self._nodes >= inner
        rewards, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        if not over.any():
            observations = self._core.observe(self._nodes, self._conditions)
            return observations, rewards, over, truncated, self._infos(_ALL, over, everyone)
        # usually all copies end in the same step, and a slice is quicker than numbers
        which: Selection = _ALL if over.all() else np.flatnonzero(over)
        plans = self._nodes[which] - inner
        rewards[which] = self._rewards_of(plans, self._conditions[which])
        # the last observations and plans, before the copies begin their next episodes
        last = np.zeros((self.num_envs, self._core.observation_size), dtype=np.float32)
        last[which] = self._core.observe(self._nodes[which], self._conditions[which])
        numbers = np.zeros(self.num_envs, dtype=np.int64)
        numbers[which] = plans
        final = {"final_obs": last, "_final_obs": over.copy(), "_final_info": over.copy(),
                 "final_info": {"plan": numbers, "_plan": over.copy()}}
        self._begin(which)
        observations = self._core.observe(self._nodes, self._conditions)
        return observations, rewards, over, truncated, {**final, **self._infos(which, over.copy(), everyone)}

    def action_masks(self) -> BoolArray:
        """Actions that each copy may take, shape (n, A)."""
        return self._core.action_masks(self._nodes, self._conditions)

    def _set(self, core: CoInferenceCore, rewards: Array) -> None:
        self._core, self._rewards = core, rewards
        # filled afterwards: numpy would try to read conditions as sequences
        self._objects = np.empty(len(core.conditions), dtype=object)
        self._objects[:] = core.conditions

    def _rewards_of(self, plans: IntArray, conditions: IntArray) -> Array:
        """Rewards of k finished episodes; plans and conditions by number, shape (k,)."""
        rewards: Array = self._rewards[plans, conditions]
        return rewards

    def _pools(self, which: Selection) -> tuple[int | IntArray, int]:  # noqa: ARG002 - for those who override it
        """Where the pools of copies that begin an episode start among the conditions, and how large a pool is."""
        return 0, len(self._core.conditions)

    def _begin(self, which: Selection, chosen: Any = None) -> None:
        drawn = self._generators.draw(which)  # also where conditions are chosen, as in the single environment
        start, size = self._pools(which)
        self._episodes[which] += 1
        if chosen is None:
            index = pick_conditions(drawn, size, self.first_share)
        else:
            index = np.arange(size)[np.broadcast_to(chosen, self.num_envs)[which]]
        self._conditions[which] = start + index
        self._nodes[which] = 0

    def _infos(self, which: Selection, begun: BoolArray, masked: BoolArray) -> dict[str, Any]:
        """Action masks of some copies, and conditions of those that began an episode."""
        mask = self.action_masks().view(np.int8)  # what `Discrete.sample(mask)` takes
        if not masked.all():
            mask[~masked] = 0
        infos: dict[str, Any] = {"action_mask": mask, "_action_mask": masked}
        if begun.any():
            infos["conditions"] = np.full(self.num_envs, None, dtype=object)
            infos["conditions"][which] = self._objects[self._conditions[which]]
            infos["_conditions"] = begun.copy()
        return infos
