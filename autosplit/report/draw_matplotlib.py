"""Figures as files (PNG, SVG, PDF), drawn by matplotlib: plotly would need a browser for that."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.result import Result
from autosplit.report.charts import Axis, Bars, Cells, Chart, Figure, Trace
from autosplit.report.deployment_map import DeploymentMap
from autosplit.report.figures import run_figures
from autosplit.report.labels import Label, Point, draw_labels
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import GOLD, GRID, INK, SOFT, figure_file, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_figures", "write_figure"]

_MOST_COLUMNS = 4
_DARK_CELL = 0.6  # share of the colour scale below which numbers in a cell are white
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "handletextpad": 0.5, "labelspacing": 0.5,
                           "handlelength": 1.5}


def draw_figures(
    result: Result, outcomes: Sequence[Outcome], folder: Path, kind: str, baselines: Sequence[Measurement] = ()
) -> list[Path]:
    """Write every figure of the report as a file.

    Args:
        result: What the search found.
        outcomes: Its ledger, in the order of the search.
        baselines: What its baselines measured.
        folder: Made where it does not exist.
        kind: `png` or `svg`.

    Returns:
        The files: `tradeoff`, `stages`, `energy`, `heat-map`, `search-curve`, and `sensitivity` and `map` unless the
        latency model is not at hand.

    Raises:
        ConfigError: A file cannot be written.
    """
    sensitivity, _ = Sensitivity.of_run(result, outcomes)
    found, _ = DeploymentMap.of_run(result, outcomes, baselines)
    figures = run_figures(result, outcomes, sensitivity, found)
    figures.pop("sensitivity-plans", None)  # belongs to the page's sliders
    paths = [folder / f"{name}.{kind}" for name in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        write_figure(figure, path)
    return paths


def write_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure to files, its charts side by side; equal input gives equal bytes.

    Args:
        figure: What is shown.
        paths: Files to write: `.png`, `.svg` or `.pdf`.

    Raises:
        ConfigError: A file cannot be written or its format is not one of these.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    charts = figure.charts
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(len(charts))))
    rows = math.ceil(len(charts) / columns)
    first = charts[0]
    if len(charts) > 1:
        width, height = 4.1 * columns + 2.6, 3.3 * rows + 1.2
    elif first.bars is not None:
        width, height = 9.0, 0.55 * len(first.bars.rows) + 1.9
    elif first.cells is not None and first.cells.written:
        width, height = 0.85 * first.cells.levels.shape[1] + 2.6, 0.5 * first.cells.levels.shape[0] + 2.2
    else:
        width, height = 10.0, 5.8
    width, height = max(width, 7.0), max(height, 3.6)
    with figure_file(*paths, size=(width, height)) as canvas:
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        canvas.set_layout_engine(engine)
        edge = 0.12 / width
        canvas.suptitle(textwrap.fill(figure.finding or figure.title, int(9.2 * width)), x=edge, ha="left",
                        fontsize=13, fontweight="bold")
        canvas.supxlabel(textwrap.fill(figure.note, int(15 * width)), x=edge, ha="left", fontsize=8.5, color=SOFT,
                         linespacing=1.35)
        grid = canvas.subplots(rows, columns, squeeze=False).flat
        for number, (axes, chart) in enumerate(zip(grid, charts, strict=False)):
            draw_chart(axes, chart)
            axes.set_xlabel(chart.x.title if number + columns >= len(charts) else "")
            axes.set_ylabel(chart.y.title if number % columns == 0 else "")
        for unused in grid[len(charts):]:
            unused.remove()
        handles = legend_handles(charts)
        if first.legend == "beside" and handles:
            legend = canvas.legend(handles=handles, loc="upper right", **_LEGEND,
                                   bbox_to_anchor=(1, 1 - 0.4 / height))
            for entry, text in zip(handles, legend.get_texts(), strict=True):
                if entry.get_gid() == "heading":  # bold, and from the left edge, since it has no mark
                    text.set(fontweight="bold", x=-4.0 * _LEGEND["fontsize"])
            legend.set_in_layout(False)
            engine.set(rect=(0, 0, 1 - legend.get_window_extent().width / canvas.bbox.width - 0.02, 1))
        # Labels look for places between what is drawn, so everything else must stand where it will stay.
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
        for axes, chart in zip(grid, charts, strict=False):
            place_labels(axes, chart)


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw all of a chart but its labels.

    Args:
        axes: Empty ones.
        chart: What is shown.
    """
    set_axis(axes, chart.x, "x")
    set_axis(axes, chart.y, "y")
    axes.set(axisbelow=True, xlim=chart.x.limits)
    if chart.cells is not None:
        draw_cells(axes, chart.cells)
    if chart.bars is not None:
        draw_bars(axes, chart.bars)
    for order, trace in enumerate(chart.traces):
        draw_trace(axes, trace, 3 + order / 100)
    axes.set(xlim=chart.x.limits, ylim=chart.y.limits)  # last, since images and bars move them
    if any(trace.label for trace in chart.traces):  # room for labels above the highest points
        low, high = chart.y.limits
        axes.set_ylim(low, high + 0.1 * (high - low))
    if chart.title:
        axes.set_title(chart.title, loc="left", fontsize=10, color=SOFT, pad=6)
    if (limit := chart.limit) is not None:
        if limit.shaded:
            axes.axvspan(limit.value, max(limit.value, chart.x.limits[1]), color="#000000", alpha=0.05, linewidth=0,
                         zorder=0)
        axes.axvline(limit.value, color=limit.colour, linewidth=1.3, linestyle=(0, (5, 3)),
                     zorder=4 if chart.bars else 1.5)
        low, high = np.log(chart.x.limits) if chart.x.log else chart.x.limits
        place = ((np.log(limit.value) if chart.x.log else limit.value) - low) / (high - low)
        # Above the chart, unless its title stands there: then at the bottom, on the side where there is room.
        side = "center" if not chart.title else "right" if place > 0.6 else "left"
        axes.annotate(limit.text, (limit.value, 0 if chart.title else 1),
                      ({"center": 0, "right": -4, "left": 4}[side], 5), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=9, color=limit.colour, zorder=6, ha=side)
    handles = legend_handles([chart])
    if chart.legend == "level" and handles:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), columnspacing=1.3,
                    borderaxespad=1.8 if chart.limit else 0.4, **_LEGEND)


