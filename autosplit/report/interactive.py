"""The figures of a run as plotly draws them on the page, in the colours of a light page (`style.DARK` has the others).

Texts that plotly shows on hover are HTML of a few tags; everything from outside is escaped.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.core.comparison import ComparisonRow
from autosplit.core.plan import Outcome
from autosplit.report.figures import Bars, HeatMap, SearchCurve, depth_order, few, front_of, role, shortened, view_of
from autosplit.report.pareto import one_a_plan
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import (
    GOLD,
    GRID,
    INK,
    RED,
    SOFT,
    STAGE_COLOURS,
    level_range,
    look,
    nice_ticks,
    plain_number,
    shades,
    short_number,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "energy_figure",
    "heat_map_figure",
    "search_curve_figure",
    "sensitivity_figures",
    "stages_figure",
    "template",
    "tradeoff_figure",
]

_SYMBOLS = {"s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
            "o": "circle", "h": "hexagon", "p": "pentagon", "<": "triangle-left", ">": "triangle-right", "*": "star"}
_PAPER = "#ffffff"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_WRAP = 21
_NAME = 20  # characters of a split point
_ROOM = 1.28  # of an axis of bars, in lengths of the longest, for the figures beside them


def template() -> dict[str, Any]:
    """What all figures share, as a layout of plotly's."""
    axis = {"gridcolor": GRID, "linecolor": SOFT, "zeroline": False, "ticks": "outside", "tickcolor": SOFT,
            "ticklen": 4, "automargin": True, "title": {"standoff": 10, "font": {"size": 13}}}
    return {
        "font": {"family": _FONT, "size": 12, "color": INK}, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "xaxis": axis, "yaxis": axis, "margin": {"l": 10, "r": 10, "t": 12, "b": 10},
        "hoverlabel": {"bgcolor": _PAPER, "bordercolor": SOFT, "font": {"color": INK, "size": 12}, "align": "left"},
        "legend": {"itemsizing": "constant", "font": {"size": 12}, "grouptitlefont": {"size": 12, "weight": 700},
                   "tracegroupgap": 8},
        "hovermode": "closest", "dragmode": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": SOFT, "activecolor": INK},
    }


def tradeoff_figure(outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], best: Outcome) -> go.Figure:
    """Accuracy against p95 latency: measured plans, Pareto front, budget, baselines, the chosen plan.

    Args:
        outcomes: Measured plans, validation accuracy.
        rows: The comparison, test accuracy.
        best: The chosen outcome.
    """
    import plotly.graph_objects as go

    plans = one_a_plan(outcomes)
    marks = [(row.latency.p95_ms, 100 * row.accuracy) for row in rows]
    chosen = next(mark for mark, row in zip(marks, rows, strict=True) if row.chosen)
    view = view_of(plans, marks, chosen, best.budget_ms)
    right = max([view.right, *(1.25 * ms for ms, _ in marks)])
    figure = go.Figure()
    _add_plans(figure, plans)
    front = front_of(plans)
    if len(front):
        figure.add_scatter(x=[*front[:, 0].tolist(), right], y=[*front[:, 1].tolist(), float(front[-1, 1])],
                           mode="lines", name="Pareto front", line={"shape": "hv", "color": INK, "width": 1.5},
                           hoverinfo="skip", legendgroup="plans")
    for row in sorted(rows, key=lambda r: r.chosen):
        _add_mark(figure, row, best, view.bottom)
    _set_latency_axis(figure, view.left, right, "p95 latency, end to end (ms, log scale)")
    figure.update_yaxes(range=[view.bottom, min(view.top, 101.5)], title_text="top-1 accuracy (%)")
    _add_budget(figure, best.budget_ms, right)
    return figure


