"""`autosplit/CoInference-v0`: choose a split point, then a sparsity, then a codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from autosplit.core.measurement import Outcome
from autosplit.envs.features import FloatArray
from autosplit.envs.generators import pick_one
from autosplit.envs.task import CoInferenceTask, TaskOptions, outcome_line
from autosplit.envs.tree import STEPS, BoolArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CoInferenceEnv"]


class CoInferenceEnv(gymnasium.Env[FloatArray, np.int64]):
    """One plan an episode, in three decisions.

    **Action space.** `Discrete(A)`, A = the most choices any decision has. Step 1: the split point, in the order of
    execution. Step 2: one of the sparsities that the split point allows, ascending. Step 3: one of its codecs.
    Latency is known before accuracy, so `action_masks()` (and `info["action_mask"]`) leave only actions that lead to
    a plan within the budget; where no plan is, all that exist. An action outside the mask counts as the nearest one
    inside it.

    **Observation space.** `Box(0, 1)`, float32: one-hot of the step, features of the choices so far
    (`autosplit.envs.features.PLAN_FEATURES` and the one-hot of the split point; 0 while open), and the conditions on
    logarithmic scales (`CONDITION_BOUNDS`).

    **Reward.** 0 until the last step, then the objective's value of the plan, which is measured there and then.

    **Episode.** Ends after three steps, never truncated. `info["outcome"]` of the last step is the `Outcome`, and
    `info["plan"]` the number of its plan in `PlanSpace.plans()`; `info["conditions"]` of the reset are the conditions.

    **Conditions.** The scenario's, or with a `sampler` one of a pool of `pool_size` drawn with `pool_seed`; each
    reset picks one by one number from the environment's own generator, `np_random`. With `pool_episodes` the pool is
    drawn anew whenever so many episodes have begun, counted from the last seed. `reset(options={"conditions": i})`
    takes the i-th of the pool.

    Args:
        render_mode: `ansi`, or nothing.
        options: See `autosplit.envs.task.TaskOptions`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, *, render_mode: str | None = None, **options: Unpack[TaskOptions]) -> None:
        self.task = CoInferenceTask.of(**options)
        self.core = self.task.core()
        self.render_mode = render_mode
        self._episodes = 0  # begun since the last seed
        self.action_space = spaces.Discrete(self.core.tree.actions)
        self.observation_space = spaces.Box(0.0, 1.0, (self.core.observation_size,), np.float32)
        self._node = self._conditions = np.zeros(1, dtype=np.int64)
        self._outcome: Outcome | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode: no choice made, conditions drawn.

        Args:
            seed: Seed of the generator that draws conditions.
            options: `{"conditions": i}` for the i-th of the pool instead of a draw.
        """
        super().reset(seed=seed)
        # pools are counted from the last seed, so that a seed alone fixes all that follows
        self._episodes = 0 if seed is not None else self._episodes
        if self.task.pool_episodes is not None:
            self.core = self.task.core(self._episodes // self.task.pool_episodes)
        self._episodes += 1
        drawn = pick_one(self.np_random, len(self.core.conditions), options)
        self._node, self._conditions, self._outcome = np.array([0]), np.array([drawn]), None
        return self._observation(), {"conditions": self.core.conditions[drawn],
                                     "action_mask": self.action_masks().astype(np.int8)}

    def step(self, action: np.int64 | int) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Take the next decision; the third one measures the plan.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over.
        """
        if self._done:
            raise gymnasium.error.ResetNeeded("the plan is complete: call reset() before the next step()")
        self._node = self.core.advance(self._node, self._conditions, np.array([int(action)]))
        if not self._done:
            mask = self.action_masks().astype(np.int8)  # what `Discrete.sample(mask)` takes
            return self._observation(), 0.0, False, False, {"action_mask": mask}
        number = int(self._node[0]) - self.core.tree.inner
        self._outcome = self.task.measured(self.core.plans[number], self.core.conditions[int(self._conditions[0])])
        info = {"outcome": self._outcome, "plan": number}
        return self._observation(), self._outcome.reward, True, False, info

    def action_masks(self) -> BoolArray:
        """Actions that may be taken now, shape (A,); after the last step all, since none counts any more."""
        if self._done:
            return np.ones(self.core.tree.actions, dtype=np.bool_)
        mask: BoolArray = self.core.action_masks(self._node, self._conditions)[0]
        return mask

    def render(self) -> str | None:
        """The choices so far and, after the last, the outcome (`render_mode="ansi"`)."""
        if self.render_mode != "ansi":
            return None
        node, tree = int(self._node[0]), self.core.tree
        plan = self.core.plans[tree.first_plan[node]]
        if self._outcome is None:
            settled = (plan.place, f"sparsity {plan.sparsity}")[:tree.step[node]]
            return " | ".join((*settled, *("?" for _ in range(STEPS - len(settled)))))
        return outcome_line(self._outcome)

    @property
    def _done(self) -> bool:
        return bool(self._node[0] >= self.core.tree.inner)

    def _observation(self) -> FloatArray:
        observation: FloatArray = self.core.observe(self._node, self._conditions)[0]
        return observation
