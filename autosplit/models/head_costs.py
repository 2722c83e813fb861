"""The work of a head, pruned in any way, in closed form.

Whatever a network is made of, sequences, sums and concatenations, the channels that an operator reads and writes are
linear in the channels kept in each prunable group. So they are known for every pruned head once they are known for the
whole one and for one in which each group has lost something. The multiply-accumulates follow, products of such numbers.
`stage_cost` of a head that is really pruned gives the same counts, to the last element, some thousand times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autosplit.core.errors import PruningError
from autosplit.core.measurement import StageCost
from autosplit.core.operators import KINDS, TERMS, OperatorWork, TypeSums, padded
from autosplit.models.costs import operators, stage_cost
from autosplit.models.following import is_depthwise
from autosplit.models.pruning import HeadPruner, PrunableGroup

__all__ = ["COUNTS", "HeadCost", "HeadLayer"]

_Array = NDArray[np.float64]
_IntArray = NDArray[np.int64]

COUNTS = ("conv_macs", "depthwise_macs", "linear_macs", "weight_elements", "activation_elements", "operators")
"""The fields of `StageCost` that a head has, in the order of the columns of `HeadCost.counts`."""

_VARYING = ("rows", "columns", "groups", "bias", "outputs", "reads")  # what pruning changes of an operator


@dataclass(frozen=True)
class HeadLayer:
    """The layer that names a prunable group.

    Attributes:
        root: Its path.
        channels: Channels of the group.
        kind: What its multiply-accumulates count as.
        inputs: Input channels.
        kernel: Side of its kernel; 1 of a linear layer.
        stride: Of its convolution; 1 of a linear layer.
    """

    root: str
    channels: int
    kind: str
    inputs: int
    kernel: int = 1
    stride: int = 1

    @classmethod
    def of(cls, group: PrunableGroup, head: nn.Module) -> HeadLayer:
        """The layer of a group in the whole head."""
        layer = head.get_submodule(group.root)
        if isinstance(layer, nn.Conv2d):
            kind = "depthwise" if is_depthwise(layer) else "conv"
            return cls(group.root, group.channels, kind, layer.in_channels, layer.kernel_size[0], layer.stride[0])
        return cls(group.root, group.channels, "linear", int(getattr(layer, "in_features", group.channels)))


@dataclass(frozen=True)
class _Linear:
    """M numbers that are linear in the channels lost: of the whole head, (M,), and what a channel takes, (G, M)."""

    whole: _Array
    step: _Array

    def __call__(self, lost: _Array) -> _Array:
        result: _Array = self.whole - lost @ self.step
        return result


class HeadCost:
    """Work of one head for any number of channels kept in each of its G groups.

    Use `of` to make one of a real head.

    Args:
        layers: The groups' layers, in the order of `HeadPruner.groups`.
        whole: The operators of the whole head.
        steps: What one channel less in each group takes from `_VARYING` of every operator, shape (G, 6, operators).
    """

    def __init__(self, layers: Sequence[HeadLayer], whole: Sequence[OperatorWork], steps: _Array) -> None:
        self.layers = tuple(layers)
        self.channels: _IntArray = np.array([layer.channels for layer in layers], dtype=np.int64)
        table = _varying(whole)
        weighted = np.array([w.rows > 0 for w in whole], dtype=np.bool_)
        self._rows, self._columns, self._groups = (
            _Linear(table[i, weighted], steps[:, i, weighted]) for i in range(3))
        self._bias, self._outputs = (_Linear(table[i].sum(keepdims=True), steps[:, i].sum(axis=1, keepdims=True))
                                     for i in (3, 4))
        self._each_bias, self._each_output, self._each_read = (
            _Linear(table[i, weighted], steps[:, i, weighted]) for i in (3, 4, 5))
        self._other = _Linear(table[3:, ~weighted].sum(axis=1), steps[:, 3:, ~weighted].sum(axis=2))
        kinds = np.array([w.kind for w in whole], dtype=np.str_)[weighted]
        self._kinds = [kinds == kind for kind in ("conv", "depthwise", "linear")]
        self._kernel, self._positions = (np.array([getattr(w, name) for w in whole], dtype=np.float64)[weighted]
                                         for name in ("kernel", "positions"))
        self._operators = len(whole)

    @classmethod
    def nothing(cls) -> HeadCost:
        """The head of split point `input`: no work."""
        return cls((), (), np.zeros((0, len(_VARYING), 0)))

    @classmethod
    def of(cls, pruner: HeadPruner, shape: tuple[int, ...]) -> HeadCost:
        """Find the cost of a head's pruned versions, and check it on one of them.

        Args:
            pruner: Of the head.
            shape: Shape of one input image without the batch dimension.

        Raises:
            PruningError: Channels of this head do not add up; its pruned versions have to be made and counted.
        """
        # half of the channels: any other number would do, as the work is linear in them
        less = tuple(max(1, g.channels // 2) for g in pruner.groups)
        layers: list[HeadLayer] = []
        found: list[list[OperatorWork]] = []
        for module in pruner.shrinking(less):
            if not found:
                layers = [HeadLayer.of(g, module) for g in pruner.groups]
            found.append(operators(module, shape))
        if len({len(works) for works in found}) != 1:
            raise PruningError("pruned versions of this head have other operators than the whole one")
        # each of these heads has lost channels of one group more, so a difference is what that group takes away
        tables = [_varying(works) for works in found]
        steps = np.zeros((len(less), *tables[0].shape))
        for i, (group, kept) in enumerate(zip(pruner.groups, less, strict=True)):
            steps[i] = (tables[i] - tables[i + 1]) / max(1, group.channels - kept)
        cost = cls(layers, found[0], steps)
        # that the work is linear in the channels lost is an assumption: it must hold for a head pruned otherwise
        keep = tuple(max(1, g.channels * (1 + i % 2) // 3) for i, g in enumerate(pruner.groups))
        if cost.stage_cost(keep) != stage_cost(pruner.sub_network(keep).module, shape):
            raise PruningError("the work of this head's pruned versions is no sum over its groups")
        return cost

    def counts(self, keep: NDArray[np.integer]) -> _Array:
        """Work of pruned heads.

        Args:
            keep: Channels kept in each group, shape (N, G), each from 1 to the group's channels.

        Returns:
            Shape (N, 6): the columns are `COUNTS`, whole numbers.
        """
        lost = (self.channels[None, :] - keep).astype(np.float64)
        weights = self._rows(lost) * self._columns(lost) * self._kernel
        macs = weights * self._positions
        conv, depthwise, linear = self._kinds
        # a depthwise convolution with one channel left is a convolution like any other
        lone = macs[:, depthwise] * (self._groups(lost)[:, depthwise] == 1)
        result = np.empty((len(keep), len(COUNTS)))
        result[:, 0] = macs[:, conv].sum(axis=1) + lone.sum(axis=1)
        result[:, 1] = macs[:, depthwise].sum(axis=1) - lone.sum(axis=1)
        result[:, 2] = macs[:, linear].sum(axis=1)
        result[:, 3] = weights.sum(axis=1) + self._bias(lost)[:, 0]
        result[:, 4] = self._outputs(lost)[:, 0]
        result[:, 5] = self._operators
        return result

    def macs(self, keep: NDArray[np.integer]) -> _Array:
        """Multiply-accumulates of pruned heads, shape (N,); see `counts`."""
        total: _Array = self.counts(keep)[:, :3].sum(axis=1)
        return total

    def stage_costs(self, keep: NDArray[np.integer]) -> list[StageCost]:
        """The same as objects, one a row of `keep`; equal to `stage_cost` of each pruned head."""
        sums = self.sums(keep).reshape(len(keep), len(KINDS) * len(TERMS))
        return [stage_cost_of(row, TypeSums.from_flat(terms) if any(terms) else None)
                for row, terms in zip(self.counts(keep).tolist(), sums.tolist(), strict=True)]

    def sums(self, keep: NDArray[np.integer]) -> _Array:
        """What `profiled` predicts the time of pruned heads from.

        Args:
            keep: As for `counts`.

        Returns:
            Shape (N, 4, 7): the types of `KINDS`, the terms of `TERMS`.
        """
        lost = (self.channels[None, :] - keep).astype(np.float64)
        rows, columns, groups = self._rows(lost), self._columns(lost), self._groups(lost)
        used = self._kernel * self._positions
        conv, depthwise, linear = self._kinds
        # with one channel left it is a convolution like any other
        deep = depthwise & (groups > 1)
        terms = np.stack([
            np.ones_like(rows), rows * columns * used, self._each_read(lost), self._each_output(lost),
            rows * columns * self._kernel + self._each_bias(lost),
            padded(rows) * np.where(deep, columns, padded(columns)) * used, columns * groups * used], axis=-1)
        result = np.zeros((len(keep), len(KINDS), len(TERMS)))
        for i, members in enumerate((conv | (depthwise & ~deep), deep, np.broadcast_to(linear, deep.shape))):
            result[:, i] = (terms * members[..., None]).sum(axis=1)
        result[:, 3, 0] = self._operators - rows.shape[1]
        parameters, writes, reads = self._other(lost).T
        result[:, 3, 2], result[:, 3, 3], result[:, 3, 4] = reads, writes, parameters
        return result

    def stage_cost(self, keep: Sequence[int]) -> StageCost:
        """Work of one pruned head."""
        return self.stage_costs(np.array([keep], dtype=np.int64).reshape(1, -1))[0]


def stage_cost_of(counts: Sequence[float], by_type: TypeSums | None) -> StageCost:
    """One row of `HeadCost.counts` as an object, with its sums by type."""
    conv, depthwise, linear, weights, activations, number = counts
    return StageCost(conv_macs=conv, depthwise_macs=depthwise, linear_macs=linear, weight_elements=weights,
                     activation_elements=activations, operators=int(number), by_type=by_type)


def _varying(works: Sequence[OperatorWork]) -> _Array:
    """Shape (6, operators)."""
    table = [[getattr(w, name) for w in works] for name in _VARYING]
    return np.array(table, dtype=np.float64).reshape(len(_VARYING), len(works))


