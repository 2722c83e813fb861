"""Figures: accuracy against latency, with the budget, the baselines and the chosen plan; and the Pareto front.

Drawn with matplotlib's object interface (no pyplot, no global state, no display); equal input gives equal bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autosplit.errors import ConfigError
from autosplit.plan import INPUT, OUTPUT, Outcome
from autosplit.report.tables import ComparisonRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto_frame", "pareto_mask", "tradeoff_figure"]

_INK, _SOFT, _RED, _GOLD = "#222222", "#6b6b6b", "#b3261e", "#f5b800"
_BASELINE_MARKERS = ("s", "D", "^", "v", "P", "X")
_LEGEND_SPLITS = 8
_LEFT = 0.075
_ACCURACY_SPAN = 45.0
_OFF_SCALE = 6.0
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK,
    "xtick.color": _SOFT, "ytick.color": _SOFT, "axes.edgecolor": _SOFT, "axes.spines.top": False,
    "axes.spines.right": False, "svg.hashsalt": "autosplit", "svg.fonttype": "none", "pdf.fonttype": 42,
}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None}, ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


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
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix not in _METADATA:
        raise ConfigError(f"{path}: figures are written as {', '.join(_METADATA)}")
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(10.0, 5.8), dpi=150)
        FigureCanvasAgg(figure)
        figure.subplots_adjust(left=_LEFT, right=0.83, top=0.84, bottom=0.15)
        _draw(figure, _one_a_plan(outcomes), rows, best)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata=_METADATA[path.suffix])
        except OSError as e:
            raise ConfigError(f"cannot write {path}: {e.strerror or e}; give another directory with --out") from e


@dataclass(frozen=True)
class _View:
    """The visible part of the plane: milliseconds and per cent."""

    left: float
    right: float
    bottom: float
    top: float

    def holds(self, ms: float, percent: float) -> bool:
        return self.left <= ms <= self.right and self.bottom <= percent <= self.top


@dataclass(frozen=True)
class _Mark:
    """A labelled point: a baseline or the chosen plan, at the edge with an arrow when it is off the scale."""

    ms: float
    percent: float
    text: str
    chosen: bool = False


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
    obstacles += [(m.ms, m.percent) for m in visible for _ in range(10)] + front
    obstacles += [(best.budget_ms, float(level)) for level in np.linspace(view.bottom, view.top, 40)]
    _draw_labels(axes, visible, obstacles, [budget_box])


def _marks(rows: Sequence[ComparisonRow], best: Outcome) -> list[_Mark]:
    marks = [_Mark(r.latency.p95_ms, r.accuracy * 100, f"{r.name}\n{_point(r.accuracy, r.latency.p95_ms)}", r.chosen)
             for r in rows]
    if not any(m.chosen for m in marks):
        accuracy, p95 = best.measurement.accuracy, best.latency.p95_ms
        marks.append(_Mark(p95, accuracy * 100, f"{_role(best)}\n{_point(accuracy, p95)}", True))
    return marks


def _role(best: Outcome) -> str:
    return "chosen plan" if best.feasible else "least late plan"


def _point(accuracy: float, p95_ms: float) -> str:
    return f"{accuracy * 100:.1f} %, {_ms(p95_ms)}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 20 else f"{value:.3g} ms"


def _view(outcomes: Sequence[Outcome], marks: Sequence[_Mark], budget_ms: float) -> _View:
    chosen = next(m for m in marks if m.chosen)
    times = [o.latency.p95_ms for o in outcomes] + [m.ms for m in marks] + [budget_ms]
    reach = _OFF_SCALE * max(budget_ms, chosen.ms)
    levels = [o.measurement.accuracy * 100 for o in outcomes] + [m.percent for m in marks]
    top = max(levels)
    bottom = max(min(levels), min(top - _ACCURACY_SPAN, chosen.percent))
    margin = max(1.0, 0.06 * (top - bottom))
    low = max(min(t for t in times if t > 0), min(budget_ms, chosen.ms) / 50)
    high = max(t for t in times if t <= reach)
    room = 1.3 if high == max(times) else 1.6  # marks off the scale stand at the edge
    return _View(low / 1.2, high * room, bottom - margin, top + 3.2 * margin)


def _set_axes(axes: Axes, view: _View) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(view.left, view.right)
    axes.set_ylim(view.bottom, view.top)
    axes.xaxis.set_major_locator(LogLocator(subs=_tick_multiples(math.log10(view.right / view.left))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    levels = MaxNLocator(7).tick_values(view.bottom, view.top)
    axes.set_yticks([v for v in levels if view.bottom <= v <= 100], minor=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
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
    axes.axvline(budget_ms, color=_INK, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1.5)
    return axes.annotate(f"budget {budget_ms:g} ms", (budget_ms, 0), (4, 5), xycoords=("data", "axes fraction"),
                         textcoords="offset points", fontsize=9, color=_INK, zorder=6)


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
        Line2D([], [], linestyle="", marker="o", markersize=5.5, color=_SOFT, label="within budget"),
        Line2D([], [], linestyle="", marker="o", markersize=5.5, color=_SOFT, fillstyle="none", label="too late"),
        Line2D([], [], color=_INK, linewidth=1.4, label="Pareto front"),
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
    axes.step(x, y, where="post", color=_INK, linewidth=1.4, zorder=2.5)
    along = np.geomspace(max(front[0, 0], view.left), view.right, 80)
    levels = y[np.clip(np.searchsorted(x, along, side="right") - 1, 0, len(y) - 1)]
    return [(float(a), float(b)) for a, b in zip(along, levels, strict=True)]


def _draw_marks(axes: Axes, marks: Sequence[_Mark], view: _View) -> list[_Mark]:
    """Draw baselines and the star; gives them back where they are drawn."""
    drawn = []
    others = [m for m in marks if not m.chosen]
    for i, mark in enumerate(others):
        shape = _BASELINE_MARKERS[i % len(_BASELINE_MARKERS)]
        shown = _Mark(min(max(mark.ms, view.left * 1.03), view.right / 1.03),
                      min(max(mark.percent, view.bottom), view.top), mark.text)
        if mark.ms > view.right:
            shape = ">"
            shown = _Mark(shown.ms, shown.percent, f"{mark.text} (off scale)")
        axes.plot(shown.ms, shown.percent, shape, markersize=8.5, markerfacecolor="white", markeredgecolor=_RED,
                  markeredgewidth=1.8, zorder=4, clip_on=False)
        drawn.append(shown)
    star = next(m for m in marks if m.chosen)
    axes.plot(star.ms, star.percent, "*", markersize=20, markerfacecolor=_GOLD, markeredgecolor=_INK,
              markeredgewidth=1.2, zorder=5, clip_on=False)
    return [*sorted(drawn, key=lambda m: -m.ms), star]


def _draw_title(figure: Figure, rows: Sequence[ComparisonRow], best: Outcome) -> None:
    figure.text(_LEFT, 0.945, _verdict(rows, best), fontsize=13, fontweight="bold", color=_INK, va="center")
    plan = textwrap.shorten(best.plan.label, 110, placeholder=" ...")
    figure.text(_LEFT, 0.895, f"{_role(best)}: {plan}", fontsize=10, color=_SOFT, va="center")


def _verdict(rows: Sequence[ComparisonRow], best: Outcome) -> str:
    row = next((r for r in rows if r.chosen), None)
    accuracy = row.accuracy if row else best.measurement.accuracy
    p95 = row.latency.p95_ms if row else best.latency.p95_ms
    if p95 > best.budget_ms:
        return f"No plan meets {best.budget_ms:g} ms; the least late takes {_ms(p95)} at {accuracy * 100:.1f} %"
    gain = ""
    if row and row.speed_up:
        factor = f"{row.speed_up:.1f}x faster" if row.speed_up >= 1.05 else "no faster"
        gain = f", {factor} than the best trivial deployment"
    return f"{accuracy * 100:.1f} % accuracy within {best.budget_ms:g} ms{gain}"


def _draw_footnote(figure: Figure, outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], view: _View) -> None:
    hidden = sum(not view.holds(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes)
    text = f"Dots: {len(outcomes)} measured plans, validation images."
    if rows:
        text += f" {'Star and red marks' if any(r.chosen for r in rows) else 'Red marks'}: test images."
    if hidden:
        text += f" {hidden} plans lie outside this view."
    figure.text(_LEFT, 0.022, text, fontsize=8.5, color=_SOFT)


# --- labels that do not overlap -------------------------------------------------------------------------------

_ROUNDS = 4
_DIRECTIONS = ((1, 0), (0, 1), (0.7, 0.7), (-0.7, 0.7), (-1, 0), (0, -1), (0.7, -0.7), (-0.7, -0.7),
               (0.2, 1), (-0.2, 1), (0.2, -1), (-0.2, -1))
_OFFSETS = tuple((dx * reach, dy * reach) for reach in (12.0, 20.0, 32.0, 46.0, 62.0, 80.0) for dx, dy in _DIRECTIONS)


def _draw_labels(axes: Axes, marks: Sequence[_Mark], obstacles: Sequence[tuple[float, float]],
                 fixed: Sequence[Any]) -> None:
    """Write each mark's label at a free place near it, with a thin line when it is not right beside it."""
    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72.0
    frame = _extent(axes.bbox)
    taken = [_extent(artist.get_window_extent(renderer)) for artist in fixed]
    pixels = axes.transData.transform(np.asarray(obstacles, dtype=float))
    anchors = axes.transData.transform(np.asarray([(m.ms, m.percent) for m in marks]))
    boxes = [_candidates(_annotate(axes, mark, None, renderer), anchor, scale)
             for mark, anchor in zip(marks, anchors, strict=True)]
    alone = [np.array([_cost(box, frame, taken, pixels, np.delete(anchors, i, 0)) for box in boxes[i]])
             + 0.2 * np.arange(len(_OFFSETS)) for i in range(len(marks))]
    choice = [int(np.argmin(costs)) for costs in alone]
    for _ in range(_ROUNDS):  # each label in turn moves to its best place, given where the others are
        for i, costs in enumerate(alone):
            others = [(anchors[j], boxes[j][choice[j]]) for j in range(len(marks)) if j != i]
            clash = [sum(_clash(anchors[i], box, *other) for other in others) for box in boxes[i]]
            choice[i] = int(np.argmin(costs + 1000.0 * np.array(clash)))
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


