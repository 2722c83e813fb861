"""Episodes of layer-wise decisions in numpy, any number at once: the split, each group's sparsity, the codec.

The one implementation of observation and bounding, for the environment and for the agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.envs.core import latency_limit_ms
from autosplit.envs.features import FloatArray, condition_features
from autosplit.envs.layers import LAYER_FEATURES, AffineLatency, Choice, LayerwiseSpace, PredictedLatency
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.latency.base import LatencyModel

__all__ = ["Episodes", "LayerwiseCore"]

_PROGRESS = ("removed", "removable", "latency", "last")
_SPLIT, _LAYER, _CODEC, _DONE = range(4)


@dataclass
class Episodes:
    """N episodes.

    Attributes:
        split: Number of the split point, -1 while open, shape (N,).
        decided: Groups whose sparsity is settled, shape (N,).
        keep: Channels kept, shape (N, G); of use in the first `decided` columns.
        codec: Number of the codec, -1 while open, shape (N,).
        last: The last action as it was taken, in [0, 1], shape (N,).
    """

    split: IntArray
    decided: IntArray
    keep: IntArray
    codec: IntArray
    last: Array

    @classmethod
    def begin(cls, count: int, groups: int) -> Episodes:
        """`count` episodes without a decision, with room for `groups` groups."""
        return cls(np.full(count, -1), np.zeros(count, dtype=np.int64), np.zeros((count, groups), dtype=np.int64),
                   np.full(count, -1), np.zeros(count))

    def reset(self, rows: IntArray) -> None:
        """Begin some of them anew."""
        self.split[rows] = self.codec[rows] = -1
        self.decided[rows] = 0
        self.last[rows] = 0.0

    def __len__(self) -> int:
        return len(self.split)


class LayerwiseCore:
    """A `LayerwiseSpace` under one set of conditions.

    Actions lie in [0, 1]. The first takes a split point by its place in [0, 1], those for groups a sparsity from 0 to
    the highest one, the last a codec by its place. Each is bounded as in AMC (He et al. 2018, arXiv 1802.03494): so
    that the plan can still be completed within the limit with the highest sparsity for all groups to come and the
    codec of the least latency. What lies beyond counts as the nearest action that is known to be within.

    Args:
        space: The plans.
        latency_model: Tells what is within the limit, by predicted payloads.
        conditions: Where the plans would run.
        quick: Whether to put the latency model in closed form, where it has one (`AffineLatency`).

    Attributes:
        limit_ms: The budget; where no plan is within it, 1.25 times the latency of the least late plan.
        latency: Latency of any plan, from the latency model itself.
    """

    def __init__(
        self, space: LayerwiseSpace, latency_model: LatencyModel, conditions: Conditions, *, quick: bool = False
    ) -> None:
        self.space, self.conditions = space, conditions
        self.latency = PredictedLatency(space, latency_model, conditions)
        self._latency = (AffineLatency.of(self.latency) if quick else None) or self.latency
        # of each split point the codec of the least latency with all groups at the highest sparsity, and that latency:
        # what a plan can still be completed with
        codecs, least = [], []
        for number, split in enumerate(space.splits):
            every = np.arange(len(split.codecs))
            p95_ms = self._latency.p95_ms(number, np.broadcast_to(split.least, (len(every), split.groups)), every)
            codecs.append(int(p95_ms.argmin()))
            least.append(float(p95_ms.min()))
        self._cheapest, least_ms = np.array(codecs, dtype=np.int64), np.array(least)
        self.limit_ms = latency_limit_ms(least_ms, conditions.budget_ms)
        self.open_splits: BoolArray = least_ms <= self.limit_ms
        self._layers = space.layer_features()
        self._whole = [float(s.head.macs(s.channels[None, :])[0]) for s in space.splits]
        self._conditions = condition_features([conditions])[0]
        self._groups: IntArray = np.array([s.groups for s in space.splits], dtype=np.int64)

    @property
    def longest(self) -> int:
        """Decisions of the longest episode."""
        return 2 + int(self._groups[self.open_splits].max())

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return 3 + 1 + len(self.space.splits) + len(LAYER_FEATURES) + len(_PROGRESS) + len(self._conditions)

    def begin(self, count: int) -> Episodes:
        """Episodes without a decision."""
        return Episodes.begin(count, self.space.groups)

    def step_of(self, episodes: Episodes) -> IntArray:
        """What each episode decides next: 0 the split, 1 a sparsity, 2 the codec, 3 nothing; shape (N,)."""
        layers = episodes.decided < self._groups[episodes.split]
        running = np.where(layers, _LAYER, np.where(episodes.codec < 0, _CODEC, _DONE))
        return np.where(episodes.split < 0, _SPLIT, running)

    def done(self, episodes: Episodes) -> BoolArray:
        """Which episodes have taken all their decisions, shape (N,)."""
        result: BoolArray = self.step_of(episodes) == _DONE
        return result

    def choices(self, episodes: Episodes, rows: Sequence[int] | IntArray | None = None) -> list[Choice]:
        """The plans of finished episodes."""
        found = []
        for i in range(len(episodes)) if rows is None else rows:
            split = int(episodes.split[i])
            keep = episodes.keep[i, :self._groups[split]]
            found.append(Choice(split, tuple(keep.tolist()), int(episodes.codec[i])))
        return found

    # --- observation ------------------------------------------------------------------------------------------------

    def observe(self, episodes: Episodes) -> FloatArray:
        """Observations of all episodes, shape (N, observation_size), in [0, 1].

        One-hot of the step; place and one-hot of the split point; `LAYER_FEATURES` of the group at hand; the share of
        the head's multiply-accumulates that is removed and that can still be, the p95 that can still be reached over
        the limit, the last action as it was taken; the conditions (`autosplit.envs.features.CONDITION_BOUNDS`).
        """
        names, step = len(self.space.splits), self.step_of(episodes)
        result = np.zeros((len(episodes), self.observation_size), dtype=np.float32)
        running = step < _DONE
        result[running, step[running]] = 1.0
        # columns: step (3), place of the split point (1) and its one-hot, the group at hand, progress, conditions
        at_layer, at_progress = 4 + names, 4 + names + len(LAYER_FEATURES)
        for split in np.unique(episodes.split[episodes.split >= 0]).tolist():
            rows = np.flatnonzero(episodes.split == split)
            result[rows, 3] = split / max(1, names - 1)
            result[rows, 4 + split] = 1.0
            pruning = rows[step[rows] == _LAYER]
            result[pruning, at_layer:at_progress] = self._layers[split][episodes.decided[pruning]]
            head, whole = self.space.splits[split].head, self._whole[split]
            least = self._completed(episodes, rows, split)
            macs = head.macs(self._completed(episodes, rows, split, whole=True))
            reachable = self._latency.p95_ms(split, least, self._cheapest_for(episodes, rows, split)) / self.limit_ms
            # a head without work has nothing to remove
            removed = 1 - macs / whole if whole else np.zeros(len(rows))
            progress = np.stack((removed, (macs - head.macs(least)) / (whole or 1.0), reachable), axis=1)
            result[rows, at_progress:at_progress + 3] = progress.clip(0.0, 1.0)
        result[:, at_progress + 3] = episodes.last
        result[:, at_progress + 4:] = self._conditions
        return result

    def _cheapest_for(self, episodes: Episodes, rows: IntArray, split: int) -> IntArray:
        """The codec that was chosen, or the one of the least latency."""
        chosen = episodes.codec[rows]
        return np.where(chosen < 0, self._cheapest[split], chosen)

    def _completed(self, episodes: Episodes, rows: IntArray, split: int, whole: bool = False) -> IntArray:
        """Channels kept if all open groups keep everything (`whole`) or as little as they may; shape (n, G)."""
        here = self.space.splits[split]
        open_ = np.arange(here.groups)[None, :] >= episodes.decided[rows, None]
        return np.where(open_, here.channels if whole else here.least, episodes.keep[rows, :here.groups])

    # --- decisions --------------------------------------------------------------------------------------------------

    def advance(self, episodes: Episodes, actions: Array) -> Array:
        """Take the next decision of each running episode, in place.

        Args:
            episodes: The episodes.
            actions: Shape (N,), in [0, 1]; those of finished episodes are not looked at.

        Returns:
            The actions as they were taken, after bounding, shape (N,).
        """
        actions = np.clip(np.asarray(actions, dtype=np.float64), 0.0, 1.0)
        step = self.step_of(episodes)
        taken: Array = episodes.last.copy()  # of finished episodes, which do not move
        rows = np.flatnonzero(step == _SPLIT)
        episodes.split[rows], taken[rows] = _binned(actions[rows], np.broadcast_to(
            self.open_splits, (len(rows), len(self.open_splits))))
        # episodes at the same split point and group are decided together, in one call of the latency model
        for split in np.unique(episodes.split).tolist():
            rows = np.flatnonzero((step == _LAYER) & (episodes.split == split))
            for group in np.unique(episodes.decided[rows]).tolist():
                here = rows[episodes.decided[rows] == group]
                taken[here] = self._prune(episodes, here, split, group, actions[here])
            rows = np.flatnonzero((step == _CODEC) & (episodes.split == split))
            episodes.codec[rows], taken[rows] = self._code(episodes, rows, split, actions[rows])
        episodes.last = taken
        return taken

    def _prune(self, episodes: Episodes, rows: IntArray, split: int, group: int, actions: Array) -> Array:
        here = self.space.splits[split]
        wanted = here.kept(actions, group)
        plans = self._completed(episodes, rows, split)
        plans[:, group] = wanted
        wrong = np.flatnonzero(~self.within(split, plans, self._cheapest_for(episodes, rows, split)))
        if len(wrong):
            options = here.options[group]
            grid = np.repeat(plans[wrong], len(options), axis=0)
            grid[:, group] = np.tile(options, len(wrong))
            codec = np.full(len(grid), self._cheapest[split])
            within = self.within(split, grid, codec).reshape(len(wrong), len(options))
            within[:, 0] |= ~within.any(axis=1)  # nothing is: the fewest channels, the nearest to being within
            distance = np.abs(options[None, :] - wanted[wrong, None])
            wanted[wrong] = options[np.where(within, distance, distance.max() + 1).argmin(axis=1)]
        episodes.keep[rows, group] = wanted
        episodes.decided[rows] += 1
        plans[:, group] = wanted
        # channels are whole numbers: what was taken is the action that keeps just these
        taken: Array = here.actions(plans)[:, group]
        return taken

    def _code(self, episodes: Episodes, rows: IntArray, split: int, actions: Array) -> tuple[IntArray, Array]:
        count, keep = len(self.space.splits[split].codecs), self._completed(episodes, rows, split)
        codec = _binned(actions, np.ones((len(rows), count), dtype=np.bool_))[0]
        wrong = np.flatnonzero(~self.within(split, keep, codec))
        if len(wrong):
            every = np.tile(np.arange(count), len(wrong))
            within = self.within(split, np.repeat(keep[wrong], count, axis=0), every).reshape(len(wrong), count)
            within[:, self._cheapest[split]] |= ~within.any(axis=1)
            codec[wrong] = _binned(actions[wrong], within)[0]
        return codec, (codec + 0.5) / count

    def within(self, split: int, keep: IntArray, codec: IntArray) -> BoolArray:
        """Which plans at a split point are within the limit, shape (N,); arguments as for `PredictedLatency.p95_ms`."""
        result: BoolArray = self._latency.p95_ms(split, keep, codec) <= self.limit_ms
        return result

    def play(self, split: Array, layers: Array, codec: Array) -> Episodes:
        """Whole episodes by given actions.

        Args:
            split: Action of the first decision, shape (N,).
            layers: Actions for the groups, shape (N, at least the most groups).
            codec: Action of the last decision, shape (N,).
        """
        episodes = self.begin(len(split))
        while not self.done(episodes).all():
            step, rows = self.step_of(episodes), np.arange(len(split))
            # finished episodes have no group at hand; their column is not looked at
            column = np.minimum(episodes.decided, layers.shape[1] - 1) if layers.shape[1] else None
            pruning = layers[rows, column] if column is not None else np.zeros(len(split))
            self.advance(episodes, np.select([step == _SPLIT, step == _LAYER], [split, pruning], codec))
        return episodes

    def actions_of(self, choices: Sequence[Choice]) -> tuple[Array, Array, Array]:
        """The actions of `play` that ask for given plans."""
        layers = np.zeros((len(choices), max(1, self.space.groups)))
        for row, choice in zip(layers, choices, strict=True):
            split = self.space.splits[choice.split]
            row[:split.groups] = split.actions(np.array(choice.keep, dtype=np.int64))
        place = (np.array([c.split for c in choices]) + 0.5) / len(self.space.splits)
        codec = np.array([(c.codec + 0.5) / len(self.space.splits[c.split].codecs) for c in choices])
        return place, layers, codec


def _binned(actions: Array, allowed: BoolArray) -> tuple[IntArray, Array]:
    """The allowed bin nearest to each action, with the action in its middle.

    Args:
        actions: Shape (n,), in [0, 1].
        allowed: Shape (n, bins); one in each row is.
    """
    count = allowed.shape[1]
    wanted = np.minimum((actions * count).astype(np.int64), count - 1)
    distance = np.abs(np.arange(count)[None, :] - wanted[:, None])
    found: IntArray = np.where(allowed, distance, count).argmin(axis=1)
    return found, (found + 0.5) / count
