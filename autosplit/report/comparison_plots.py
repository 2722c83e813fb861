"""Figures of a comparison: accuracy against payload, accuracy against latency, in-time accuracy against the link."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosplit.report.labels import Mark, draw_labels
from autosplit.report.style import GOLD, GRID, INK, LOOKS, SOFT, figure_file, look, plain_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "Series", "accuracy_latency_figure", "accuracy_payload_figure", "in_time_figure"]

_MOST_COLUMNS = 4
_SPAN = 45.0  # percentage points of accuracy in view below the best; what is lower stands at the edge
_LABELLED = 1  # panels up to which marks are labelled where they stand, not in a legend
_CAPTION_WIDTH = 150


@dataclass(frozen=True)
class Series:
    """Points of one method, drawn as a line or as single marks.

    Attributes:
        name: Of a method or a codec family, as for `look`.
        points: (x, y), y in [0, 1].
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        lines: Curves.
        dots: All points that the curves were made of, drawn faintly.
        marks: Chosen deployments, one point a series.
        limit: Where a vertical line stands: the budget in milliseconds, or the channel's own rate.
    """

    title: str
    lines: tuple[Series, ...] = ()
    dots: tuple[Series, ...] = ()
    marks: tuple[Series, ...] = ()
    limit: float | None = None


def accuracy_payload_figure(panels: Sequence[Panel], caption: str, *paths: Path) -> None:
    """Accuracy against payload bytes: the frontier of each codec, and the chosen deployments.

    Args:
        panels: One a network and data set; x in bytes.
        caption: Below the figure.
        paths: Files to write.
    """

    def draw(axes: Axes, panel: Panel) -> None:
        for series in panel.dots:
            axes.scatter(*_columns(series), s=7, color=look(series.name).colour, alpha=0.22, linewidths=0, zorder=2)
        for series in panel.lines:
            x, y = _columns(series)
            axes.step(x, y, where="post", linewidth=2.4 if series.name == "nested" else 1.6, zorder=3,
                      color=look(series.name).colour)
        _draw_marks(axes, panel.marks)

    _figure(panels, draw, "Accuracy against payload", "payload (bytes, log scale)", "top-1 accuracy (%)", caption,
            paths)


def accuracy_latency_figure(panels: Sequence[Panel], caption: str, *paths: Path) -> None:
    """Accuracy against p95 latency of the chosen deployments, with the budget.

    Args:
        panels: One a scenario; x in milliseconds.
        caption: Below the figure.
        paths: Files to write.
    """

    def draw(axes: Axes, panel: Panel) -> None:
        if panel.limit is not None:
            axes.axvspan(panel.limit, axes.get_xlim()[1], color="#000000", alpha=0.05, linewidth=0, zorder=0)
        shown = _draw_marks(axes, panel.marks)
        if len(panels) <= _LABELLED:
            obstacles = [(m.x, m.y) for m in shown for _ in range(10)]
            low, high = axes.get_ylim()
            obstacles += [(panel.limit, low + i * (high - low) / 300) for i in range(301) if panel.limit is not None]
            draw_labels(axes, shown, obstacles)

    _figure(panels, draw, "Accuracy against latency", "end-to-end latency, 95th percentile (ms, log scale)",
            "top-1 accuracy (%)", caption, paths, limit="budget {:g} ms", legend=len(panels) > _LABELLED)


def in_time_figure(panels: Sequence[Panel], caption: str, *paths: Path) -> None:
    """In-time accuracy against the rate of the link, as AECNN's authors show it.

    Args:
        panels: One a scenario; x in kilobits per second.
        caption: Below the figure.
        paths: Files to write.
    """

    def draw(axes: Axes, panel: Panel) -> None:
        axes.set_ylim(0, 102)
        for series in panel.lines:
            ours = series.name == "autosplit"
            axes.plot(*_columns(series), color=look(series.name).colour, linewidth=3.0 if ours else 1.5,
                      zorder=4 if ours else 3, marker=look(series.name).marker, markevery=4,
                      markersize=9 if ours else 4.5, markeredgecolor=INK if ours else "none", markeredgewidth=0.6)

    _figure(panels, draw, "In-time accuracy against the rate of the link", "uplink rate (kb/s, log scale)",
            "expected in-time accuracy (%)", caption, paths, limit="{:g} kb/s")


# --- what the three share ------------------------------------------------------------------------------------------


def _figure(
    panels: Sequence[Panel], draw: Any, title: str, x_label: str, y_label: str, caption: str, paths: Sequence[Path],
    *, limit: str = "", legend: bool = True,
) -> None:
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(len(panels))))
    rows = math.ceil(len(panels) / columns)
    lines = textwrap.wrap(caption, int(_CAPTION_WIDTH * (1.0 if columns < 3 else 1.35)))
    width, height = (10.5, 6.2) if len(panels) == 1 else (4.1 * columns + 2.6, 3.3 * rows + 1.2)
    foot = 0.17 * len(lines) + 0.75
    with figure_file(*paths, size=(width, height + foot - 0.75)) as figure:
        whole = figure.get_size_inches()[1]
        right = 1 - 2.4 / width if legend else 0.97
        figure.subplots_adjust(left=0.75 / width, right=right, top=1 - 0.75 / whole, bottom=foot / whole,
                               hspace=0.32, wspace=0.2)
        figure.text(0.75 / width, 1 - 0.27 / whole, title, fontsize=13, fontweight="bold", color=INK, va="center")
        figure.text(0.75 / width, 0.1 / whole, "\n".join(lines), fontsize=8.5, color=SOFT, va="bottom",
                    linespacing=1.35)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, number + 1)
            _set_axes(axes, panel)
            draw(axes, panel)
            _draw_limit(axes, panel, limit)
            axes.set_title(panel.title, loc="left", fontsize=10, color=SOFT, pad=6)
            if number + columns >= len(panels):
                axes.set_xlabel(x_label)
            if number % columns == 0:
                axes.set_ylabel(y_label)
        if legend:
            _draw_legends(figure, panels, right + 0.2 / width, 1 - 0.75 / whole)


def _set_axes(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    points = [p for series in (*panel.lines, *panel.marks) for p in series.points]
    x = [p[0] for p in points if p[0] > 0] + ([panel.limit] if panel.limit else [])
    y = [100 * p[1] for p in points] or [0.0, 100.0]
    low, high = (min(x) / 1.35, max(x) * 1.35) if x else (1.0, 10.0)
    lowest = min((100 * p[1] for series in panel.marks for p in series.points), default=min(y))
    bottom = max(lowest, max(y) - _SPAN)  # where deployments are; curves may come from below
    margin = max(1.0, 0.07 * (max(y) - bottom))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom - margin, max(y) + margin)
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0)
                                            if decades < 3.2 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: plain_number(v)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_limit(axes: Axes, panel: Panel, text: str) -> None:
    if panel.limit is None or not text:
        return
    axes.axvline(panel.limit, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1.5)
    low, high = axes.get_xlim()
    left = math.log(panel.limit / low) > 0.6 * math.log(high / low)  # written where there is room
    axes.annotate(text.format(panel.limit), (panel.limit, 0), (-4 if left else 4, 5),
                  xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8.5, color=INK, zorder=6,
                  ha="right" if left else "left")


def _draw_marks(axes: Axes, marks: Sequence[Series]) -> list[Mark]:
    """Draw one mark a series, at the lower edge where it is below the view; gives them back with their labels."""
    shown = []
    bottom = axes.get_ylim()[0]
    for series in marks:
        (x, y), style, ours = series.points[0], look(series.name), series.name == "autosplit"
        inside = 100 * y >= bottom
        axes.plot(x, max(100 * y, bottom), style.marker, markersize=_size(series.name), markerfacecolor=style.colour,
                  markeredgecolor=_edge(series.name), markeredgewidth=1.1, zorder=5 + ours, clip_on=False)
        text = style.label if inside else f"{style.label} ({100 * y:.0f} %)"
        shown.append(Mark(x, max(100 * y, bottom), text, ours, INK if style.colour == GOLD else style.colour))
    return shown


def _draw_legends(figure: Figure, panels: Sequence[Panel], left: float, top: float) -> None:
    """Lines and marks that occur anywhere, each once, in the order of the looks."""
    from matplotlib.lines import Line2D

    lines = _occurring([s.name for p in panels for s in p.lines])
    marks = _occurring([s.name for p in panels for s in p.marks])
    both = bool(lines and marks)
    groups = {
        "frontiers (F1)": [Line2D([], [], color=look(n).colour, linewidth=2.2, label=look(n).label, markersize=5,
                                  marker="" if both else look(n).marker) for n in lines],
        "chosen (F3)": [Line2D([], [], linestyle="", marker=look(n).marker, markersize=_size(n) * 0.75,
                               markerfacecolor=look(n).colour, markeredgecolor=_edge(n), label=look(n).label)
                        for n in marks],
    }
    for title, handles in groups.items():
        if handles:
            figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left, top), frameon=False, fontsize=8.5,
                          title=title if both else None, title_fontproperties={"weight": "bold", "size": 8.5},
                          borderaxespad=0.0, labelspacing=0.55, handlelength=1.6, alignment="left")
            top -= (0.19 * len(handles) + 0.45) / figure.get_size_inches()[1]


def _size(name: str) -> float:
    return {"autosplit": 17.0, "nested": 17.0, "two-step": 11.0, "raw": 11.0}.get(name, 8.5)


def _edge(name: str) -> str:
    return INK if name == "autosplit" else "white"


def _occurring(names: Sequence[str]) -> list[str]:
    known = list(LOOKS)
    return sorted(set(names), key=lambda n: (known.index(n) if n in known else len(known), n))


def _columns(series: Series) -> tuple[list[float], list[float]]:
    """x, and y in per cent."""
    return [p[0] for p in series.points], [100 * p[1] for p in series.points]