def _annotate(axes: Axes, mark: _Mark, offset: tuple[float, float] | None, renderer: Any) -> tuple[float, float]:
    """Write a label; without an offset only measure it. Gives its width and height in pixels."""
    dx, dy = offset or (0.0, 0.0)
    right, up = _alignment(dx, dy)
    line = {"arrowstyle": "-", "color": _SOFT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
    halo = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    note = axes.annotate(
        mark.text, (mark.ms, mark.percent), (dx, dy), textcoords="offset points", zorder=6, linespacing=1.15,
        ha=("left", "center", "right")[round(right * 2)], va=("bottom", "center", "top")[round(up * 2)],
        fontsize=10 if mark.chosen else 9, fontweight="bold" if mark.chosen else "normal",
        color=_INK if mark.chosen else _RED, arrowprops=line if math.hypot(dx, dy) > 25 else None, bbox=halo,
        annotation_clip=False)
    box = note.get_window_extent(renderer)
    if offset is None:
        note.remove()
    return float(box.width) + 6.0, float(box.height) + 6.0


_Box = tuple[float, float, float, float]


def _extent(box: Any) -> _Box:
    return float(box.x0), float(box.y0), float(box.x1), float(box.y1)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _clash(anchor: npt.NDArray[np.float64], box: _Box, other_anchor: npt.NDArray[np.float64], other: _Box) -> int:
    """How much two labels get in each other's way: box on box counts thrice, the line of one through the other once."""
    return 3 * _overlap(box, other) + _crosses(anchor, box, other) + _crosses(other_anchor, other, box)


def _crosses(anchor: npt.NDArray[np.float64], own: _Box, other: _Box) -> bool:
    centre = np.array([(own[0] + own[2]) / 2, (own[1] + own[3]) / 2])
    line = anchor + np.linspace(0, 1, 12)[:, None] * (centre - anchor)
    return bool(np.any((line[:, 0] > other[0]) & (line[:, 0] < other[2])
                       & (line[:, 1] > other[1]) & (line[:, 1] < other[3])))


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
