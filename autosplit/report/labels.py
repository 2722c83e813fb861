"""Labels of marks in a figure, placed so that they overlap neither one another nor what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autosplit.report.style import INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Label", "Point", "draw_labels"]

Point = tuple[float, float]
_Box = tuple[float, float, float, float]
_Floats = npt.NDArray[np.float64]

_ROUNDS, _STARTS = 4, 6
_DIRECTIONS = ((1, 0), (0, 1), (0.7, 0.7), (-0.7, 0.7), (-1, 0), (0, -1), (0.7, -0.7), (-0.7, -0.7),
               (0.2, 1), (-0.2, 1), (0.2, -1), (-0.2, -1))
_OFFSETS = tuple((dx * reach, dy * reach) for reach in (12.0, 20.0, 32.0, 46.0, 62.0, 80.0) for dx, dy in _DIRECTIONS)


@dataclass(frozen=True)
class Label:
    """What is written beside a point, in the units of the axes."""

    x: float
    y: float
    text: str
    bold: bool = False
    colour: str = INK


def draw_labels(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Point]) -> None:
    """Write each label at a free place near its point, with a thin line when it is not right beside it.

    Args:
        axes: Where the points are.
        labels: What is written, one at least.
        obstacles: Points that labels should keep clear of.
    """
    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72.0
    frame = (axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    pixels = axes.transData.transform(np.asarray(obstacles, dtype=float))
    anchors = axes.transData.transform(np.asarray([(label.x, label.y) for label in labels]))
    boxes, alone = [], []
    for i, (label, anchor) in enumerate(zip(labels, anchors, strict=True)):
        width, height = annotate(axes, label, None, renderer)
        places = []
        for dx, dy in _OFFSETS:
            right, up = alignment(dx, dy)
            x, y = anchor[0] + dx * scale - right * width, anchor[1] + dy * scale - up * height
            places.append((x, y, x + width, y + height))
        boxes.append(places)
        costs = [place_cost(box, frame, pixels, np.delete(anchors, i, 0)) for box in places]
        alone.append(np.array(costs) + 0.2 * np.arange(len(_OFFSETS)))  # the nearer place where two are equal
    # Each label in turn moves to its best place, given where the others are. That may end where no single move helps,
    # so it begins from several arrangements, and the best end counts.
    every, ends = np.array(boxes), []
    for start in range(_STARTS):
        choice = [int(np.argsort(costs, kind="stable")[start]) for costs in alone]
        for _ in range(_ROUNDS):
            total = 0.0
            for i, costs in enumerate(alone):
                clash = sum((clashes(anchors[i], every[i], anchors[j], every[j, [choice[j]]])
                             for j in range(len(labels)) if j != i), np.zeros(len(_OFFSETS)))
                choice[i] = int(np.argmin(costs + 1000.0 * clash))
                total += float(costs[choice[i]] + 1000.0 * clash[choice[i]])
        ends.append((total, choice))
    choice = min(ends)[1]
    for label, index in zip(labels, choice, strict=True):
        annotate(axes, label, _OFFSETS[index], renderer)


def alignment(dx: float, dy: float) -> Point:
    """Which part of a box (0 = left or bottom, 1 = right or top) stands at an offset from its point."""
    return 0.5 - 0.5 * math.copysign(dx != 0, dx), 0.5 - 0.5 * math.copysign(dy != 0, dy)


def annotate(axes: Axes, label: Label, offset: Point | None, renderer: Any) -> Point:
    """Write a label; without an offset only measure it. Gives its width and height in pixels."""
    dx, dy = offset or (0.0, 0.0)
    right, up = alignment(dx, dy)
    line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
    halo = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    note = axes.annotate(
        label.text, (label.x, label.y), (dx, dy), textcoords="offset points", zorder=6, linespacing=1.15,
        ha=("left", "center", "right")[round(right * 2)], va=("bottom", "center", "top")[round(up * 2)],
        fontsize=10 if label.bold else 9, fontweight="bold" if label.bold else "normal",
        color=label.colour, arrowprops=line if math.hypot(dx, dy) > 25 else None, bbox=halo,
        annotation_clip=False)
    box = note.get_window_extent(renderer)
    if offset is None:
        note.remove()
    return float(box.width) + 6.0, float(box.height) + 6.0


def clashes(anchor: _Floats, boxes: _Floats, other_anchor: _Floats, other: _Floats) -> _Floats:
    """How much a label at K places, boxes (K, 4), and another one, box (1, 4), get in each other's way.

    Box on box counts thrice, the line of one through the other once.
    """
    overlap = np.all((boxes[:, :2] < other[:, 2:]) & (other[:, :2] < boxes[:, 2:]), axis=1)
    cost: _Floats = 3.0 * overlap
    for start, own, across in ((anchor, boxes, other), (other_anchor, other, boxes)):
        centre = (own[:, :2] + own[:, 2:]) / 2
        line = start + np.linspace(0, 1, 12)[:, None, None] * (centre - start)
        inside = np.all((line > across[:, :2]) & (line < across[:, 2:]), axis=2)
        cost = cost + np.any(inside, axis=0)
    return cost


def place_cost(box: _Box, frame: _Box, pixels: _Floats, others: _Floats) -> float:
    """How bad a place is: outside the frame weighs most, then points it could be mistaken for, then what it covers."""
    x0, y0, x1, y1 = box
    outside = x0 < frame[0] or x1 > frame[2] or y0 < frame[1] or y1 > frame[3]
    near = np.hypot(np.maximum(np.maximum(x0 - others[:, 0], others[:, 0] - x1), 0),
                    np.maximum(np.maximum(y0 - others[:, 1], others[:, 1] - y1), 0)) < 24
    inside = (pixels[:, 0] > x0) & (pixels[:, 0] < x1) & (pixels[:, 1] > y0) & (pixels[:, 1] < y1)
    return 4000.0 * outside + 25.0 * int(near.sum()) + int(inside.sum())
