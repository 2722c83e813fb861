"""Settings of rules that are chosen for a stream, by playing episodes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from autosplit.agents.control.play import play_beside
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.tree import IntArray
from autosplit.runtime.standalone.control.controller import Controller
from autosplit.runtime.standalone.control.rules import DriftPlusPenalty, FairShare, Fixed, Myopic, QueueAware

__all__ = ["RULES", "best_for_all", "tuned", "tuned_each"]

RULES = {"fixed": Fixed, "myopic, tuned": Myopic, "queue-aware, tuned": QueueAware,
         "drift plus penalty, tuned": DriftPlusPenalty, "fair share, tuned": FairShare}
"""Families of rules, each with the settings that `tuned` chooses among (`all`)."""


def best_for_all(
    candidates: Sequence[Controller], core: StreamCore | FleetCore, episodes: int, seed: int
) -> Controller:
    """The candidate with the highest mean reward over all streams or fleets; arguments as of `tuned`."""
    everywhere = np.repeat(np.arange(len(core.streams)), episodes)
    rewards = [played.reward.mean() for played in play_beside(core, candidates, everywhere, seed)]
    return candidates[int(np.argmax(rewards))]


def tuned(candidates: Iterable[Controller], core: StreamCore | FleetCore, stream: int, episodes: int, seed: int
          ) -> Controller:
    """The candidate with the highest reward in one stream or fleet.

    Args:
        candidates: At least one.
        core: Streams or fleets to tune on.
        stream: Number of the one.
        episodes: Played with each.
        seed: Of these episodes, the same for all.
    """
    (found, _), = tuned_each(candidates, core, np.array([stream]), episodes, seed)
    return found


def tuned_each(
    candidates: Iterable[Controller], core: StreamCore | FleetCore, streams: IntArray, episodes: int, seed: int
) -> list[tuple[Controller, float]]:
    """For each of some streams or fleets the candidate with the highest reward, and that reward; see `tuned`."""
    tried, which = list(candidates), np.repeat(streams, episodes)
    rewards = np.stack([played.reward.reshape(-1, episodes).mean(axis=1)
                        for played in play_beside(core, tried, which, seed)])
    return [(tried[index], float(rewards[index, column])) for column, index in enumerate(rewards.argmax(axis=0))]
