"""The figure of a run that stands in papers: accuracy against latency, with budget, baselines and the chosen plan."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.comparison import ComparisonRow
from autosplit.core.plan import Outcome
from autosplit.report.figures import View, depth_order, few, front_of, role, shortened, view_of
from autosplit.report.labels import Mark, draw_labels
from autosplit.report.pareto import one_a_plan
from autosplit.report.style import GOLD, GRID, INK, RED, SOFT, figure_file, plain_number, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["tradeoff_figure"]

_BASELINE_MARKERS = ("s", "D", "^", "v", "P", "X")
_LEFT = 0.075
_LONGEST_NAME = 18


def tradeoff_figure(outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], best: Outcome, path: Path) -> None:
    """Draw accuracy against p95 latency: measured plans, Pareto front, budget, baselines and the chosen plan.

    Args:
        outcomes: Measured plans (validation accuracy) under one set of conditions.
        rows: The comparison (test accuracy); the row that is `chosen` is the star, the others are baselines.
        best: The chosen outcome; the star stands here when no row is `chosen`.
        path: File to write: `.png`, `.svg` or `.pdf`.

    Raises:
        ConfigError: The file cannot be written or its format is not one of these.
    """
    with figure_file(path) as figure:
        figure.subplots_adjust(left=_LEFT, right=0.83, top=0.84, bottom=0.15)
        _draw(figure, one_a_plan(outcomes), rows, best)


def _draw(figure: Figure, outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], best: Outcome) -> None:
    axes = figure.add_subplot()
    marks = _marks(rows, best)
    view = view_of(outcomes, [(m.x, m.y) for m in marks], next((m.x, m.y) for m in marks if m.chosen), best.budget_ms)
    _set_axes(axes, view)
    budget_box = _draw_budget(axes, view, best.budget_ms)
    _draw_plans(axes, outcomes)
    front = _draw_front(axes, outcomes, view)
    visible = _draw_marks(axes, marks, view)
    _draw_footnote(figure, outcomes, rows, view)
    _draw_title(figure, rows, best)
    obstacles = [(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes]
    obstacles += [(m.x, m.y) for m in visible for _ in range(10)] + front
    obstacles += [(best.budget_ms, float(level)) for level in np.linspace(view.bottom, view.top, 40)]
    draw_labels(axes, visible, obstacles, [budget_box])


def _marks(rows: Sequence[ComparisonRow], best: Outcome) -> list[Mark]:
    marks = [Mark(r.latency.p95_ms, r.accuracy * 100, f"{r.name}\n{_point(r.accuracy, r.latency.p95_ms)}", r.chosen,
                  INK if r.chosen else RED) for r in rows]
    if not any(m.chosen for m in marks):
        accuracy, p95 = best.measurement.accuracy, best.latency.p95_ms
        marks.append(Mark(p95, accuracy * 100, f"{role(best)}\n{_point(accuracy, p95)}", True))
    return marks


def _point(accuracy: float, p95_ms: float) -> str:
    return f"{accuracy * 100:.1f} %, {_ms(p95_ms)}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 20 else f"{value:.3g} ms"


def _set_axes(axes: Axes, view: View) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(view.left, view.right)
    axes.set_ylim(view.bottom, view.top)
    axes.xaxis.set_major_locator(LogLocator(subs=_tick_multiples(math.log10(view.right / view.left))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: plain_number(v)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    levels = MaxNLocator(7).tick_values(view.bottom, view.top)
    axes.set_yticks([v for v in levels if view.bottom <= v <= 100], minor=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("end-to-end latency, 95th percentile (ms, log scale)")
    axes.set_ylabel("top-1 accuracy (%)")


def _tick_multiples(decades: float) -> tuple[float, ...]:
    """Which multiples of each power of ten carry a label, so that neither too few nor too many do."""
    for limit, multiples in ((1.3, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)), (2.0, (1.0, 2.0, 3.0, 5.0)),
                             (3.2, (1.0, 2.0, 5.0))):
        if decades < limit:
            return multiples
    return (1.0,)


def _draw_budget(axes: Axes, view: View, budget_ms: float) -> Any:
    axes.axvspan(min(budget_ms, view.right), view.right, color="#000000", alpha=0.05, linewidth=0, zorder=0)
    axes.axvline(budget_ms, color=INK, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1.5)
    return axes.annotate(f"budget {budget_ms:g} ms", (budget_ms, 0), (4, 5), xycoords=("data", "axes fraction"),
                         textcoords="offset points", fontsize=9, color=INK, zorder=6)


def _draw_plans(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Dots coloured by split point, shallow to deep; hollow when infeasible."""
    from matplotlib.lines import Line2D

    splits = depth_order(outcomes)
    handles = []
    for split, shade in zip(splits, shades(len(splits)), strict=True):
        mine = [o for o in outcomes if o.plan.split == split]
        for feasible in (True, False):
            points = [(o.latency.p95_ms, o.measurement.accuracy * 100) for o in mine if o.feasible is feasible]
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.scatter(x, y, s=26, facecolors=[shade] if feasible else "none", edgecolors=[shade],
                         linewidths=1.1, alpha=0.9, zorder=3)
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=5.5, color=shade,
                              label=shortened(split, _LONGEST_NAME)))
    _draw_legend(axes, handles)


