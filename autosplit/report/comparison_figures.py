"""Figures of a comparison: accuracy against payload, accuracy against latency, in-time accuracy against the link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autosplit.report.charts import Axis, Chart, Figure, Limit, Trace, log_axis, percent_axis
from autosplit.report.style import GOLD, INK, SPAN, look

__all__ = ["Panel", "Series", "accuracy_latency_figure", "accuracy_payload_figure", "in_time_figure"]

_ROOM = 0.6  # of a panel in widths of a page's chart


@dataclass(frozen=True)
class Series:
    """Points of one method, drawn as a line or as single marks.

    Attributes:
        name: Of a method or a codec family, as for `look`.
        points: (x, y), y in [0, 1].
    """

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def columns(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """x, and y in per cent."""
        return tuple(x for x, _ in self.points), tuple(100 * y for _, y in self.points)


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


def accuracy_payload_figure(panels: Sequence[Panel], note: str) -> Figure:
    """Accuracy against payload bytes: the frontier of each codec, and the chosen deployments.

    Args:
        panels: One a network and data set; x in bytes.
        note: How to read it.
    """
    charts = []
    for panel in panels:
        x, y = _axes(panel, "payload (bytes, log scale)", "top-1 accuracy (%)")
        dots = [Trace("", *s.columns, look(s.name).colour, marker="o", size=2.6, opacity=0.22) for s in panel.dots]
        lines = [Trace(look(s.name).label, *s.columns, look(s.name).colour, line="steps",
                       width=2.4 if s.name == "nested" else 1.6, group="frontiers (proxy)")
                 for s in panel.lines]
        charts.append(Chart(x, y, (*dots, *lines, *_marks(panel, y, "chosen (fine-tuned)", labelled=False)),
                            legend="beside", title=panel.title))
    return Figure("Accuracy against payload", note, tuple(charts))


def accuracy_latency_figure(panels: Sequence[Panel], note: str) -> Figure:
    """Accuracy against p95 latency of the chosen deployments, with the budget.

    Args:
        panels: One a scenario; x in milliseconds.
        note: How to read it.
    """
    charts = []
    for panel in panels:
        x, y = _axes(panel, "p95 latency, end to end (ms, log scale)", "top-1 accuracy (%)", len(panels) == 1)
        limit = None if panel.limit is None else Limit(panel.limit, f"budget {panel.limit:g} ms", shaded=True)
        charts.append(Chart(x, y, _marks(panel, y, "", labelled=len(panels) == 1), limit=limit, title=panel.title,
                            legend="none" if len(panels) == 1 else "beside"))
    return Figure("Accuracy against latency", note, tuple(charts))


def in_time_figure(panels: Sequence[Panel], note: str) -> Figure:
    """In-time accuracy against the rate of the link, as AECNN's authors show it.

    Args:
        panels: One a scenario; x in kilobits per second.
        note: How to read it.
    """
    charts = []
    for panel in panels:
        x, _ = _axes(panel, "uplink rate (kb/s, log scale)", "")
        lines = []
        for series in sorted(panel.lines, key=lambda s: s.name == "autosplit"):  # in front of the others
            style, ours = look(series.name), series.name == "autosplit"
            lines.append(Trace(style.label, *series.columns, style.colour, line="straight", width=3.0 if ours else 1.5,
                               marker=style.marker, every=4, size=9.0 if ours else 4.5, edge=INK if ours else ""))
        limit = None if panel.limit is None else Limit(panel.limit, f"{panel.limit:g} kb/s")
        charts.append(Chart(x, Axis("expected in-time accuracy (%)", (0.0, 102.0), grid=True), tuple(lines),
                            limit=limit, legend="beside", title=panel.title))
    return Figure("In-time accuracy against the rate of the link", note, tuple(charts))


def _axes(panel: Panel, x_title: str, y_title: str, alone: bool = False) -> tuple[Axis, Axis]:
    """Axes that hold every mark and curve, less what is hopelessly far below the best."""
    points = [p for series in (*panel.lines, *panel.marks) for p in series.points]
    x = [x for x, _ in points if x > 0] + ([panel.limit] if panel.limit else []) or [2.0, 5.0]
    levels = [100 * y for _, y in points] or [0.0, 100.0]
    lowest = min((100 * y for series in panel.marks for _, y in series.points), default=min(levels))
    bottom = max(lowest, max(levels) - SPAN)  # where deployments are; curves may come from below
    return (log_axis(x_title, min(x) / 1.35, max(x) * 1.35, 1.0 if alone else _ROOM),
            percent_axis(y_title, levels, bottom))


def _marks(panel: Panel, y: Axis, group: str, labelled: bool) -> tuple[Trace, ...]:
    """One mark a series; one that is below the view stands at its lower edge and says where it belongs."""
    marks = []
    for series in sorted(panel.marks, key=lambda s: s.name == "autosplit"):
        (x, share), style = series.points[0], look(series.name)
        level = max(100 * share, y.limits[0])
        label = style.label if level == 100 * share else f"{style.label} ({100 * share:.0f} %)"
        size = {"autosplit": 17.0, "nested": 17.0, "two-step": 11.0, "raw": 11.0}.get(series.name, 8.5)
        marks.append(Trace(style.label, (x,), (level,), style.colour, marker=style.marker, size=size,
                           edge=INK if style.colour == GOLD else "white", group=group if panel.lines else "",
                           label=label if labelled else "", bold=series.name == "autosplit"))
    return tuple(marks)
