"""Figures: accuracy against latency, with the budget, the baselines and the chosen plan; and the Pareto front."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autosplit.plan import INPUT, OUTPUT, Outcome
from autosplit.report.labels import Mark, draw_labels
from autosplit.report.style import GOLD, GRID, INK, RED, SOFT, figure_file, plain_number
from autosplit.report.tables import ComparisonRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto_frame", "pareto_mask", "tradeoff_figure"]

_BASELINE_MARKERS = ("s", "D", "^", "v", "P", "X")
_LEGEND_SPLITS = 8
_LEFT = 0.075
_ACCURACY_SPAN = 45.0
_OFF_SCALE = 6.0


def pareto_mask(costs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates; of exact duplicates all or none.

    Args:
        costs: Points by objectives, each objective the lower the better.

    Returns:
        One truth value a point.
    """
    points = np.asarray(costs, dtype=float)
    keep = np.ones(len(points), dtype=bool)
    for i, point in enumerate(points):
        keep[i] = not bool(np.any(np.all(points <= point, axis=1) & np.any(points < point, axis=1)))
    return keep


def pareto_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The plans that no other plan beats in accuracy, p95 latency and energy at once, fastest first.

    A plan recorded more than once counts with its highest fidelity, the latest record of it.

    Args:
        outcomes: Outcomes under one set of conditions, in the order of the search.

    Returns:
        One line a plan: plan, split, sparsity, codec, fidelity, accuracy, payload_bytes, compression_ratio,
        device_macs, p50_ms, p95_ms, in_time, energy_mj, budget_ms, feasible, reward.
    """
    import pandas as pd

    frame = pd.DataFrame([_record(o) for o in _one_a_plan(outcomes)], columns=list(_COLUMNS))
    costs = np.column_stack([-frame["accuracy"].to_numpy(dtype=float), frame["p95_ms"].to_numpy(dtype=float),
                             frame["energy_mj"].to_numpy(dtype=float)])
    front: pd.DataFrame = frame[pareto_mask(costs)].sort_values(["p95_ms", "accuracy"], kind="stable",
                                                                ignore_index=True)
    return front


_COLUMNS = ("plan", "split", "sparsity", "codec", "fidelity", "accuracy", "payload_bytes", "compression_ratio",
            "device_macs", "p50_ms", "p95_ms", "in_time", "energy_mj", "budget_ms", "feasible", "reward")


def _record(outcome: Outcome) -> dict[str, Any]:
    measured, plan, times = outcome.measurement, outcome.plan, outcome.latency
    work = measured.workload
    sparsity = plan.sparsity
    return {
        "plan": plan.label, "split": plan.split, "codec": plan.codec.label, "fidelity": measured.fidelity,
        "sparsity": " ".join(map(str, sparsity)) if isinstance(sparsity, tuple) else sparsity,
        "accuracy": measured.accuracy, "payload_bytes": work.payload_bytes_mean,
        "compression_ratio": measured.compression_ratio, "device_macs": work.device.macs + work.encode.macs,
        "p50_ms": times.p50_ms, "p95_ms": times.p95_ms, "in_time": times.in_time, "energy_mj": times.energy_mj,
        "budget_ms": outcome.budget_ms, "feasible": outcome.feasible, "reward": outcome.reward,
    }


def _one_a_plan(outcomes: Sequence[Outcome]) -> list[Outcome]:
    kept: dict[Any, Outcome] = {}
    for outcome in outcomes:
        known = kept.get(outcome.plan)
        if known is None or outcome.measurement.fidelity >= known.measurement.fidelity:
            kept[outcome.plan] = outcome
    return list(kept.values())


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
        _draw(figure, _one_a_plan(outcomes), rows, best)


@dataclass(frozen=True)
class _View:
    """The visible part of the plane: milliseconds and per cent."""

    left: float
    right: float
    bottom: float
    top: float

    def holds(self, ms: float, percent: float) -> bool:
        return self.left <= ms <= self.right and self.bottom <= percent <= self.top


def _draw(figure: Figure, outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], best: Outcome) -> None:
    axes = figure.add_subplot()
    marks = _marks(rows, best)
    view = _view(outcomes, marks, best.budget_ms)
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
        marks.append(Mark(p95, accuracy * 100, f"{_role(best)}\n{_point(accuracy, p95)}", True))
    return marks


def _role(best: Outcome) -> str:
    return "chosen plan" if best.feasible else "least late plan"


def _point(accuracy: float, p95_ms: float) -> str:
    return f"{accuracy * 100:.1f} %, {_ms(p95_ms)}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 20 else f"{value:.3g} ms"


def _view(outcomes: Sequence[Outcome], marks: Sequence[Mark], budget_ms: float) -> _View:
    chosen = next(m for m in marks if m.chosen)
    times = [o.latency.p95_ms for o in outcomes] + [m.x for m in marks] + [budget_ms]
    reach = _OFF_SCALE * max(budget_ms, chosen.x)
    levels = [o.measurement.accuracy * 100 for o in outcomes] + [m.y for m in marks]
    top = max(levels)
    bottom = max(min(levels), min(top - _ACCURACY_SPAN, chosen.y))
    margin = max(1.0, 0.06 * (top - bottom))
    low = max(min(t for t in times if t > 0), min(budget_ms, chosen.x) / 50)
    high = max(t for t in times if t <= reach)
    room = 1.3 if high == max(times) else 1.6  # marks off the scale stand at the edge
    return _View(low / 1.2, high * room, bottom - margin, top + 3.2 * margin)


def _set_axes(axes: Axes, view: _View) -> None:
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


def _draw_budget(axes: Axes, view: _View, budget_ms: float) -> Any:
    axes.axvspan(min(budget_ms, view.right), view.right, color="#000000", alpha=0.05, linewidth=0, zorder=0)
    axes.axvline(budget_ms, color=INK, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1.5)
    return axes.annotate(f"budget {budget_ms:g} ms", (budget_ms, 0), (4, 5), xycoords=("data", "axes fraction"),
                         textcoords="offset points", fontsize=9, color=INK, zorder=6)


def _depth_order(outcomes: Sequence[Outcome]) -> list[str]:
    """Split points from shallow to deep: by the work of the least pruned head seen; `input` first, `output` last."""
    depth: dict[str, float] = {}
    for o in outcomes:
        depth[o.plan.split] = max(depth.get(o.plan.split, 0.0), o.measurement.workload.device.macs)
    return sorted(depth, key=lambda split: (split == OUTPUT, split != INPUT, depth[split], split))


def _draw_plans(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Dots coloured by split point, shallow to deep; hollow when infeasible."""
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    splits = _depth_order(outcomes)
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.87, len(splits)))
    handles = []
    for split, shade in zip(splits, shades, strict=True):
        mine = [o for o in outcomes if o.plan.split == split]
        for feasible in (True, False):
            points = [(o.latency.p95_ms, o.measurement.accuracy * 100) for o in mine if o.feasible is feasible]
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.scatter(x, y, s=26, facecolors=[shade] if feasible else "none", edgecolors=[shade],
                         linewidths=1.1, alpha=0.9, zorder=3)
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=5.5, color=tuple(shade), label=split))
    _draw_legend(axes, handles)


