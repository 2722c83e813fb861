"""Plans as points on a few axes: what optimisers that know neighbours or vectors of parameters see of a space."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from autosplit.agents.base import SearchProblem
from autosplit.core.arrays import Array
from autosplit.core.plan import INPUT, CodecSetting
from autosplit.envs.tree import BoolArray, IntArray

__all__ = ["PlanAxes"]

_CODEC: tuple[tuple[str, Callable[[CodecSetting], Hashable]], ...] = (
    ("image", lambda c: c.kind if c.image else None),
    ("downscale", lambda c: c.downscale or (1 if c.image else None)),
    ("quality", lambda c: c.quality),
    ("effort", lambda c: c.effort),
    ("codec", lambda c: c.family or c.kind if c.kind in ("code", "raw") else None),
    ("width", lambda c: c.width),
    ("grid", lambda c: c.grid),
    ("bits", lambda c: c.bits),
    ("rate", lambda c: c.rate),
)
"""The axes of a codec setting; `None` where a setting has no such choice."""

_CATEGORIES = ("head", "image", "codec")
_PLACES = ("split", *_CATEGORIES)
"""Axes whose levels offer different levels of the others, so that a step along them cannot keep those as they are."""


@dataclass(frozen=True)
class PlanAxes:
    """The A axes on which the P plans of a problem differ.

    A level is the rank of a value among all that occur in the space: split points in the order of execution,
    sparsities, widths, grids, bits and qualities ascending. Widths and grids are mostly powers of two, so ranks are
    logarithms.

    Attributes:
        names: Names of the axes, in the order of decision: `split`, `head`, `sparsity`, `image`, `downscale`,
            `quality`, `effort`, `codec`, `width`, `grid`, `bits`, `rate`, without those that have one level.
        sizes: Levels of each axis.
        ordered: Whether the levels of an axis have an order, shape (A,); kinds of heads, images and codecs have none.
        levels: Level of every plan on every axis, shape (P, A); -1 where a plan has no such choice.
        payload: Logarithm of 1 + the predicted payload in bytes, shape (P,).
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    ordered: BoolArray
    levels: IntArray
    payload: Array

    @classmethod
    def of(cls, problem: SearchProblem) -> PlanAxes:
        """The axes of a problem's plans."""
        places = {place: i for i, place in enumerate(problem.space.splits)}
        splits: dict[str, int] = {}  # places of one split point lie side by side
        for plan in problem.plans:
            splits[plan.split] = min(places[plan.place], splits.get(plan.split, len(places)))
        columns: dict[str, list[Hashable]] = {
            "split": [splits[plan.split] for plan in problem.plans],
            "head": [None if plan.split == INPUT else plan.head for plan in problem.plans],
            "sparsity": [None if plan.split == INPUT else plan.sparsity for plan in problem.plans],
            **{name: [of_codec(plan.codec) for plan in problem.plans] for name, of_codec in _CODEC},
        }
        ranked: dict[str, IntArray] = {}
        for name, values in columns.items():
            known = sorted({v for v in values if v is not None})  # type: ignore[type-var]
            rank = {v: i for i, v in enumerate(known)}
            ranked[name] = np.array([-1 if v is None else rank[v] for v in values], dtype=np.int64)
        kept = {name: ranks for name, ranks in ranked.items() if ranks.max() > 0}
        payload = np.log1p([work.payload_bytes_mean for work in problem.workloads])
        return cls(
            names=tuple(kept),
            sizes=tuple(int(ranks.max()) + 1 for ranks in kept.values()),
            ordered=np.array([name not in _CATEGORIES for name in kept], dtype=np.bool_),
            levels=np.stack([*kept.values()], axis=1) if kept else np.zeros((len(problem.plans), 0), dtype=np.int64),
            payload=payload,
        )

    def distance(self, number: int, others: IntArray) -> Array:
        """Distance of a plan to others, shape (n,).

        The sum of the differences in level, each as a share of its axis, over the axes that both plans are on; and 1
        more where they are of different kinds, so that one has choices which the other has not.
        """
        # levels as shares of their axis, so that an axis of many levels does not outweigh one of few
        here, there = self.levels[number][None, :], self.levels[others]
        share = np.abs(here - there) / np.maximum(np.array(self.sizes) - 1, 1)
        both = (here >= 0) & (there >= 0)
        other_kind = (~self.ordered & (here != there)) | ((here < 0) != (there < 0))
        result: Array = np.where(both & self.ordered, share, 0.0).sum(axis=1) + other_kind.any(axis=1)
        return result

    def nearest(self, number: int, others: IntArray) -> int:
        """The plan among others, shape (n,), that is nearest to a plan; of equally near ones the nearest in payload.

        Raises:
            ValueError: There are no others.
        """
        if not len(others):
            raise ValueError("no plans to choose the nearest from")
        if len(others) == 1:
            return int(others[0])
        payload = np.abs(self.payload[others] - self.payload[number])
        # rounded, since sums of shares that should be equal differ in their last bits
        return int(others[np.lexsort((others, payload, self.distance(number, others).round(9)))[0]])

    def moves(self, number: int, axis: int, allowed: BoolArray) -> dict[int, int]:
        """Allowed plans that differ from a plan in one choice.

        Args:
            number: The plan.
            axis: Which choice.
            allowed: Plans that may be moved to, shape (P,).

        Returns:
            The plan at each other level of that axis where there is one. All its other choices are the same. Another
            split point or kind of codec may not offer them; then it is the nearest plan there.
        """
        here, name = self.levels[number], self.names[axis]
        if here[axis] < 0:
            return {}
        same = allowed & (self.levels[:, axis] >= 0)
        for other in range(len(self.names)):
            if other != axis and (name not in _PLACES or (name != "split" and self.names[other] == "split")):
                same &= self.levels[:, other] == here[other]
        plans = np.flatnonzero(same)
        at = self.levels[plans, axis]
        return {int(level): self.nearest(number, plans[at == level]) for level in np.unique(at) if level != here[axis]}

    def neighbours(self, number: int, allowed: BoolArray) -> list[int]:
        """Allowed plans one step away from a plan in one dimension.

        A step leads to the next level up or down that holds an allowed plan; between kinds, which have no order, to
        any.

        Args:
            number: The plan.
            allowed: Plans that may be moved to, shape (P,).
        """
        found: list[int] = []
        for axis, ordered in enumerate(self.ordered):
            moves, here = self.moves(number, axis, allowed), self.levels[number, axis]
            if ordered:
                below, above = [i for i in moves if i < here], [i for i in moves if i > here]
                found += [moves[i] for i in (*below[-1:], *above[:1])]
            else:
                found += moves.values()
        return found

    def settle(self, wanted: Callable[[int], int], among: IntArray) -> int:
        """Read a plan off wanted levels, axis by axis; a level that no plan has becomes the nearest that some plan has.

        So a vector of parameters always stands for a plan that may be chosen. `autosplit/CoInference-v0` reads actions
        outside its mask in the same way, as AMC bounds its actions (He et al. 2018, arXiv 1802.03494).

        Args:
            wanted: Gives the level wanted on an axis; asked only for axes that exist after the decisions before.
            among: Numbers of the plans that may be chosen, shape (n,), n at least 1.
        """
        left = among
        for axis in range(len(self.names)):
            offered = np.unique(self.levels[left, axis])
            offered = offered[offered >= 0]
            if len(offered):  # else the decisions before leave no choice on this axis
                level = offered[np.abs(offered - wanted(axis)).argmin()]
                left = left[self.levels[left, axis] == level]
        return int(left[0])