def set_axis(axes: Axes, axis: Axis, which: Any) -> None:
    """Scale, ticks, grid and frame of the `x` or the `y` axis."""
    from matplotlib.ticker import NullFormatter

    drawn = axes.xaxis if which == "x" else axes.yaxis
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
        drawn.set_minor_formatter(NullFormatter())
    if axis.ticks:
        drawn.set_ticks([value for value, _ in axis.ticks], labels=[text for _, text in axis.ticks])
    if axis.bold is not None:
        drawn.get_ticklabels()[axis.bold].set(fontweight="bold", color=INK)
    if axis.grid:
        axes.grid(axis=which, color=GRID, linewidth=0.8)
    if axis.slanted:
        for text in drawn.get_ticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
    if not axis.frame:
        drawn.set_tick_params(length=0)
        axes.spines["bottom" if which == "x" else "left"].set_visible(False)


def draw_trace(axes: Axes, trace: Trace, order: float) -> None:
    """Draw points or a line; a point beyond the right end stands there as an arrow."""
    if trace.line:
        axes.plot(trace.x, trace.y, drawstyle="steps-post" if trace.line == "steps" else "default", color=trace.colour,
                  linewidth=trace.width, marker=trace.marker or None, markersize=trace.size, zorder=order,
                  markevery=trace.every, markeredgecolor=trace.edge or "none", markeredgewidth=0.6)
    elif trace.marker and trace.x:
        colours = np.array(trace.colour if isinstance(trace.colour, tuple) else [trace.colour] * len(trace.x))
        hollow = np.array(trace.hollow or [False] * len(trace.x))
        edges: Any = np.where(hollow, colours, trace.edge or colours) if trace.marker != "|" else None
        right = axes.get_xlim()[1] / 1.03 if trace.label else math.inf
        beyond = trace.x[0] > right
        alone = len(trace.x) == 1
        axes.scatter(np.minimum(trace.x, right), trace.y, s=trace.size**2, marker=">" if beyond else trace.marker,
                     facecolors=np.where(hollow, "none", colours), alpha=None if trace.opacity == 1 else trace.opacity,
                     edgecolors=edges, zorder=order,
                     linewidths=max(trace.width, 2.0) if trace.marker == "|" or (alone and hollow.any()) else 1.0,
                     clip_on=not alone)


