"""Many streams at once, as a Gymnasium `VectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from autosplit.core.arrays import Array
from autosplit.envs.features import FloatArray
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.generators import pick_conditions
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.example import example_streams
from autosplit.envs.stream.stream import Stream
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.runtime.standalone.control.view import BOUND

__all__ = ["VectorStream"]


class VectorStream(VectorEnv[FloatArray, IntArray, Any]):
    """n copies of `StreamEnv`, in one step of numpy.

    One generator draws for all copies, in their order; with one copy it is `StreamEnv`, draw for draw.

    **Autoreset.** In the same step: a copy whose episode ends returns the first observation of its next one, and
    `infos` hold `final_obs` and `final_info` (`answered`, `pictures`, `energy_mj` of the whole episode, and `stream`).

    Args:
        streams: Each episode draws one; three examples when left out.
        num_envs: Number n of copies.
        draws: As of `StreamEnv`.
        draws_seed: As of `StreamEnv`.
        core: Streams that are drawn already, or fleets (`autosplit.envs.fleet.core.FleetCore`), instead: a copy is then
            a fleet, and a step the decision of one of its devices.
        priced: Whether energy counts in the reward at its price (`StreamCore.price`), not at its weight alone: for
            training, so that what a battery holds is felt at once and not at the end of an episode.

    Attributes:
        core: The streams.
        scales: What rewards are multiplied by, a number a stream; ones at first.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, streams: Sequence[Stream] | None = None, num_envs: int = 1, *, draws: int = 16, draws_seed: int = 0,
        core: StreamCore | FleetCore | None = None, priced: bool = False,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"a vectorised environment needs at least one copy, got {num_envs}")
        self.core: Any = core or StreamCore(example_streams() if streams is None else streams, draws, draws_seed)
        self.num_envs, self._priced = num_envs, priced
        self.scales: Array = np.ones(len(self.core.streams))
        self.single_observation_space = spaces.Box(-BOUND, BOUND, (self.core.observation_size,), np.float32)
        self.single_action_space = spaces.Discrete(self.core.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: Any = None
        self._answered: Array = np.zeros(num_envs)
        self._energy_mj: Array = np.zeros(num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode in every copy.

        Args:
            seed: Of the generator; of several the first one counts, since the copies share it.
            options: `{"stream": i}` for the i-th stream in all copies, or one number a copy.

        Raises:
            IndexError: There is no such stream.
        """
        if not (seed is None or isinstance(seed, int)):
            seed = seed[0]
        super().reset(seed=seed)
        count = len(self.core.streams)
        which = pick_conditions(self.np_random.random(self.num_envs), count)  # drawn in any case, as by `StreamEnv`
        if options and "stream" in options:
            which = np.broadcast_to(np.asarray(options["stream"]), self.num_envs).astype(np.int64)
        if not ((which >= 0) & (which < count)).all():
            raise IndexError(f"a stream of {which.tolist()} is not one of {count}")
        self._state = self.core.begin(which, self.np_random)
        self._answered, self._energy_mj = np.zeros(self.num_envs), np.zeros(self.num_envs)
        told = {"stream": which, "_stream": np.ones(self.num_envs, dtype=np.bool_)}
        return self.core.view(self._state).observation(), told

    def step(self, actions: IntArray) -> tuple[FloatArray, Array, BoolArray, BoolArray, dict[str, Any]]:
        """Decide about every copy's picture.

        Raises:
            ResetNeeded: No episode began.
            ValueError: Actions have another shape, or there is none such.
        """
        if self._state is None:
            raise ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < self.core.actions)).all():
            raise ValueError(f"{self.num_envs} actions between 0 and {self.core.actions - 1} are wanted, got {actions}")
        state = self._state
        step = self.core.step(state, actions, self.np_random)
        reward = self.scales[state.stream] * (step.priced if self._priced else step.reward)
        self._answered += step.answered
        self._energy_mj += step.energy_mj
        infos: dict[str, Any] = {}
        observation = self.core.view(state).observation()
        if step.over.any():
            done = np.flatnonzero(step.over)
            infos = {"final_obs": observation.copy(), "_final_obs": step.over,
                     "final_info": {"answered": self._answered.copy(), "pictures": self.core.pictures[state.stream],
                                    "energy_mj": self._energy_mj.copy(), "stream": state.stream.copy()},
                     "_final_info": step.over}
            which = pick_conditions(self.np_random.random(len(done)), len(self.core.streams))
            begun = self.core.begin(which, self.np_random)
            state.enter(done, begun)
            self._answered[done] = self._energy_mj[done] = 0.0
            observation[done] = self.core.view(begun).observation()
        return observation, reward, step.over, np.zeros(self.num_envs, dtype=np.bool_), infos
