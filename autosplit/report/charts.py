"""What a figure consists of, as plain data: `draw_plotly` draws it on the page, `draw_matplotlib` writes it to a file.

Titles, axes, colours and numbers are given here once, so that a picture on the page and its file show the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autosplit.core.arrays import Array
from autosplit.core.comparison import ComparisonRow
from autosplit.report.style import INK, plain_number

__all__ = ["Axis", "Bars", "Cells", "Chart", "Figure", "Limit", "Trace", "log_axis", "percent_axis"]


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        title: With the unit.
        limits: Values at its two ends, left or bottom first; an axis that falls has the larger one first.
        log: Whether it is logarithmic.
        ticks: Values and what is written there; empty leaves the choice to the library.
        grid: Whether lines cross the chart at the ticks.
        frame: Whether the axis itself and its tick marks are drawn.
        slanted: Whether what is written at the ticks is slanted, since it is long.
        bold: Place of the tick that is written in bold, or `None`.
    """

    title: str
    limits: tuple[float, float]
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    grid: bool = False
    frame: bool = True
    slanted: bool = False
    bold: int | None = None


@dataclass(frozen=True)
class Trace:
    """Points, or a line through points.

    Attributes:
        name: In the legend; empty for none.
        x: Values, N of them.
        y: As many.
        colour: Of all points, or one a point.
        line: `steps` holds each value until the next; empty draws points only.
        width: Of the line, in points (1/72 inch).
        marker: As matplotlib calls it, such as `o`; empty draws the line only.
        size: Diameter of the markers, in points.
        edge: Colour around the markers.
        hollow: Which markers are not filled; empty fills all.
        every: Of so many points one has a marker.
        opacity: 1 hides what is behind.
        group: Heading of its part of the legend.
        hover: What a page shows when a point is pointed at, one text a point: lines, the first of them in bold.
        label: What a file, which cannot be pointed at, writes beside the only point instead of the legend's entry.
        bold: Whether that is written in bold.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str | tuple[str, ...]
    line: Literal["", "straight", "steps"] = ""
    width: float = 1.5
    marker: str = ""
    size: float = 5.5
    edge: str = ""
    hollow: tuple[bool, ...] = ()
    every: int = 1
    opacity: float = 1.0
    group: str = ""
    hover: tuple[str, ...] = ()
    label: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Cells:
    """A heat map; rows and columns stand at 0, 1, 2, ... of the axes.

    Attributes:
        levels: Per cent, shape (rows, columns), or numbers of `palette`; NaN leaves a cell empty.
        hover: What a page shows for each cell.
        limits: Per cent at the two ends of the colours.
        written: Whether each cell holds its number.
        palette: Colours of things that have no order, as `#rrggbb`; empty for a scale of colours.
    """

    levels: Array
    hover: tuple[tuple[str, ...], ...]
    limits: tuple[float, float]
    written: bool = False
    palette: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bars:
    """A bar for each deployment, the chosen plan first; bars lie at 0, 1, 2, ... of the y axis.

    Attributes:
        rows: The deployments.
        parts: Length of each part of a bar, by its name, in the order of the rows.
        totals: What is written at the end of each bar.
        limit: Length at which the axis ends; bars that are longer are cut.
        unit: Of the lengths.
        colours: Of each part, in the order of the rows.
    """

    rows: tuple[ComparisonRow, ...]
    parts: dict[str, tuple[float, ...]]
    totals: tuple[float, ...]
    limit: float
    unit: str
    colours: dict[str, tuple[str, ...]]

    @property
    def cut(self) -> tuple[bool, ...]:
        """Which bars are longer than the axis."""
        return tuple(total > self.limit for total in self.totals)


@dataclass(frozen=True)
class Limit:
    """A vertical line, such as the budget.

    Attributes:
        value: Where it stands on the x axis.
        text: Written at it.
        shaded: Whether what lies beyond is shaded.
        colour: Of line and text.
    """

    value: float
    text: str
    shaded: bool = False
    colour: str = INK


@dataclass(frozen=True)
class Chart:
    """One pair of axes and what is drawn between them, the last in front.

    Attributes:
        x: The horizontal axis.
        y: The vertical axis.
        traces: Points and lines.
        cells: A heat map behind them.
        bars: Horizontal bars behind them.
        limit: A vertical line.
        legend: Where the legend stands.
        title: What tells it from the other charts of a figure.
    """

    x: Axis
    y: Axis
    traces: tuple[Trace, ...] = ()
    cells: Cells | None = None
    bars: Bars | None = None
    limit: Limit | None = None
    legend: Literal["none", "beside", "level"] = "none"
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        title: What it is about.
        note: How to read it, in full sentences.
        charts: One on a page; a file may hold several.
        finding: What it shows, in one line; a file, which often stands alone, has it in place of the title.
    """

    title: str
    note: str
    charts: tuple[Chart, ...]
    finding: str = ""


def log_axis(title: str, left: float, right: float, room: float = 1.0) -> Axis:
    """A logarithmic axis whose ticks are round numbers, neither too few nor too many.

    Args:
        title: With the unit.
        left: Its lower end, above 0.
        right: Its upper end.
        room: Width of the chart in multiples of a page's.
    """
    decades = math.log10(right / left) / room
    steps = next((multiples for limit, multiples in ((1.3, (1, 1.5, 2, 3, 4, 5, 7)), (2.0, (1, 2, 3, 5)),
                                                     (3.2, (1, 2, 5)), (4.5, (1, 3))) if decades < limit), (1,))
    # One decade more than is needed: a page shows more of the axis where marks are off the scale.
    values = [m * 10.0**k for k in range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
              for m in steps]
    return Axis(title, (left, right), log=True, ticks=tuple((v, plain_number(v)) for v in values if v >= left))


def percent_axis(title: str, levels: Sequence[float], bottom: float) -> Axis:
    """An axis from somewhat below `bottom` to somewhat above the highest level, without ticks above 100 per cent.

    Args:
        title: What is measured.
        levels: All that is drawn, per cent.
        bottom: The lowest level that must be in view.
    """
    top = max(levels)
    margin = max(1.0, 0.06 * (top - bottom))
    low, high = bottom - margin, min(top + 1.5 * margin, 101.5)
    # The smallest round step that needs no more than eight ticks.
    size = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= (high - low) / 7)
    values = [step * i for i in range(math.ceil(low / step), math.floor(min(high, 100.0) / step) + 1)]
    return Axis(title, (low, high), grid=True, ticks=tuple((v, f"{v:g}") for v in values))