def draw_cells(axes: Axes, cells: Cells) -> None:
    """Draw a heat map with the scale of its colours; a palette has none."""
    low, top = cells.limits
    if cells.palette:
        from matplotlib.colors import ListedColormap

        axes.imshow(cells.levels, cmap=ListedColormap(cells.palette), aspect="auto", vmin=-0.5,
                    vmax=len(cells.palette) - 0.5)
        return
    image: Any = axes.imshow(cells.levels, cmap="viridis", aspect="auto", vmin=low, vmax=top)
    figure: Any = axes.figure
    scale = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    scale.ax.set_title("%", fontsize=9, color=SOFT)
    scale.outline.set_visible(False)
    if cells.written:
        for row, column in np.argwhere(np.isfinite(cells.levels)):
            level = cells.levels[row, column]
            axes.text(column, row, f"{level:.0f}", ha="center", va="center", fontsize=9,
                      color="white" if image.norm(level) < _DARK_CELL else INK)
        rows, columns = cells.levels.shape  # white lines between the cells
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)


def draw_bars(axes: Axes, bars: Bars) -> None:
    """Draw horizontal bars up to the limit, with their totals."""
    places = range(len(bars.rows))
    begin = np.zeros(len(bars.rows))
    for part, lengths in bars.parts.items():
        shown = np.clip(np.asarray(lengths), 0, np.maximum(bars.limit - begin, 0))
        axes.barh(places, shown, left=begin, height=0.6, color=bars.colours[part], zorder=2)
        begin = begin + shown
    for place, total, cut, row in zip(places, bars.totals, bars.cut, bars.rows, strict=True):
        axes.annotate(quantity(total, bars.unit) + (" ▸" if cut else ""), (min(total, bars.limit), place), (7, 0),
                      textcoords="offset points", va="center", fontsize=9.5, color=INK, zorder=6,
                      fontweight="bold" if row.chosen else "normal",
                      bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"})


def legend_handles(charts: Sequence[Chart]) -> list[Any]:
    """An entry for each part of a bar and each trace that has a name and no label, once, under their headings."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colours[0], label=part) for chart in charts if chart.bars and
                          chart.legend != "none" for part, colours in chart.bars.colours.items()]
    groups: dict[str, dict[str, Trace]] = {}
    for trace in (trace for chart in charts for trace in chart.traces):
        if trace.name and not trace.label and trace.x:
            groups.setdefault(trace.group, {}).setdefault(trace.name, trace)
    for heading, traces in groups.items():
        if heading:
            handles.append(Line2D([], [], linestyle="", label="\n" * bool(handles) + heading, gid="heading"))
        for name, trace in traces.items():
            colour: Any = trace.colour if isinstance(trace.colour, str) else trace.colour[0]
            hollow = bool(trace.hollow) and trace.hollow[0]
            handles.append(Line2D([], [], linestyle="-" if trace.line else "", color=colour, label=name,
                                  linewidth=max(trace.width, 1.5), marker=trace.marker or None,
                                  markersize=min(trace.size, 11), markerfacecolor="none" if hollow else colour,
                                  markeredgecolor=colour if hollow or trace.marker == "|" else trace.edge or colour,
                                  markeredgewidth=2.0 if trace.marker == "|" else 1.0))
    return handles


def place_labels(axes: Axes, chart: Chart) -> None:
    """Write the labels of a chart's marks where they cover as little as possible."""
    if not any(trace.label for trace in chart.traces):
        return
    right = chart.x.limits[1] / 1.03
    obstacles: list[Point] = []
    labels = []
    for trace in chart.traces:
        if trace.line:  # a line is as many points as a label could cover
            low, high = max(trace.x[0], chart.x.limits[0]), min(trace.x[-1], chart.x.limits[1])
            along = np.geomspace(low, max(low, high), 80)
            held = np.searchsorted(trace.x, along, side="right") - 1
            obstacles += zip(along, np.asarray(trace.y)[np.clip(held, 0, len(trace.y) - 1)], strict=True)
        else:
            points = [(min(x, right), y) for x, y in zip(trace.x, trace.y, strict=True)]
            obstacles += points * (10 if trace.label else 1)
            if trace.label:
                text = trace.label + (" (off scale)" if trace.x[0] > right else "")
                colour = trace.colour if isinstance(trace.colour, str) else INK
                labels.append(Label(*points[0], text, trace.bold, INK if colour == GOLD else colour))
    if chart.limit is not None:
        obstacles += [(chart.limit.value, float(y)) for y in np.linspace(*axes.get_ylim(), 60)]
    if labels:
        draw_labels(axes, sorted(labels, key=lambda label: (label.bold, -label.x)), obstacles)
