"""Plans with a sparsity of their own for each prunable group: what there is to choose, and latency before measuring.

A *choice* is such a plan as numbers: the split point, the channels kept in each of its head's groups, the codec. Codecs
of a split point are ordered by predicted payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.space import PlanSpace, channels_kept
from autosplit.envs.features import PLAN_FEATURES, plan_features
from autosplit.envs.tree import IntArray
from autosplit.evaluation.base import LayerwiseEvaluator
from autosplit.latency.base import LatencyBreakdown, LatencyModel

if TYPE_CHECKING:
    from autosplit.models.head_costs import HeadCost

__all__ = ["LAYER_FEATURES", "AffineLatency", "Choice", "LayerwiseSpace", "LayerwiseSplit", "PredictedLatency"]

LAYER_FEATURES = ("index", "conv", "depthwise", "linear", "inputs", "channels", "stride", "kernel", "share")
"""What an observation holds of the layer at hand: its place in the head, kind, shape, and share of the head's
multiply-accumulates that its group can save; each between the least and the greatest of all layers."""

_MOST_OPTIONS = 64
_NOTHING = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")))
_CODEC_FEATURES = [i for i, name in enumerate(PLAN_FEATURES) if name not in {"sparsity", "device_macs"}]


class Choice(NamedTuple):
    """A plan of a `LayerwiseSpace` as numbers.

    Attributes:
        split: Number of the split point.
        keep: Channels kept in each group of its head.
        codec: Number of the codec at that split point.
    """

    split: int
    keep: tuple[int, ...]
    codec: int


@dataclass(frozen=True)
class LayerwiseSplit:
    """A split point with G prunable groups and C codecs.

    Attributes:
        name: The split point.
        most: Highest sparsity of a group.
        round_to: Groups keep a multiple of so many channels, or all.
        head: Cost of its head.
        codecs: Its codecs, by predicted payload.
        workloads: Work with nothing pruned, one a codec.
        uniform: Sparsity of each uniform head that the search space has, by what it keeps.
    """

    name: str
    most: float
    round_to: int
    head: HeadCost
    codecs: tuple[CodecSetting, ...]
    workloads: tuple[Workload, ...]
    uniform: Mapping[tuple[int, ...], float]

    @classmethod
    def of(cls, evaluator: LayerwiseEvaluator, name: str, codecs: Sequence[CodecSetting], round_to: int
           ) -> LayerwiseSplit:
        """A split point of an evaluator's space.

        Args:
            evaluator: Knows the head, predicts the payloads.
            name: The split point.
            codecs: Its codecs, in any order.
            round_to: As for the class.
        """
        works = evaluator.workloads([Plan.at(name, 0.0, c) for c in codecs])
        order = sorted(range(len(works)), key=lambda i: (works[i].payload_bytes_mean, i))
        head, levels = evaluator.head(name), evaluator.space.sparsities[name]
        # reversed, so that of two levels that keep the same channels the lower one names the head
        uniform = {tuple(channels_kept(head.channels, level).tolist()): level for level in reversed((0.0, *levels))}
        return cls(name, max(levels) if head.layers else 0.0, round_to, head, tuple(codecs[i] for i in order),
                   tuple(works[i] for i in order), uniform)

    @property
    def groups(self) -> int:
        """Number of prunable groups."""
        return len(self.head.layers)

    @property
    def channels(self) -> IntArray:
        """Channels of each group, shape (G,)."""
        channels: IntArray = self.head.channels
        return channels

    @cached_property
    def options(self) -> tuple[IntArray, ...]:
        """What each group may keep, ascending; a selection of it, evenly spread, where there are very many."""
        result, step = [], self.round_to
        for channels in self.channels.tolist():
            fewest = int(channels_kept(channels, self.most))
            # all channels may be kept even where they are no multiple of the step
            found = np.unique(np.append(np.arange(-(-fewest // step) * step, channels, step), channels))
            if len(found) > _MOST_OPTIONS:
                found = found[np.linspace(0, len(found) - 1, _MOST_OPTIONS).round().astype(np.int64)]
            result.append(found.astype(np.int64))
        return tuple(result)

    @cached_property
    def least(self) -> IntArray:
        """Fewest channels that each group may keep, shape (G,)."""
        return np.array([options[0] for options in self.options], dtype=np.int64)

    def kept(self, actions: Array, group: int | None = None) -> IntArray:
        """Channels that groups keep, by actions in [0, 1]: 0 removes nothing, 1 is the highest sparsity.

        Args:
            actions: Shape (..., G), or any shape for one group.
            group: The one group.
        """
        which = slice(None) if group is None else group
        counts = channels_kept(self.channels[which], actions * self.most, self.round_to)
        result: IntArray = np.maximum(counts, self.least[which])
        return result

    def actions(self, keep: IntArray) -> Array:
        """The actions that keep given numbers of channels, shape (..., G), in [0, 1]."""
        sparsity: Array = 1.0 - keep / self.channels
        return np.clip(sparsity / self.most, 0.0, 1.0) if self.most > 0 else np.zeros_like(sparsity)


@dataclass(frozen=True)
class LayerwiseSpace:
    """All plans with one sparsity a group.

    Attributes:
        splits: The split points, in the order of execution.
    """

    splits: tuple[LayerwiseSplit, ...]

    @classmethod
    def of(
        cls,
        evaluator: LayerwiseEvaluator,
        *,
        splits: Sequence[str] | None = None,
        codecs: Sequence[CodecSetting] | None = None,
        round_to: int = 1,
    ) -> LayerwiseSpace:
        """The space around an evaluator's uniform plans, which are a part of it.

        Args:
            evaluator: Knows the heads, predicts the payloads.
            splits: Split points to choose among; all when left out.
            codecs: Codecs to choose among; all when left out.
            round_to: Groups keep a multiple of so many channels, or all. AMC takes 8.

        Raises:
            ConfigError: Nothing is left to choose, or `round_to` is below 1.
            PruningError: The work of a pruned head cannot be predicted.
        """
        if round_to < 1:
            raise ConfigError(f"groups keep a multiple of at least one channel, not of {round_to}")
        space = evaluator.space
        found = []
        for name in space.splits if splits is None else splits:
            here = [c for c in space.codecs.get(name, ()) if codecs is None or c in codecs]
            if here:
                found.append(LayerwiseSplit.of(evaluator, name, here, round_to))
        if not found:
            raise ConfigError(f"no such split points with such codecs in the search space: {splits}, {codecs}")
        return cls(tuple(found))

    @cached_property
    def groups(self) -> int:
        """The most groups that a head has."""
        return max(s.groups for s in self.splits)

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The groups of all heads, by name."""
        return tuple(dict.fromkeys(layer.root for s in self.splits for layer in s.head.layers))

    def plan(self, choice: Choice) -> Plan:
        """The plan of a choice: a uniform one of the search space where it is one, else with a sparsity a group."""
        split = self.splits[choice.split]
        sparsity: float | tuple[float, ...] | None = split.uniform.get(choice.keep)
        if sparsity is None:
            sparsity = tuple(round(1.0 - k / n, 6) for k, n in zip(choice.keep, split.channels.tolist(), strict=True))
        return Plan.at(split.name, sparsity, split.codecs[choice.codec])

    def locate(self, plan: Plan) -> Choice:
        """The choice that stands for a plan.

        Raises:
            ValueError: The plan is not of this space.
        """
        for number, split in enumerate(self.splits):
            if split.name == plan.place and plan.codec in split.codecs:
                levels = plan.sparsity if isinstance(plan.sparsity, tuple) else (plan.sparsity,) * split.groups
                if len(levels) == split.groups:
                    keep = channels_kept(split.channels, np.array(levels, dtype=np.float64))
                    return Choice(number, tuple(keep.tolist()), split.codecs.index(plan.codec))
        raise ValueError(f"plan {plan.label!r} is not in the search space")

    def uniform(self, split: int, sparsity: float) -> tuple[int, ...]:
        """Channels kept at one sparsity for all groups of a head, within what the groups may keep."""
        here = self.splits[split]
        actions = np.full(here.groups, min(sparsity / here.most, 1.0) if here.most else 0.0)
        return tuple(here.kept(actions).tolist())

    def with_payloads(self, scale: Sequence[float]) -> LayerwiseSpace:
        """The same plans with other predicted payloads.

        Args:
            scale: Factor on the payload of codes, one a split point.
        """
        splits = []
        for split, factor in zip(self.splits, scale, strict=True):
            splits.append(replace(split, workloads=tuple(
                work if work.plan.codec.kind != "code"  # an image is as large as it is, whatever the head keeps
                else work.model_copy(update={"payload_bytes_mean": work.payload_bytes_mean * factor,
                                             "payload_bytes_p95": work.payload_bytes_p95 * factor})
                for work in split.workloads)))
        return LayerwiseSpace(tuple(splits))

    def features(self, choices: Sequence[Choice]) -> Array:
        """Features of plans for an accuracy model.

        Returns:
            Shape (N, F): the share of channels kept in each of `roots`, 1 where the head ends before it, then those
            features of codec and split point that differ between plans, scaled to [0, 1] over the space
            (`autosplit.envs.features.PLAN_FEATURES` without those of the pruning).
        """
        column = {root: i for i, root in enumerate(self.roots)}
        result = np.ones((len(choices), len(column) + self._codec_table[0].shape[1]))
        for row, choice in zip(result, choices, strict=True):
            split = self.splits[choice.split]
            shares = np.array(choice.keep) / split.channels
            row[[column[layer.root] for layer in split.head.layers]] = shares
            row[len(column):] = self._codec_table[choice.split][choice.codec]
        return result

    def layer_features(self) -> list[Array]:
        """`LAYER_FEATURES` of every group of every split point, shape (G, F) each, in [0, 1]."""
        shapes = np.array([[layer.inputs, layer.channels, layer.stride, layer.kernel]
                           for s in self.splits for layer in s.head.layers], dtype=np.float64).reshape(-1, 4)
        low, span = (shapes.min(axis=0), np.ptp(shapes, axis=0)) if len(shapes) else (np.zeros(4), np.ones(4))
        scaled = (shapes - low) / np.where(span > 0, span, 1.0)
        tables, first = [], 0
        for split in self.splits:
            count = split.groups
            kinds = [[float(layer.kind == kind) for kind in LAYER_FEATURES[1:4]] for layer in split.head.layers]
            # row i of `alone` prunes group i as far as it goes and no other: its share is what that group can save
            whole, alone = float(split.head.macs(split.channels[None, :])[0]) or 1.0, split.channels[None]
            if count:
                alone = np.where(np.eye(count, dtype=np.bool_), split.least, split.channels)
            shares = 1 - split.head.macs(alone)[:count] / whole
            tables.append(np.column_stack((np.arange(count) / max(1, count - 1), np.array(kinds).reshape(-1, 3),
                                           scaled[first:first + count], shares)))
            first += count
        return tables

    @cached_property
    def _codec_table(self) -> list[Array]:
        names = tuple(s.name for s in self.splits)
        space = PlanSpace(names, {n: (0.0,) for n in names}, {s.name: s.codecs for s in self.splits})
        table = plan_features(space, [w for s in self.splits for w in s.workloads])[:, _CODEC_FEATURES]
        low, span = table.min(axis=0), np.ptp(table, axis=0)
        table = (table - low)[:, span > 0] / span[span > 0]
        return np.split(table, np.cumsum([len(s.codecs) for s in self.splits])[:-1])


