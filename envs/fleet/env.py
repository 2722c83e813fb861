"""A fleet as an environment of PettingZoo: an agent for each device (extra `fleet`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from autosplit.core.errors import ConfigError
from autosplit.envs.features import FloatArray
from autosplit.envs.fleet.core import FleetCore, FleetState
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.generators import pick_one
from autosplit.envs.stream.example import example_streams
from autosplit.runtime.standalone.control.view import BOUND

try:
    from pettingzoo import ParallelEnv
except ImportError as e:
    raise ConfigError("fleets as an environment need the package pettingzoo: pip install 'autosplit[fleet]'") from e

__all__ = ["FleetEnv"]

_Agents = dict[str, Any]


class FleetEnv(ParallelEnv[str, FloatArray, np.int64]):  # type: ignore[misc]
    """`autosplit/Fleet-v0`: devices decide about their pictures, and wait for one another.

    **Agents** `device_0` to `device_N-1`, all there until the last picture of the fleet is settled. Time goes on from
    one decision to the next; `infos[agent]["turn"]` says whose it is, and `infos[agent]["action_mask"]` (int8) what it
    can do. Whoever is busy has one action, the last one, which then does nothing.

    **Observation.** What the device knows when its turn comes (`autosplit.envs.stream.view.View` and `FLEET_FEATURES`);
    of one that is busy what it knew last.

    **Reward.** The same for all: minus the pictures of the whole fleet that were not answered rightly in time since the
    last decision.

    Args:
        fleets: Each episode draws one; three devices on an example's link when left out.
        draws: Draws of arrivals and rates that are made of each device.
        draws_seed: Of these draws.
        render_mode: `ansi`, or nothing.
    """

    metadata: dict[str, Any] = {"name": "autosplit/Fleet-v0", "render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(
        self, fleets: Sequence[Fleet] | None = None, *, draws: int = 16, draws_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.core = FleetCore(_examples() if fleets is None else fleets, draws, draws_seed)
        self.render_mode = render_mode
        self.possible_agents = [f"device_{i}" for i in range(self.core.devices)]
        self.agents: list[str] = []
        self._space = spaces.Box(-BOUND, BOUND, (self.core.observation_size,), np.float32)
        self._actions = spaces.Discrete(self.core.actions)
        self._rng = np.random.default_rng()
        self._state: FleetState | None = None

    def observation_space(self, agent: str) -> spaces.Space[Any]:  # noqa: ARG002
        """The same for all."""
        return self._space

    def action_space(self, agent: str) -> spaces.Space[Any]:  # noqa: ARG002
        """The same for all."""
        return self._actions

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[_Agents, _Agents]:
        """Begin an episode.

        Args:
            seed: Of all draws from now on.
            options: `{"fleet": i}` for the i-th fleet instead of a draw.

        Raises:
            IndexError: There is no such fleet.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        drawn = pick_one(self._rng, len(self.core.streams), options, "fleet")
        self._state = self.core.begin(np.array([drawn]), self._rng)
        self.agents = list(self.possible_agents)
        return self._observed(self._state), {agent: told | {"fleet": drawn} for agent, told in self._told().items()}

    def step(self, actions: _Agents) -> tuple[_Agents, _Agents, _Agents, _Agents, _Agents]:
        """Let the device whose turn it is do what it decided; what others give is of no account.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none began.
            ValueError: There is no such action.
        """
        if self._state is None or not self.agents:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() before step()")
        state, names = self._state, self.agents
        action = int(actions[names[state.turn[0]]])
        if not 0 <= action < self.core.actions:
            raise ValueError(f"action {action} is not one of 0 to {self.core.actions - 1}")
        step = self.core.step(state, np.array([action]), self._rng)
        over = bool(step.over[0])
        found = (self._observed(state), dict.fromkeys(names, float(step.reward[0])), dict.fromkeys(names, over),
                 dict.fromkeys(names, False), self._told())
        if over:
            self.agents = []
        return found

    def render(self) -> str | None:
        """Who decides, and how long cell and edge are taken (`render_mode="ansi"`)."""
        if self.render_mode != "ansi" or self._state is None:
            return None
        state, turn = self._state, int(self._state.turn[0])
        now = state.devices.now_ms[0, turn]
        cell_ms, edge_ms = (max(free_ms.min() - now, 0.0) for free_ms in (state.cell_free_ms, state.edge_free_ms))
        return (f"{now:.0f} ms: device {turn} decides about picture {state.devices.head[0, turn]}, cell taken for "
                f"{cell_ms:.0f} ms, edge for {edge_ms:.0f} ms")

    def _observed(self, state: FleetState) -> _Agents:
        count = self.core.devices
        view = self.core.view_of(state, np.zeros(count, dtype=np.int64), np.arange(count))
        return dict(zip(self.possible_agents, view.observation(), strict=True))

    def _told(self) -> _Agents:
        assert self._state is not None
        told = {}
        for number, agent in enumerate(self.possible_agents):
            turn = number == self._state.turn[0]
            mask = np.full(self.core.actions, turn, dtype=np.int8)
            mask[-1] = 1
            told[agent] = {"turn": turn, "action_mask": mask}
        return told


def _examples() -> tuple[Fleet, ...]:
    """For each example stream three such devices on one link."""
    return tuple(Fleet(stream.name, (stream,) * 3) for stream in example_streams())