def _add_plans(figure: go.Figure, plans: Sequence[Outcome]) -> None:
    """Dots coloured by split point, shallow to deep; hollow when too late."""
    splits = depth_order(plans)
    listed = set(few(splits))
    for split, shade in zip(splits, shades(len(splits)), strict=True):
        mine = sorted((o for o in plans if o.plan.split == split), key=lambda o: not o.feasible)  # legend: the first
        symbols = ["circle" if o.feasible else "circle-open" for o in mine]
        figure.add_scatter(
            x=[o.latency.p95_ms for o in mine], y=[100 * o.measurement.accuracy for o in mine], mode="markers",
            name=html.escape(shortened(split, _NAME)), legendgroup="plans", showlegend=split in listed,
            legendgrouptitle_text="measured plans<br>by split point<br>(hollow: too late)",
            marker={"color": shade, "size": 7, "symbol": symbols, "line": {"color": SOFT, "width": 1}},
            hovertext=[_about(o) for o in mine], hoverinfo="text")


def _add_mark(figure: go.Figure, row: ComparisonRow, best: Outcome, bottom: float) -> None:
    style = look(row.method)
    name = role(best) if row.chosen else html.escape(row.name)
    edge = {"color": INK, "width": 1.3} if row.chosen else {"color": _PAPER, "width": 1}
    figure.add_scatter(
        x=[row.latency.p95_ms], y=[max(100 * row.accuracy, bottom)], mode="markers", name=name,
        legendgroup="deployments", legendgrouptitle_text="deployments<br>(test images)", cliponaxis=False,
        marker={"symbol": _SYMBOLS[style.marker], "size": 17 if row.chosen else 11,
                "color": GOLD if row.chosen else style.colour, "line": edge},
        hovertext=[_about_row(row)], hoverinfo="text")


def stages_figure(bars: Bars, budget_ms: float) -> go.Figure:
    """Stacked bars of the five stages; the line at the end of each is its p95.

    Args:
        bars: Of `figures.stage_bars`.
        budget_ms: The deadline.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    names = _bar_names(bars)
    for stage, values in bars.parts.items():
        texts = [f"<b>{html.escape(row.name)}</b><br>{stage}, median: {_ms(value)} of {_ms(row.latency.p50_ms)}"
                 for row, value in zip(bars.rows, values, strict=True)]
        figure.add_bar(y=names, x=list(values), name=stage, orientation="h", hovertext=texts, hoverinfo="text",
                       textposition="none", marker={"color": STAGE_COLOURS[stage], "line": {"width": 0}})
    inside = [not cut for cut in bars.cut]
    figure.add_scatter(
        y=[n for n, ok in zip(names, inside, strict=True) if ok],
        x=[t for t, ok in zip(bars.totals, inside, strict=True) if ok], mode="markers", name="p95, end to end",
        marker={"symbol": "line-ns", "size": 17, "line": {"color": INK, "width": 2.2}},
        hovertext=[f"<b>{html.escape(r.name)}</b><br>p95 {_ms(r.latency.p95_ms)}, p50 {_ms(r.latency.p50_ms)}"
                   for r, ok in zip(bars.rows, inside, strict=True) if ok], hoverinfo="text")
    _finish_bars(figure, bars, names, _ms, "milliseconds (stages: medians)")
    line = {"color": RED, "width": 1.5, "dash": "dash"}
    figure.add_shape(type="line", xref="x", yref="paper", x0=budget_ms, x1=budget_ms, y0=0, y1=1, line=line)
    figure.add_scatter(x=[None], y=[None], mode="lines", name=f"budget {_ms(budget_ms)}", line=line)
    figure.update_layout(barmode="stack", legend={"orientation": "h", "traceorder": "normal"})
    return figure


def energy_figure(bars: Bars) -> go.Figure:
    """Energy of the device for one inference.

    Args:
        bars: Of `figures.energy_bars`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    names = _bar_names(bars)
    colours = [GOLD if row.chosen else SOFT for row in bars.rows]
    texts = [f"<b>{html.escape(row.name)}</b><br>{_mj(total)} an inference"
             for row, total in zip(bars.rows, bars.totals, strict=True)]
    figure.add_bar(y=names, x=list(bars.totals), orientation="h", marker={"color": colours, "line": {"width": 0}},
                   hovertext=texts, hoverinfo="text", textposition="none")
    _finish_bars(figure, bars, names, _mj, "mJ an inference")
    figure.update_layout(showlegend=False)
    return figure