# --- latency before measuring ---------------------------------------------------------------------------------------


class PredictedLatency:
    """Latency of choices under one set of conditions, predicted by any latency model.

    Args:
        space: The plans.
        model: A black box over workloads; called with many at once.
        conditions: Where the plans would run.
    """

    def __init__(self, space: LayerwiseSpace, model: LatencyModel, conditions: Conditions) -> None:
        self.space, self.conditions = space, conditions
        self._model = model

    def workloads(self, split: int, keep: IntArray, codec: IntArray) -> list[Workload]:
        """Work and predicted payload of N plans at one split point.

        Args:
            split: Number of the split point.
            keep: Channels kept, shape (N, G).
            codec: Numbers of codecs, shape (N,).
        """
        here = self.space.splits[split]
        costs: list[StageCost] = here.head.stage_costs(keep)
        return [here.workloads[c].model_copy(update={"device": cost}) for c, cost in zip(codec, costs, strict=True)]

    def p95_ms(self, split: int, keep: IntArray, codec: IntArray) -> Array:
        """95th percentile of the latency, shape (N,), milliseconds; see `workloads`."""
        if not len(keep):
            return np.zeros(0)
        return self._model.latency(self.workloads(split, keep, codec), [self.conditions]).p95_ms[:, 0]

    def breakdown(self, choices: Sequence[Choice]) -> LatencyBreakdown:
        """Latency of any choices, arrays of shape (N, 1)."""
        works: list[Workload] = [_NOTHING] * len(choices)
        for split in {c.split for c in choices}:
            rows = [i for i, c in enumerate(choices) if c.split == split]
            keep = np.array([choices[i].keep for i in rows], dtype=np.int64).reshape(len(rows), -1)
            found = self.workloads(split, keep, np.array([choices[i].codec for i in rows]))
            for i, work in zip(rows, found, strict=True):
                # a model may look at the plan
                works[i] = work.model_copy(update={"plan": self.space.plan(choices[i])})
        return self._model.latency(works, [self.conditions])