def _draw_legend(axes: Axes, splits: list[Any]) -> None:
    from matplotlib.lines import Line2D

    splits = few(splits)
    kinds = [
        Line2D([], [], linestyle="", marker="o", markersize=5.5, color=SOFT, label="within budget"),
        Line2D([], [], linestyle="", marker="o", markersize=5.5, color=SOFT, fillstyle="none", label="too late"),
        Line2D([], [], color=INK, linewidth=1.4, label="Pareto front"),
    ]
    more: dict[str, Any] = {"frameon": False, "fontsize": 9, "borderaxespad": 0.0, "handletextpad": 0.4,
                            "labelspacing": 0.45, "alignment": "left", "title_fontproperties": {"weight": "bold"}}
    first = axes.legend(handles=kinds, loc="upper left", bbox_to_anchor=(1.02, 1.0), title="plans", **more)
    axes.add_artist(first)
    axes.legend(handles=splits, loc="upper left", bbox_to_anchor=(1.02, 0.72), title="split point", **more)


def _draw_front(axes: Axes, outcomes: Sequence[Outcome], view: View) -> list[tuple[float, float]]:
    """Draw the front as steps; gives points along it, for labels to keep away from."""
    if not outcomes:
        return []
    front = front_of(outcomes)
    x = np.append(front[:, 0], max(view.right, front[-1, 0]))
    y = np.append(front[:, 1], front[-1, 1])
    axes.step(x, y, where="post", color=INK, linewidth=1.4, zorder=2.5)
    along = np.geomspace(max(front[0, 0], view.left), view.right, 80)
    levels = y[np.clip(np.searchsorted(x, along, side="right") - 1, 0, len(y) - 1)]
    return [(float(a), float(b)) for a, b in zip(along, levels, strict=True)]


def _draw_marks(axes: Axes, marks: Sequence[Mark], view: View) -> list[Mark]:
    """Draw baselines and the star; gives them back where they are drawn."""
    drawn = []
    others = [m for m in marks if not m.chosen]
    for i, mark in enumerate(others):
        shape = _BASELINE_MARKERS[i % len(_BASELINE_MARKERS)]
        shown = Mark(min(max(mark.x, view.left * 1.03), view.right / 1.03),
                     min(max(mark.y, view.bottom), view.top), mark.text, colour=mark.colour)
        if mark.x > view.right:
            shape = ">"
            shown = replace(shown, text=f"{mark.text} (off scale)")
        axes.plot(shown.x, shown.y, shape, markersize=8.5, markerfacecolor="white", markeredgecolor=RED,
                  markeredgewidth=1.8, zorder=4, clip_on=False)
        drawn.append(shown)
    star = next(m for m in marks if m.chosen)
    axes.plot(star.x, star.y, "*", markersize=20, markerfacecolor=GOLD, markeredgecolor=INK,
              markeredgewidth=1.2, zorder=5, clip_on=False)
    return [*sorted(drawn, key=lambda m: -m.x), star]


def _draw_title(figure: Figure, rows: Sequence[ComparisonRow], best: Outcome) -> None:
    figure.text(_LEFT, 0.945, _verdict(rows, best), fontsize=13, fontweight="bold", color=INK, va="center")
    plan = textwrap.shorten(best.plan.label, 110, placeholder=" ...")
    figure.text(_LEFT, 0.895, f"{role(best)}: {plan}", fontsize=10, color=SOFT, va="center")


def _verdict(rows: Sequence[ComparisonRow], best: Outcome) -> str:
    row = next((r for r in rows if r.chosen), None)
    accuracy = row.accuracy if row else best.measurement.accuracy
    p95 = row.latency.p95_ms if row else best.latency.p95_ms
    if p95 > best.budget_ms:
        return f"No plan meets {best.budget_ms:g} ms; the least late takes {_ms(p95)} at {accuracy * 100:.1f} %"
    gain = ""
    if row and row.speed_up:
        factor = f"{row.speed_up:.1f}x faster" if row.speed_up >= 1.05 else "no faster"
        gain = f", {factor} than any baseline that loses at most 1 point"
    return f"{accuracy * 100:.1f} % accuracy within {best.budget_ms:g} ms{gain}"


def _draw_footnote(figure: Figure, outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], view: View) -> None:
    hidden = sum(not view.holds(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes)
    text = f"Dots: {len(outcomes)} measured plans, validation images."
    if rows:
        text += f" {'Star and red marks' if any(r.chosen for r in rows) else 'Red marks'}: test images."
    if hidden:
        text += f" {hidden} dot{' lies' if hidden == 1 else 's lie'} outside this view."
    figure.text(_LEFT, 0.022, text, fontsize=8.5, color=SOFT)
