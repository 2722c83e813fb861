"""`autosplit/Stream-v0`: what to do with each picture of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from autosplit.envs.features import FloatArray
from autosplit.envs.generators import pick_one
from autosplit.envs.stream.core import State, Step, StreamCore
from autosplit.envs.stream.example import example_streams
from autosplit.envs.stream.stream import Stream
from autosplit.runtime.standalone.control.view import BOUND

__all__ = ["StreamEnv"]

class StreamEnv(gymnasium.Env[FloatArray, np.int64]):
    """Pictures arrive; for each the device chooses a level, or skips it.

    **Action space.** `Discrete(K + 1)`: one of K levels, cheap and rough to dear and exact, or K to skip the picture.

    **Observation space.** `Box(-5, 5)`, float32: `STREAM_FEATURES`, then `LEVEL_FEATURES` of each level
    (`autosplit.envs.stream.view`).

    **Reward.** Minus the pictures that were not answered rightly within their deadline since the last decision
    (expected accuracy, no draw), minus energy by its weight. So all episodes of a stream count the same pictures,
    however many decisions they take.

    **Episode.** Terminated when the last picture is settled or the battery is empty, which loses what is left; never
    truncated. `info` of a step has `answered`, `in_time`, `lost` and `energy_mj` (`autosplit.envs.stream.core.Step`);
    that of a reset has `stream`, its number.

    Args:
        streams: Each episode draws one; three examples when left out.
        draws: Draws of arrivals and rates that are made of each stream; every episode takes one, from a random phase
            of its rates.
        draws_seed: Of these draws.
        render_mode: `ansi`, or nothing.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium declares it so

    def __init__(
        self, streams: Sequence[Stream] | None = None, *, draws: int = 16, draws_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.core = StreamCore(example_streams() if streams is None else streams, draws, draws_seed)
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(self.core.actions)
        self.observation_space = spaces.Box(-BOUND, BOUND, (self.core.observation_size,), np.float32)
        self._state: State | None = None
        self._last: Step | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin with the first picture of a stream.

        Args:
            seed: Of all draws from now on.
            options: `{"stream": i}` for the i-th stream instead of a draw.

        Raises:
            IndexError: There is no such stream.
        """
        super().reset(seed=seed)
        drawn = pick_one(self.np_random, len(self.core.streams), options, "stream")
        self._state, self._last = self.core.begin(np.array([drawn]), self.np_random), None
        return self.core.view(self._state).observation()[0], {"stream": drawn}

    def step(self, action: np.int64 | int) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Decide about the picture in hand.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none began.
            ValueError: There is no such action.
        """
        if self._state is None or (self._last is not None and self._last.over[0]):
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() before step()")
        if not 0 <= int(action) < self.core.actions:
            raise ValueError(f"action {action} is not one of 0 to {self.core.actions - 1}")
        self._last = step = self.core.step(self._state, np.array([int(action)]), self.np_random)
        info = {"answered": float(step.answered[0]), "in_time": bool(step.in_time[0]), "lost": int(step.lost[0]),
                "energy_mj": float(step.energy_mj[0])}
        observation = self.core.view(self._state).observation()[0]
        return observation, float(step.reward[0]), bool(step.over[0]), False, info

    def render(self) -> str | None:
        """What the device knows (`render_mode="ansi"`)."""
        if self.render_mode != "ansi" or self._state is None:
            return None
        view = self.core.view(self._state)
        return (f"{self._state.now_ms[0]:.0f} ms: picture {self._state.head[0]}, {view.age_ms[0]:.0f} ms old, "
                f"{view.waiting[0]} behind it, link at {view.rate[0]:.0%} of its mean, "
                f"{self._state.spent_mj[0]:.0f} mJ")