def _draw_legend(axes: Axes, splits: list[Any]) -> None:
    from matplotlib.lines import Line2D

    if len(splits) > _LEGEND_SPLITS:  # an even choice, ends included
        picked = np.unique(np.linspace(0, len(splits) - 1, _LEGEND_SPLITS).round().astype(int))
        splits = [splits[i] for i in picked]
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


def _draw_front(axes: Axes, outcomes: Sequence[Outcome], view: _View) -> list[tuple[float, float]]:
    """Draw the front as steps; gives points along it, for labels to keep away from."""
    if not outcomes:
        return []
    points = np.array([(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes])
    front = points[pareto_mask(points * [1, -1])]
    front = np.unique(front, axis=0)
    x = np.append(front[:, 0], max(view.right, front[-1, 0]))
    y = np.append(front[:, 1], front[-1, 1])
    axes.step(x, y, where="post", color=INK, linewidth=1.4, zorder=2.5)
    along = np.geomspace(max(front[0, 0], view.left), view.right, 80)
    levels = y[np.clip(np.searchsorted(x, along, side="right") - 1, 0, len(y) - 1)]
    return [(float(a), float(b)) for a, b in zip(along, levels, strict=True)]


def _draw_marks(axes: Axes, marks: Sequence[Mark], view: _View) -> list[Mark]:
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
    figure.text(_LEFT, 0.895, f"{_role(best)}: {plan}", fontsize=10, color=SOFT, va="center")


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


def _draw_footnote(figure: Figure, outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], view: _View) -> None:
    hidden = sum(not view.holds(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes)
    text = f"Dots: {len(outcomes)} measured plans, validation images."
    if rows:
        text += f" {'Star and red marks' if any(r.chosen for r in rows) else 'Red marks'}: test images."
    if hidden:
        text += f" {hidden} dot{' lies' if hidden == 1 else 's lie'} outside this view."
    figure.text(_LEFT, 0.022, text, fontsize=8.5, color=SOFT)
