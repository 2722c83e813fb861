"""How well a controller does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autosplit.core.arrays import Array
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.tree import IntArray
from autosplit.runtime.standalone.control.controller import Controller

__all__ = ["Played", "play", "play_beside"]


@dataclass(frozen=True)
class Played:
    """How episodes went, each of shape (n,).

    Attributes:
        stream: Number of the stream.
        accuracy: Right answers in time, expected, as a share of all pictures.
        energy_mj: Of a picture, in the mean.
        reward: Of a picture, in the mean: accuracy less energy by its weight.
        decisions: How many were taken.
    """

    stream: IntArray
    accuracy: Array
    energy_mj: Array
    reward: Array
    decisions: IntArray


def play(
    core: StreamCore | FleetCore, controller: Controller | Sequence[Controller], streams: IntArray, seed: int
) -> Played:
    """Run one episode in each of some streams or fleets, to the end.

    Args:
        core: The streams, or the fleets; in these all devices have the controller, and figures are of the whole fleet.
        controller: Decides everywhere; or one for each episode.
        streams: Numbers of streams, shape (n,).
        seed: Of arrivals, rates and all else that is drawn; equal seeds give all controllers the same arrivals and
            rates, but other draws of payloads and delays, as they take other decisions.
    """
    rng = np.random.default_rng(seed)
    each = list(controller) if isinstance(controller, Sequence) else [controller] * len(streams)
    return _play(core, each, streams, core.begin(streams, rng), rng)


def play_beside(
    core: StreamCore | FleetCore, controllers: Sequence[Controller], streams: IntArray, seed: int
) -> list[Played]:
    """The same for several controllers, each in all episodes, at once: which is quicker than one after the other.

    All meet the same arrivals and rates, but other draws of payloads and delays.
    """
    rng, count = np.random.default_rng(seed), len(streams)
    copies = np.tile(np.arange(count), len(controllers))
    each = [controller for controller in controllers for _ in range(count)]
    found = _play(core, each, streams[copies], core.begin(streams, rng).rows(copies), rng)
    return [Played(**{name: values[at : at + count] for name, values in vars(found).items()})
            for at in range(0, len(copies), count)]


def _play(
    core: StreamCore | FleetCore, each: Sequence[Controller], streams: IntArray, state: Any, rng: np.random.Generator
) -> Played:
    count, pictures = len(streams), core.pictures[streams]
    answered, rewards, energy = np.zeros(count), np.zeros(count), np.zeros(count)
    decisions, left = np.zeros(count, dtype=np.int64), np.arange(count)
    several = {id(one): one for one in each}
    whose = np.array([id(one) for one in each])
    while len(left):
        view, actions = core.view(state), np.zeros(len(left), dtype=np.int64)
        for one in np.unique(whose[left]):
            rows = whose[left] == one
            actions[rows] = several[one].decide(view if rows.all() else view.rows(rows))
        step = core.step(state, actions, rng)
        answered[left] += step.answered
        rewards[left] += step.reward
        energy[left] += step.energy_mj
        decisions[left] += 1
        left, state = left[~step.over], state.rows(~step.over)
    # the reward counts every picture as lost that is not answered; a share of all pictures reads better
    return Played(streams, answered / pictures, energy / pictures, 1.0 + rewards / pictures, decisions)
