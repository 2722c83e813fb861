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

__all__ = ["Mark", "draw_labels"]


@dataclass(frozen=True)
class Mark:
    """A labelled point, in the units of the axes."""

    x: float
    y: float
    text: str
    chosen: bool = False
    colour: str = INK


_ROUNDS = 4
_DIRECTIONS = ((1, 0), (0, 1), (0.7, 0.7), (-0.7, 0.7), (-1, 0), (0, -1), (0.7, -0.7), (-0.7, -0.7),
               (0.2, 1), (-0.2, 1), (0.2, -1), (-0.2, -1))
_OFFSETS = tuple((dx * reach, dy * reach) for reach in (12.0, 20.0, 32.0, 46.0, 62.0, 80.0) for dx, dy in _DIRECTIONS)


def draw_labels(axes: Axes, marks: Sequence[Mark], obstacles: Sequence[tuple[float, float]],
                fixed: Sequence[Any] = ()) -> None:
    """Write each mark's label at a free place near it, with a thin line when it is not right beside it.

    Args:
        axes: Where the marks are.
        marks: Points with their labels.
        obstacles: Points that labels should keep clear of.
        fixed: Texts that labels must keep clear of.
    """
    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72.0
    frame = _extent(axes.bbox)
    taken = [_extent(artist.get_window_extent(renderer)) for artist in fixed]
    pixels = axes.transData.transform(np.asarray(obstacles, dtype=float))
    anchors = axes.transData.transform(np.asarray([(m.x, m.y) for m in marks]))
    boxes = [_candidates(_annotate(axes, mark, None, renderer), anchor, scale)
             for mark, anchor in zip(marks, anchors, strict=True)]
    alone = [np.array([_cost(box, frame, taken, pixels, np.delete(anchors, i, 0)) for box in boxes[i]])
             + 0.2 * np.arange(len(_OFFSETS)) for i in range(len(marks))]
    choice = [int(np.argmin(costs)) for costs in alone]
    places = np.array(boxes)
    for _ in range(_ROUNDS):  # each label in turn moves to its best place, given where the others are
        for i, costs in enumerate(alone):
            clash = sum((_clashes(anchors[i], places[i], anchors[j], places[j, [choice[j]]])
                         for j in range(len(marks)) if j != i), np.zeros(len(_OFFSETS)))
            choice[i] = int(np.argmin(costs + 1000.0 * clash))
    for mark, index in zip(marks, choice, strict=True):
        _annotate(axes, mark, _OFFSETS[index], renderer)


def _alignment(dx: float, dy: float) -> tuple[float, float]:
    """Which part of the box (0 = left or bottom, 1 = right or top) stands at the offset."""
    return 0.5 - 0.5 * math.copysign(dx != 0, dx), 0.5 - 0.5 * math.copysign(dy != 0, dy)


def _candidates(size: tuple[float, float], anchor: npt.NDArray[np.float64], scale: float) -> list[_Box]:
    boxes = []
    for dx, dy in _OFFSETS:
        right, up = _alignment(dx, dy)
        x, y = anchor[0] + dx * scale - right * size[0], anchor[1] + dy * scale - up * size[1]
        boxes.append((x, y, x + size[0], y + size[1]))
    return boxes


def _annotate(axes: Axes, mark: Mark, offset: tuple[float, float] | None, renderer: Any) -> tuple[float, float]:
    """Write a label; without an offset only measure it. Gives its width and height in pixels."""
    dx, dy = offset or (0.0, 0.0)
    right, up = _alignment(dx, dy)
    line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
    halo = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    note = axes.annotate(
        mark.text, (mark.x, mark.y), (dx, dy), textcoords="offset points", zorder=6, linespacing=1.15,
        ha=("left", "center", "right")[round(right * 2)], va=("bottom", "center", "top")[round(up * 2)],
        fontsize=10 if mark.chosen else 9, fontweight="bold" if mark.chosen else "normal",
        color=mark.colour, arrowprops=line if math.hypot(dx, dy) > 25 else None, bbox=halo,
        annotation_clip=False)
    box = note.get_window_extent(renderer)
    if offset is None:
        note.remove()
    return float(box.width) + 6.0, float(box.height) + 6.0


_Box = tuple[float, float, float, float]
_Floats = npt.NDArray[np.float64]


def _extent(box: Any) -> _Box:
    return float(box.x0), float(box.y0), float(box.x1), float(box.y1)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _clashes(anchor: _Floats, boxes: _Floats, other_anchor: _Floats, other: _Floats) -> _Floats:
    """How much a label at K places, boxes (K, 4), and another one, box (1, 4), get in each other's way.

    Box on box counts thrice, the line of one through the other once.
    """
    overlap = np.all((boxes[:, :2] < other[:, 2:]) & (other[:, :2] < boxes[:, 2:]), axis=1)
    found: _Floats = 3.0 * overlap + _crosses(anchor, boxes, other) + _crosses(other_anchor, other, boxes)
    return found


def _crosses(anchor: _Floats, own: _Floats, other: _Floats) -> npt.NDArray[np.bool_]:
    """Whether the line from an anchor to its box goes through another box; boxes are (K, 4) or (1, 4)."""
    centre = (own[:, :2] + own[:, 2:]) / 2
    line = anchor + np.linspace(0, 1, 12)[:, None, None] * (centre - anchor)
    inside = np.all((line > other[:, :2]) & (line < other[:, 2:]), axis=2)
    crossed: npt.NDArray[np.bool_] = np.any(inside, axis=0)
    return crossed


def _cost(box: _Box, frame: _Box, taken: Sequence[_Box], pixels: npt.NDArray[np.float64],
          marks: npt.NDArray[np.float64]) -> float:
    """How bad a place is: the frame and fixed text weigh most, then marks it could be mistaken for, then dots."""
    x0, y0, x1, y1 = box
    outside = x0 < frame[0] or x1 > frame[2] or y0 < frame[1] or y1 > frame[3]
    cost = 4000.0 * outside + 1000.0 * sum(_overlap(box, other) for other in taken)
    near = np.hypot(np.maximum(np.maximum(x0 - marks[:, 0], marks[:, 0] - x1), 0),
                    np.maximum(np.maximum(y0 - marks[:, 1], marks[:, 1] - y1), 0)) < 24
    inside = (pixels[:, 0] > x0) & (pixels[:, 0] < x1) & (pixels[:, 1] > y0) & (pixels[:, 1] < y1)
    return cost + 25.0 * int(near.sum()) + int(inside.sum())
