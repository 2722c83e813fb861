"""What the figures of a run show, ready to be drawn; `plots`, `run_plots` and `interactive` draw it.

Nothing here knows a drawing library, so that a picture on the page and its file in PNG or SVG show the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from autosplit.core.comparison import ComparisonRow
from autosplit.core.plan import INPUT, OUTPUT, Outcome
from autosplit.report.pareto import pareto_mask
from autosplit.report.style import SPAN
from autosplit.report.tables import STAGES

__all__ = [
    "Bars",
    "HeatMap",
    "SearchCurve",
    "View",
    "depth_order",
    "energy_bars",
    "few",
    "front_of",
    "role",
    "shortened",
    "stage_bars",
    "view_of",
]

_OFF_SCALE = 6.0
_LEGEND_ENTRIES = 8
_LONGEST_BAR = 4.0  # times the median bar; a longer one is cut, since it would flatten all others

T = TypeVar("T")
Array = npt.NDArray[np.float64]


# --- accuracy against latency --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """The visible part of the plane: milliseconds and per cent."""

    left: float
    right: float
    bottom: float
    top: float

    def holds(self, ms: float, percent: float) -> bool:
        """Whether a point is in view."""
        return self.left <= ms <= self.right and self.bottom <= percent <= self.top


def view_of(outcomes: Sequence[Outcome], marks: Sequence[tuple[float, float]], chosen: tuple[float, float],
            budget_ms: float) -> View:
    """The part of the plane that matters: not the hopeless plans, and not what takes many times as long.

    Args:
        outcomes: Measured plans.
        marks: Chosen plan and baselines: p95 latency in milliseconds, accuracy in per cent.
        chosen: The chosen plan among them.
        budget_ms: The deadline, always in view.
    """
    times = [o.latency.p95_ms for o in outcomes] + [ms for ms, _ in marks] + [budget_ms]
    reach = _OFF_SCALE * max(budget_ms, chosen[0])
    levels = [o.measurement.accuracy * 100 for o in outcomes] + [percent for _, percent in marks]
    top = max(levels)
    bottom = max(min(levels), min(top - SPAN, chosen[1]))
    margin = max(1.0, 0.06 * (top - bottom))
    low = max(min(t for t in times if t > 0), min(budget_ms, chosen[0]) / 50)
    high = max(t for t in times if t <= reach)
    room = 1.3 if high == max(times) else 1.6  # marks off the scale stand at the edge
    return View(low / 1.2, high * room, bottom - margin, top + 3.2 * margin)


def depth_order(outcomes: Sequence[Outcome]) -> list[str]:
    """Split points from shallow to deep, `input` first, `output` last.

    By the operators of the head, which pruning leaves as many, then by the work of the least pruned one seen.
    """
    depth: dict[str, tuple[int, float]] = {}
    for o in outcomes:
        head = o.measurement.workload.device
        depth[o.plan.split] = max(depth.get(o.plan.split, (0, 0.0)), (head.operators, head.macs))
    return sorted(depth, key=lambda split: (split == OUTPUT, split != INPUT, depth[split], split))


def few(entries: Sequence[T]) -> list[T]:
    """So many entries as a legend has room for: an even choice, ends included."""
    if len(entries) <= _LEGEND_ENTRIES:
        return list(entries)
    picked = np.unique(np.linspace(0, len(entries) - 1, _LEGEND_ENTRIES).round().astype(int))
    return [entries[i] for i in picked]


def shortened(path: str, width: int) -> str:
    """A module path for an axis or a legend: one that is too long keeps its end, which tells it from others."""
    return path if len(path) <= width else f"…{path[1 - width:]}"


def front_of(outcomes: Sequence[Outcome]) -> Array:
    """The plans that none beats in accuracy and p95 latency: milliseconds and per cent, shape (N, 2), fastest first."""
    points = np.array([(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes]).reshape(-1, 2)
    front: Array = np.unique(points[pareto_mask(points * [1, -1])], axis=0) if len(points) else points
    return front


def role(best: Outcome) -> str:
    """What the chosen plan is called where none may be in time."""
    return "chosen plan" if best.feasible else "least late plan"


# --- bars of deployments -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bars:
    """A bar for each deployment, the chosen plan first.

    Attributes:
        rows: The deployments.
        parts: Length of each part of a bar, by its name, in the order of the rows.
        totals: What is written at the end of each bar.
        limit: Length at which the axis ends; bars that are longer are cut.
    """

    rows: tuple[ComparisonRow, ...]
    parts: dict[str, tuple[float, ...]]
    totals: tuple[float, ...]
    limit: float

    @property
    def cut(self) -> tuple[bool, ...]:
        """Which bars are longer than the axis."""
        return tuple(total > self.limit for total in self.totals)


def stage_bars(rows: Sequence[ComparisonRow], budget_ms: float) -> Bars:
    """Median milliseconds of each stage; totals are the p95 latency.

    Args:
        rows: The comparison.
        budget_ms: The deadline, always on the axis.
    """
    ordered = _chosen_first(rows)
    parts = {stage: tuple(getattr(row.latency, f"{stage}_ms") for row in ordered) for stage in STAGES}
    totals = tuple(row.latency.p95_ms for row in ordered)
    return Bars(ordered, parts, totals, _limit(totals, budget_ms))


def energy_bars(rows: Sequence[ComparisonRow]) -> Bars:
    """Millijoules that the device spends on one inference.

    Args:
        rows: The comparison.
    """
    ordered = _chosen_first(rows)
    totals = tuple(row.latency.energy_mj for row in ordered)
    return Bars(ordered, {"device": totals}, totals, _limit(totals, 0.0))


def _chosen_first(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    return tuple(sorted(rows, key=lambda row: not row.chosen))


def _limit(totals: Sequence[float], least: float) -> float:
    reach = max(_LONGEST_BAR * float(np.median(totals)), least)
    return 1.04 * max([least, 1e-9, *(total for total in totals if total <= reach)])


# --- accuracy over split and compression ---------------------------------------------------------------------------


@dataclass(frozen=True)
class HeatMap:
    """The most accurate measured plan of each split point and size of payload.

    Attributes:
        splits: Rows, from shallow to deep.
        sizes: Columns: payload bytes by powers of two, as text.
        best: The plan of each cell, `None` where none was measured.
    """

    splits: tuple[str, ...]
    sizes: tuple[str, ...]
    best: tuple[tuple[Outcome | None, ...], ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> HeatMap:
        """The map of outcomes of one fidelity."""
        splits = depth_order(outcomes)
        octaves = [_octave(o) for o in outcomes]
        sent = [k for k in octaves if k is not None]
        columns: list[int | None] = [None] if None in octaves else []
        columns += list(range(min(sent), max(sent) + 1)) if sent else []
        cells: dict[tuple[str, int | None], Outcome] = {}
        for o, octave in zip(outcomes, octaves, strict=True):
            known = cells.get((o.plan.split, octave))
            if known is None or o.measurement.accuracy > known.measurement.accuracy:
                cells[o.plan.split, octave] = o
        best = tuple(tuple(cells.get((split, column)) for column in columns) for split in splits)
        return cls(tuple(splits), tuple(map(_size, columns)), best)

    @property
    def accuracy(self) -> Array:
        """Per cent, shape (splits, sizes); NaN where no plan was measured."""
        return np.array([[math.nan if o is None else 100 * o.measurement.accuracy for o in row] for row in self.best])


def _octave(outcome: Outcome) -> int | None:
    payload = outcome.measurement.workload.payload_bytes_mean
    return math.floor(math.log2(max(payload, 1.0))) if payload > 0 else None


def _size(octave: int | None) -> str:
    if octave is None:
        return "nothing"
    low, high = 2**octave, 2 ** (octave + 1)
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if low >= size:
            return f"{low // size}-{high // size} {unit}"
    return f"{low}-{high} B"


# --- the progress of the search -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchCurve:
    """The best reward after each measurement of a search.

    Attributes:
        outcomes: Measurements (F1), in order.
        best: For each, the place of the best feasible one up to then; -1 where none was in time yet.
    """

    outcomes: tuple[Outcome, ...]
    best: tuple[int, ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> SearchCurve:
        """The curve of a search, from its outcomes in order."""
        best, at = [], -1
        for i, o in enumerate(outcomes):
            if o.feasible and (at < 0 or o.reward > outcomes[at].reward):
                at = i
            best.append(at)
        return cls(tuple(outcomes), tuple(best))

    @property
    def records(self) -> list[int]:
        """Places of the measurements that became the best so far."""
        return [at for i, at in enumerate(self.best) if at == i]

    @property
    def view(self) -> tuple[float, float]:
        """Rewards in view: from the best down to the least feasible one, not too far."""
        rewards = [o.reward for o in self.outcomes if o.feasible] or [o.reward for o in self.outcomes] or [0.0]
        top = max(rewards)
        bottom = max(min(rewards), top - SPAN / 100)
        margin = max(0.01, 0.06 * (top - bottom))
        return bottom - margin, top + margin
