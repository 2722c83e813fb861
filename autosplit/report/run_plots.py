"""The other figures of a run as files: stages, energy, heat map, progress of the search, sensitivity to the link."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.plan import Outcome
from autosplit.core.result import Result
from autosplit.report.figures import Bars, HeatMap, SearchCurve, energy_bars, shortened, stage_bars
from autosplit.report.page import measured_plans, sensitivity_of
from autosplit.report.plots import tradeoff_figure
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import (
    GOLD,
    GRID,
    INK,
    RED,
    SOFT,
    STAGE_COLOURS,
    figure_file,
    level_range,
    nice_ticks,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figures", "energy_figure", "heat_map_figure", "search_curve_figure",
           "sensitivity_figure", "stages_figure"]

_BAR_INCHES = 0.55
_FRAME_INCHES = 1.65  # title, axis and legend around bars or cells
_LEGEND_INCHES = 0.3
_LEFT = 0.2
_WRAP = 20
_CELL_INCHES = 0.5
_DARK_CELL = 0.6  # share of the colour scale below which figures in a cell are white


def draw_figures(result: Result, outcomes: Sequence[Outcome], folder: Path, kind: str) -> list[Path]:
    """Write every figure of the report as a file.

    Args:
        result: What the search found.
        outcomes: Its ledger, in the order of the search.
        folder: Made where it does not exist.
        kind: `png` or `svg`.

    Returns:
        The files: `tradeoff`, `stages`, `energy`, `heat-map`, `search-curve`, and `sensitivity` unless the latency
        model is not at hand.

    Raises:
        ConfigError: A file cannot be written.
    """
    budget, rows = result.scenario.conditions.budget_ms, result.comparison
    measured = measured_plans(outcomes)
    names = ("tradeoff", "stages", "energy", "heat-map", "search-curve")
    paths = [folder / f"{name}.{kind}" for name in names]
    tradeoff_figure(outcomes, rows, result.outcome, paths[0])
    stages_figure(stage_bars(rows, budget), budget, paths[1])
    energy_figure(energy_bars(rows), paths[2])
    heat_map_figure(HeatMap.of(measured), paths[3])
    search_curve_figure(SearchCurve.of(measured), result.scenario.objective.partition(":")[0], paths[4])
    sensitivity, _ = sensitivity_of(result, outcomes)
    if sensitivity is not None:
        paths.append(folder / f"sensitivity.{kind}")
        sensitivity_figure(sensitivity, paths[-1])
    return paths


def stages_figure(bars: Bars, budget_ms: float, path: Path) -> None:
    """Stacked bars of the five stages, with the p95 of each deployment and the budget.

    Args:
        bars: Of `figures.stage_bars`.
        budget_ms: The deadline.
        path: File to write.
    """
    with _bar_figure(bars, path) as figure:
        axes = _bar_axes(figure, bars, "Where the time goes", "milliseconds (stages: medians)")
        begin = np.zeros(len(bars.rows))
        for stage, values in bars.parts.items():
            length = np.clip(np.asarray(values), 0, np.maximum(bars.limit - begin, 0))
            axes.barh(range(len(bars.rows)), length, left=begin, height=0.6, color=STAGE_COLOURS[stage], label=stage)
            begin = begin + length
        inside = [i for i, cut in enumerate(bars.cut) if not cut]
        axes.plot([bars.totals[i] for i in inside], inside, "|", markersize=17, markeredgewidth=2, color=INK,
                  label="p95, end to end")
        axes.axvline(budget_ms, color=RED, linewidth=1.3, linestyle=(0, (5, 3)), label=f"budget {budget_ms:g} ms")
        _write_totals(axes, bars, "ms")
        _legend_above(axes, [*STAGE_COLOURS, "p95, end to end", f"budget {budget_ms:g} ms"])


def energy_figure(bars: Bars, path: Path) -> None:
    """Energy of the device for one inference.

    Args:
        bars: Of `figures.energy_bars`.
        path: File to write.
    """
    with _bar_figure(bars, path, -_LEGEND_INCHES) as figure:
        axes = _bar_axes(figure, bars, "Energy of the device", "millijoules an inference")
        axes.barh(range(len(bars.rows)), np.minimum(bars.totals, bars.limit), height=0.6,
                  color=[GOLD if row.chosen else SOFT for row in bars.rows])
        _write_totals(axes, bars, "mJ")


def heat_map_figure(found: HeatMap, path: Path) -> None:
    """The most accurate measured plan of each split point and payload size.

    Args:
        found: Of `figures.HeatMap.of`.
        path: File to write.
    """
    levels = found.accuracy
    rows, columns = levels.shape
    size = max(6.5, 0.85 * columns + 2.6), max(3.6, _CELL_INCHES * rows + _FRAME_INCHES + 0.4)
    with figure_file(path, size=size) as figure:
        axes = figure.add_axes((1.5 / size[0], 1.05 / size[1], (size[0] - 2.4) / size[0], (size[1] - 1.7) / size[1]))
        _title(figure, axes, "Accuracy over split and compression",
               "best measured plan of each cell, per cent, validation images (F1)")
        image = _draw_levels(figure, axes, levels)
        axes.set_yticks(range(rows), [shortened(s, _WRAP) for s in found.splits])
        axes.set_xticks(range(columns), found.sizes, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_xlabel("payload")
        axes.set_ylabel("split point")
        for row, column in np.argwhere(np.isfinite(levels)):
            level = levels[row, column]
            axes.text(column, row, f"{level:.0f}", ha="center", va="center", fontsize=9,
                      color="white" if image.norm(level) < _DARK_CELL else INK)
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="both", length=0)


def search_curve_figure(curve: SearchCurve, objective: str, path: Path) -> None:
    """Best reward so far against the number of measurements.

    Args:
        curve: Of `figures.SearchCurve.of`.
        objective: Name of the reward.
        path: File to write.
    """
    bottom, top = curve.view
    with figure_file(path, size=(8.5, 4.6)) as figure:
        axes = figure.add_axes((0.1, 0.13, 0.87, 0.68))
        _title(figure, axes, "The search, measurement by measurement", "the best reward after each measurement")
        for feasible, label in ((True, "in time"), (False, "too late")):
            mine = [i for i, o in enumerate(curve.outcomes) if o.feasible is feasible]
            if mine:
                axes.scatter([i + 1 for i in mine], [max(curve.outcomes[i].reward, bottom) for i in mine], s=18,
                             facecolors=SOFT if feasible else "none", edgecolors=SOFT, label=label, clip_on=False)
        since = [i for i, at in enumerate(curve.best) if at >= 0]
        axes.step([i + 1 for i in since], [curve.outcomes[curve.best[i]].reward for i in since], where="post",
                  color="#0072b2", linewidth=2.2, label="best so far")
        axes.plot([i + 1 for i in curve.records], [curve.outcomes[i].reward for i in curve.records], "D",
                  color=GOLD, markeredgecolor=INK, markersize=7, label="new best")
        axes.set_xlim(0, len(curve.outcomes) + 1)
        axes.set_ylim(bottom, top)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("measurements")
        axes.set_ylabel(f"reward ({objective})")
        _legend_above(axes, ["in time", "too late", "best so far", "new best"])


def sensitivity_figure(found: Sensitivity, path: Path) -> None:
    """Accuracy of the best measured plan over link rate and budget.

    Args:
        found: The grid.
        path: File to write.
    """
    with figure_file(path, size=(7.6, 5.2)) as figure:
        axes = figure.add_axes((0.12, 0.12, 0.8, 0.72))
        _title(figure, axes, "If link or budget change",
               "accuracy of the best measured plan, per cent (F1); circle: as searched; empty: nothing is in time")
        _draw_levels(figure, axes, found.accuracy, origin="lower")
        r, b = found.home
        axes.plot(b, r, "o", markersize=13, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2.5)
        axes.set_xticks(*nice_ticks(found.budgets_ms, b))
        axes.set_yticks(*nice_ticks(found.rates_kbps, r))
        axes.set_xlabel("budget (ms)")
        axes.set_ylabel("uplink (kb/s)")
        axes.tick_params(length=0)


# --- what they share -----------------------------------------------------------------------------------------------


def _bar_figure(bars: Bars, path: Path, more_inches: float = 0.0) -> Any:
    return figure_file(path, size=(9.0, _BAR_INCHES * len(bars.rows) + _FRAME_INCHES + more_inches))


def _bar_axes(figure: Figure, bars: Bars, title: str, label: str) -> Axes:
    height = figure.get_size_inches()[1]
    axes = figure.add_axes((_LEFT, 0.6 / height, 0.97 - _LEFT, _BAR_INCHES * len(bars.rows) / height))
    _title(figure, axes, title, "")
    names = ["\n".join(textwrap.wrap(row.name, _WRAP)) for row in bars.rows]
    axes.set_yticks(range(len(names)), names)
    for text, row in zip(axes.get_yticklabels(), bars.rows, strict=True):
        text.set_color(INK)
        text.set_fontweight("bold" if row.chosen else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * bars.limit)
    axes.set_xlabel(label)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes


def _write_totals(axes: Axes, bars: Bars, unit: str) -> None:
    for place, (total, cut, row) in enumerate(zip(bars.totals, bars.cut, bars.rows, strict=True)):
        axes.annotate(f"{short_number(total)} {unit}{' (cut)' if cut else ''}", (min(total, bars.limit), place), (7, 0),
                      textcoords="offset points", va="center", fontsize=9.5, color=INK, zorder=6,
                      fontweight="bold" if row.chosen else "normal",
                      bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"})


def _draw_levels(figure: Figure, axes: Axes, levels: Any, origin: Any = "upper") -> Any:
    """A heat map that tells the better plans apart, with its scale."""
    low, top = level_range(levels)
    image = axes.imshow(levels, cmap="viridis", aspect="auto", origin=origin, vmin=low, vmax=top)
    scale = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    scale.ax.set_title("%", fontsize=9, color=SOFT)
    scale.outline.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _title(figure: Figure, axes: Axes, title: str, note: str) -> None:
    left, height = axes.get_position().x0, figure.get_size_inches()[1]
    figure.text(left, 1 - 0.28 / height, title, fontsize=13, fontweight="bold", color=INK, va="center")
    if note:
        figure.text(left, 1 - 0.52 / height, note, fontsize=9, color=SOFT, va="center")


def _legend_above(axes: Axes, order: Sequence[str]) -> None:
    known = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [label for label in order if label in known]
    axes.legend([known[label] for label in shown], shown, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(shown),
                frameon=False, fontsize=9, borderaxespad=0.2, handletextpad=0.5, columnspacing=1.3, handlelength=1.4)