class AffineLatency:
    """p95 as a constant for each codec plus a price on each count of the head's work: quick for thousands of plans.

    The built-in latency model is of this kind, since the time of its device is not random.

    Args:
        space: The plans.
        prices: Of each of the head's counts, a split point.
        constants: Of each codec, a split point.
    """

    _FITTED, _CHECKED, _TOLERANCE = 24, 24, 1e-7

    def __init__(self, space: LayerwiseSpace, prices: Sequence[Array], constants: Sequence[Array]) -> None:
        self.space = space
        self._prices, self._constants = tuple(prices), tuple(constants)

    @classmethod
    def of(cls, exact: PredictedLatency) -> AffineLatency | None:
        """The same latency in this form, or `None` where a check finds that the model is of another kind."""
        # fixed draws: whether the closed form is used must not change from run to run
        rng = np.random.default_rng(0)
        prices, constants = [], []
        for number, split in enumerate(exact.space.splits):
            size = cls._FITTED + cls._CHECKED
            keep = rng.integers(split.least, split.channels + 1, (size, split.groups))
            codec = rng.integers(len(split.codecs), size=size)
            every, least = np.arange(len(split.codecs)), np.broadcast_to(split.least, (len(split.codecs), split.groups))
            reference = split.head.counts(least[:1])
            base = exact.p95_ms(number, least, every)
            p95_ms = exact.p95_ms(number, keep, codec)
            work = split.head.counts(keep) - reference
            # counts differ by orders of magnitude; scaled, the least squares are well conditioned
            scale = np.maximum(np.abs(work).max(axis=0), 1.0)
            known = slice(cls._FITTED)
            price = np.linalg.lstsq(work[known] / scale, (p95_ms - base[codec])[known], rcond=None)[0] / scale
            found = cls(exact.space, [price], [base - reference @ price])
            if np.abs(found._value(split.head.counts(keep), 0, codec) - p95_ms).max() > cls._TOLERANCE * p95_ms.max():
                return None
            prices.append(price)
            constants.append(base - reference @ price)
        return cls(exact.space, prices, constants)

    def p95_ms(self, split: int, keep: IntArray, codec: IntArray) -> Array:
        """As `PredictedLatency.p95_ms`, within a millionth and never below it."""
        # a millionth more, so that what is within by this is within by the latency model too
        return self._value(self.space.splits[split].head.counts(keep), split, codec) * (1 + 1e-6)

    def _value(self, counts: Array, split: int, codec: IntArray) -> Array:
        value: Array = counts @ self._prices[split] + self._constants[split][codec]
        return value
