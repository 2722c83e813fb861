"""`autosplit/CoInferenceLayerwise-v0`: choose a split point, a sparsity for each prunable group, then a codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Outcome
from autosplit.core.scenario import load_scenario
from autosplit.envs.episodes import LayerwiseCore
from autosplit.envs.features import FloatArray
from autosplit.envs.generators import pick_one
from autosplit.envs.layers import LayerwiseSpace
from autosplit.envs.task import CoInferenceTask, TaskOptions, outcome_line
from autosplit.evaluation.base import layerwise

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CoInferenceLayerwiseEnv"]


class CoInferenceLayerwiseEnv(gymnasium.Env[FloatArray, FloatArray]):
    """One plan an episode, in as many decisions as its head has prunable groups, and two.

    **Action space.** `Box(-1, 1, (1,))`, the range that continuous algorithms expect; (a + 1) / 2 in [0, 1] is what
    counts. First the split point: bins in the order of execution. Then for each prunable group of its head, in the
    order of execution, a sparsity from 0 to the highest one of the search space. Then the codec: bins by predicted
    payload. An action is bounded so that the plan can still meet the budget with the highest sparsity for all groups
    to come and the codec of the least latency; `info["action"]` is the action as it was taken. Where no plan meets the
    budget, the bound is 1.25 times the latency of the least late one.

    **Observation space.** `Box(0, 1)`, float32, in the manner of AMC (He et al. 2018, arXiv 1802.03494): one-hot of the
    step (split, sparsity, codec); place and one-hot of the split point; `autosplit.envs.episodes.LAYER_FEATURES` of
    the group at hand; the shares of the head's multiply-accumulates that are removed and that can still be, the least
    latency that can still be reached over the budget, the last action as it was taken; the conditions
    (`autosplit.envs.features.CONDITION_BOUNDS`).

    **Reward.** 0 until the last step, then the objective's value of the plan, which is measured there and then.

    **Episode.** Ends after the codec, never truncated. `info["outcome"]` of the last step is the `Outcome`;
    `info["conditions"]` of the reset are the conditions.

    **Conditions.** The scenario's, or with a `sampler` one of a pool of `pool_size` drawn once with `pool_seed`; each
    reset picks one by the environment's own generator. `reset(options={"conditions": i})` takes the i-th.

    Args:
        round_to: Groups keep a multiple of so many channels, or all. AMC takes 8.
        render_mode: `ansi`, or nothing.
        options: See `autosplit.envs.task.TaskOptions`, of which `pool_episodes` is not supported here.

    Raises:
        ConfigError: The evaluator measures no plans that are pruned layer by layer, `round_to` is below 1, or there are
            `pool_episodes`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, *, round_to: int = 1, render_mode: str | None = None, **options: Unpack[TaskOptions]) -> None:
        if options.get("pool_episodes") is not None:
            raise ConfigError("a layer-wise environment draws one pool of conditions: leave pool_episodes out")
        named = options.get("scenario", "default")
        scenario = load_scenario(named) if isinstance(named, str) else named
        # a supernet built from the scenario must have been trained with a sparsity for each layer
        options["scenario"] = scenario.replace(**{"search.granularity": "layer"})
        self.task = CoInferenceTask.of(**options)
        self.render_mode = render_mode
        self.space = LayerwiseSpace.of(layerwise(self.task.evaluator), round_to=round_to)
        self._pool = self.task.pool()
        self.core = LayerwiseCore(self.space, self.task.latency_model, self._pool[0])
        self._cores = {0: self.core}  # of the conditions that were met, by their number in the pool
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Box(0.0, 1.0, (self.core.observation_size,), np.float32)
        self._episode = self.core.begin(1)
        self._outcome: Outcome | None = None

    @property
    def conditions(self) -> tuple[Conditions, ...]:
        """The pool of conditions."""
        return tuple(self._pool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode: no choice made, conditions drawn.

        Args:
            seed: Seed of the generator that draws conditions.
            options: `{"conditions": i}` for the i-th of the pool instead of a draw.
        """
        super().reset(seed=seed)
        drawn = pick_one(self.np_random, len(self._pool), options)
        if drawn not in self._cores:
            self._cores[drawn] = LayerwiseCore(self.space, self.task.latency_model, self._pool[drawn])
        self.core = self._cores[drawn]
        self._episode, self._outcome = self.core.begin(1), None
        return self._observation(), {"conditions": self._pool[drawn]}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Take the next decision; the last one measures the plan.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over.
        """
        if self._done:
            raise gymnasium.error.ResetNeeded("the plan is complete: call reset() before the next step()")
        wanted = (np.asarray(action, dtype=np.float64).reshape(1) + 1.0) / 2.0
        taken = (2.0 * self.core.advance(self._episode, wanted) - 1.0).astype(np.float32)
        info: dict[str, Any] = {"action": taken}
        if not self._done:
            return self._observation(), 0.0, False, False, info
        plan = self.space.plan(self.core.choices(self._episode)[0])
        self._outcome = self.task.measured(plan, self.core.conditions)
        return self._observation(), self._outcome.reward, True, False, info | {"outcome": self._outcome}

    def render(self) -> str | None:
        """The choices so far and, after the last, the outcome (`render_mode="ansi"`)."""
        if self.render_mode != "ansi":
            return None
        if self._outcome is not None:
            return outcome_line(self._outcome)
        number, decided = int(self._episode.split[0]), int(self._episode.decided[0])
        if number < 0:
            return "? | ? | ?"
        split = self.space.splits[number]
        kept = [f"{k}/{n}" for k, n in zip(self._episode.keep[0, :decided], split.channels, strict=False)]
        return " | ".join((split.name, " ".join([*kept, *("?" for _ in range(split.groups - decided))]), "?"))

    @property
    def _done(self) -> bool:
        return bool(self.core.done(self._episode)[0])

    def _observation(self) -> FloatArray:
        observation: FloatArray = self.core.observe(self._episode)[0]
        return observation