def _bar_names(bars: Bars) -> list[str]:
    """Wrapped, the chosen plan in bold; no two alike, since they are the categories of the axis."""
    names: list[str] = []
    for row in bars.rows:
        text = "<br>".join(map(html.escape, textwrap.wrap(row.name, _WRAP)))
        text = f"<b>{text}</b>" if row.chosen else text
        names.append(text + " " * names.count(text))
    return names


def _finish_bars(figure: go.Figure, bars: Bars, names: Sequence[str], unit: Any, title: str) -> None:
    limit = bars.limit
    for name, total, cut, row in zip(names, bars.totals, bars.cut, bars.rows, strict=True):
        text = f"{unit(total)} ▸" if cut else unit(total)
        figure.add_annotation(x=limit if cut else total, y=name, text=f"<b>{text}</b>" if row.chosen else text,
                              showarrow=False, bgcolor=_PAPER, borderpad=1, xanchor="right" if cut else "left",
                              xshift=1 if cut else 6)
    figure.update_xaxes(range=[0, limit * _ROOM], title_text=title, showgrid=True, rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", showline=False, ticksuffix=" ")
    figure.update_layout(bargap=0.38)
    if any(bars.cut):  # what is beyond the limit is no length but room for figures
        figure.add_shape(type="rect", xref="x", yref="paper", x0=limit, x1=limit * (_ROOM + 0.01), y0=0, y1=1,
                         line_width=0, fillcolor=_PAPER, layer="above")


def heat_map_figure(found: HeatMap) -> go.Figure:
    """The best accuracy of each split point and payload size.

    Args:
        found: Of `figures.HeatMap.of`.
    """
    import plotly.graph_objects as go

    levels = found.accuracy
    rows = [html.escape(shortened(split, _NAME)) for split in found.splits]
    hover = [["" if o is None else _about(o) for o in row] for row in found.best]
    cells = _plain(levels)
    figure = go.Figure(go.Heatmap(
        z=cells, x=list(found.sizes), y=rows, **_colours(levels), xgap=2, ygap=2, hoverongaps=False,
        text=[["" if v is None else f"{v:.0f}" for v in row] for row in cells], texttemplate="%{text}",
        hovertext=hover, hoverinfo="text"))
    figure.update_xaxes(type="category", title_text="payload", showgrid=False, tickangle=-40, showline=False, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, showline=False, ticks="",
                        title_text="split point")
    return figure


def search_curve_figure(curve: SearchCurve, objective: str) -> go.Figure:
    """Best reward so far against the number of measurements.

    Args:
        curve: Of `figures.SearchCurve.of`.
        objective: Name of the reward.
    """
    import plotly.graph_objects as go

    bottom, top = curve.view
    count = len(curve.outcomes)
    figure = go.Figure()
    for feasible, name in ((True, "in time"), (False, "too late")):
        mine = [i for i, o in enumerate(curve.outcomes) if o.feasible is feasible]
        figure.add_scatter(
            x=[i + 1 for i in mine], y=[max(curve.outcomes[i].reward, bottom) for i in mine], mode="markers",
            name=name, marker={"color": SOFT, "size": 6, "symbol": "circle" if feasible else "circle-open"},
            hovertext=[f"measurement {i + 1}, reward {curve.outcomes[i].reward:.3f}<br>{_about(curve.outcomes[i])}"
                       for i in mine], hoverinfo="text")
    since = [i for i, at in enumerate(curve.best) if at >= 0]
    figure.add_scatter(x=[i + 1 for i in since], y=[curve.outcomes[curve.best[i]].reward for i in since],
                       mode="lines", name="best so far", hoverinfo="skip",
                       line={"shape": "hv", "color": "#0072b2", "width": 2.4})
    records = curve.records
    figure.add_scatter(
        x=[i + 1 for i in records], y=[curve.outcomes[i].reward for i in records], mode="markers", name="new best",
        marker={"color": GOLD, "size": 9, "symbol": "diamond", "line": {"color": INK, "width": 1}},
        hovertext=[f"best from measurement {i + 1} on, reward {curve.outcomes[i].reward:.3f}<br>"
                   f"{_about(curve.outcomes[i])}" for i in records], hoverinfo="text")
    figure.update_xaxes(range=[0, count + 1], title_text="measurements", showgrid=False)
    figure.update_yaxes(range=[bottom, top], title_text=f"reward ({html.escape(objective)})")
    figure.update_layout(legend={"orientation": "h"})
    return figure


def sensitivity_figures(found: Sensitivity) -> tuple[go.Figure, go.Figure, dict[str, Any]]:
    """The measured plans under the rate and the budget that two sliders set, the map of all of them, and its data.

    Args:
        found: The grid.

    Returns:
        The plans, the map, and what the page's script looks up as the sliders move.
    """
    return _plans_at_home(found), _map(found), _lookup(found)


def _plans_at_home(found: Sensitivity) -> go.Figure:
    import plotly.graph_objects as go

    r, b = found.home
    splits = depth_order(found.outcomes)
    shade = dict(zip(splits, shades(len(splits)), strict=True))
    levels = [100 * o.measurement.accuracy for o in found.outcomes]
    p95, at, budget = found.latency.p95_ms, int(found.best[r, b]), float(found.budgets_ms[b])
    figure = go.Figure()
    figure.add_scatter(x=p95[:, r].tolist(), y=levels, mode="markers", name="measured plans",
                       marker={"color": [shade[o.plan.split] for o in found.outcomes], "size": 7,
                               "line": {"color": SOFT, "width": 1}},
                       hovertext=[f"<b>{html.escape(o.plan.label)}</b><br>{levels[i]:.1f} % (F1)"
                                  for i, o in enumerate(found.outcomes)], hoverinfo="text", showlegend=False)
    figure.add_scatter(x=[float(p95[at, r])], y=[levels[at]], mode="markers", name="best", hoverinfo="skip",
                       marker={"symbol": "star", "size": 19, "color": GOLD, "line": {"color": INK, "width": 1.3}},
                       showlegend=False, cliponaxis=False)
    left, right = float(p95.min()) / 1.3, float(max(p95.max(), found.budgets_ms[-1])) * 1.3
    _set_latency_axis(figure, max(left, budget / 400), min(right, budget * 400), "p95 latency (ms, log scale)")
    top = max(levels)
    bottom = max(min(levels), top - 60.0)
    margin = 0.07 * (top - bottom) + 0.5
    figure.update_yaxes(range=[bottom - margin, min(top + 2 * margin, 101.5)], title_text="accuracy (%), F1")
    _add_budget(figure, budget, min(right, budget * 400))
    return figure


def _map(found: Sensitivity) -> go.Figure:
    import plotly.graph_objects as go

    r, b = found.home
    hover = [[f"{_rate(found.rates_kbps[i])}, budget {_ms(found.budgets_ms[j])}<br>"
              + ("" if found.feasible[i, j] else "nothing in time; least late:<br>")
              + _title(found.outcomes[found.best[i, j]]) for j in range(len(found.budgets_ms))]
             for i in range(len(found.rates_kbps))]
    figure = go.Figure(go.Heatmap(
        z=_plain(found.accuracy), **_colours(found.accuracy), hovertext=hover, hoverinfo="text"))
    figure.add_scatter(x=[b], y=[r], mode="markers", hoverinfo="skip", showlegend=False, name="sliders",
                       marker={"symbol": "circle-open", "size": 16, "color": RED, "line": {"width": 3}})
    (across, budgets), (up, rates) = nice_ticks(found.budgets_ms, b), nice_ticks(found.rates_kbps, r)
    figure.update_xaxes(tickvals=across, ticktext=budgets,
                        title_text="budget (ms)", showgrid=False, ticks="", showline=False,
                        range=[-0.5, len(found.budgets_ms) - 0.5])
    figure.update_yaxes(tickvals=up, ticktext=rates,
                        title_text="uplink (kb/s)", showgrid=False, ticks="", showline=False,
                        range=[-0.5, len(found.rates_kbps) - 0.5])
    return figure


def _lookup(found: Sensitivity) -> dict[str, Any]:
    measured = [o.measurement for o in found.outcomes]
    return {
        "home": list(found.home),
        "rates": [_rate(rate) for rate in found.rates_kbps],
        "budgets": [_ms(budget) for budget in found.budgets_ms],
        "budgets_ms": _rounded(found.budgets_ms),
        "plans": [_title(o) for o in found.outcomes],
        "accuracy": [100 * m.accuracy for m in measured],
        "bytes": [m.workload.payload_bytes_mean for m in measured],
        "p50_ms": [_rounded(column) for column in found.latency.p50_ms.T],
        "p95_ms": [_rounded(column) for column in found.latency.p95_ms.T],
        "energy_mj": [_rounded(column) for column in found.latency.energy_mj.T],
        "best": found.best.tolist(),
        "in_time": [_rounded(row) for row in found.in_time],
        "feasible": found.feasible.astype(int).tolist(),
    }


# --- what they share -----------------------------------------------------------------------------------------------


def _colours(levels: Any) -> dict[str, Any]:
    """How a heat map colours per cent."""
    low, top = level_range(levels)
    return {"colorscale": "Viridis", "zmin": low, "zmax": top,
            "colorbar": {"title": {"text": "%", "side": "top"}, "thickness": 12, "outlinewidth": 0, "len": 0.9}}


def _set_latency_axis(figure: go.Figure, left: float, right: float, title: str) -> None:
    ticks = [m * 10.0**k for k in range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
             for m in ((1, 2, 5) if math.log10(right / left) < 3.2 else (1,)) if left <= m * 10.0**k <= right]
    figure.update_xaxes(type="log", range=[math.log10(left), math.log10(right)], tickvals=ticks, title_text=title,
                        ticktext=[plain_number(t) for t in ticks], showgrid=False, tickangle=0)


def _add_budget(figure: go.Figure, budget_ms: float, right: float) -> None:
    """A line, a shade over what is too late, and its label; the page's script moves these in this order."""
    figure.add_shape(type="rect", xref="x", yref="paper", x0=budget_ms, x1=max(right, budget_ms) * 100, y0=0, y1=1,
                     line_width=0, fillcolor=SOFT, opacity=0.1, layer="below")
    figure.add_shape(type="line", xref="x", yref="paper", x0=budget_ms, x1=budget_ms, y0=0, y1=1, layer="below",
                     line={"color": RED, "width": 1.5, "dash": "dash"})
    figure.add_annotation(x=math.log10(budget_ms), y=1, yref="paper", text=f"budget {_ms(budget_ms)}",
                          showarrow=False, xanchor="center", yanchor="bottom", font={"color": RED})
    figure.update_layout(margin={"t": 26})


def _title(outcome: Outcome) -> str:
    return html.escape(outcome.plan.label)


def _about(outcome: Outcome) -> str:
    measured, times = outcome.measurement, outcome.latency
    ratio = measured.compression_ratio
    size = f"{measured.workload.payload_bytes_mean:,.0f} B" + (f" ({ratio:.1f}x less than the fp32 feature)"
                                                              if ratio else "")
    return (f"<b>{_title(outcome)}</b><br>{100 * measured.accuracy:.1f} % on validation images ({measured.fidelity})"
            f"<br>p95 {_ms(times.p95_ms)}, p50 {_ms(times.p50_ms)}<br>payload {size}<br>{_mj(times.energy_mj)}")


def _about_row(row: ComparisonRow) -> str:
    times = row.latency
    return (f"<b>{html.escape(row.name)}</b><br>{html.escape(row.plan)}<br>{100 * row.accuracy:.1f} % on test images"
            f"<br>p95 {_ms(times.p95_ms)}, p50 {_ms(times.p50_ms)}<br>payload {row.payload_bytes:,.0f} B"
            f"<br>{_mj(times.energy_mj)}")


def _ms(value: float) -> str:
    return f"{short_number(value)} ms"


def _mj(value: float) -> str:
    return f"{short_number(value)} mJ"


def _rate(kbps: float) -> str:
    return f"{kbps / 1000:.3g} Mb/s" if kbps >= 1000 else f"{kbps:.3g} kb/s"


def _rounded(values: Any) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _plain(levels: Any) -> list[list[float | None]]:
    """For JSON, which has no NaN."""
    return [[None if np.isnan(v) else float(v) for v in row] for row in levels]
