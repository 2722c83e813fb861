"""Charts as plotly draws them on the page, in the colours of a light page (`style.DARK` has the others).

What comes out is plain JSON: plotly itself is a script of the page and is not needed here.
"""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np

from autosplit.report.charts import Axis, Bars, Cells, Chart, Trace
from autosplit.report.style import GRID, INK, SOFT, quantity

__all__ = ["TEMPLATE", "page_chart"]

_SYMBOLS = {"s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
            "d": "diamond-tall", "8": "octagon",
            "o": "circle", "h": "hexagon", "p": "pentagon", "<": "triangle-left", ">": "triangle-right", "*": "star",
            "|": "line-ns"}
_PAPER = "#ffffff"
_PIXELS = 1.25  # a point, for sizes of markers
_AXIS = {"gridcolor": GRID, "linecolor": SOFT, "zeroline": False, "ticks": "outside", "tickcolor": SOFT,
         "ticklen": 4, "automargin": True, "title": {"standoff": 10, "font": {"size": 13}}}

TEMPLATE: dict[str, Any] = {
    "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 12,
             "color": INK},
    "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "xaxis": _AXIS, "yaxis": _AXIS,
    "margin": {"l": 10, "r": 10, "t": 12, "b": 10},
    "hoverlabel": {"bgcolor": _PAPER, "bordercolor": SOFT, "font": {"color": INK, "size": 12}, "align": "left"},
    "legend": {"itemsizing": "constant", "font": {"size": 12}, "grouptitlefont": {"size": 12, "weight": 700},
               "tracegroupgap": 8},
    "hovermode": "closest", "dragmode": False,
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": SOFT, "activecolor": INK},
}
"""What all charts share, as a layout of plotly's."""


def page_chart(chart: Chart) -> dict[str, Any]:
    """Data and layout of a chart for plotly's script; texts are escaped, for plotly takes some tags.

    Args:
        chart: What is shown.
    """
    x, y = axis_layout(chart.x), axis_layout(chart.y)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"xaxis": x, "yaxis": y, "shapes": [], "annotations": [],
                              "showlegend": chart.legend != "none"}
    # A page can be zoomed, so it has room for the marks that a file moves to its edge.
    marks = [1.25 * value for trace in chart.traces if trace.label for value in trace.x]
    right = max([chart.x.limits[1], *marks])
    if marks:
        x["range"][1] = math.log10(right) if chart.x.log else right
    if chart.cells is not None:
        data.append(heat_map(chart.cells))
    if chart.bars is not None:
        data += stacked_bars(chart.bars, layout)
    data += [scatter(trace) for trace in chart.traces]
    if (limit := chart.limit) is not None:
        # The page's script moves these as its sliders move: the shade first, the line second, the text first.
        if limit.shaded:
            layout["shapes"].append({"type": "rect", "yref": "paper", "x0": limit.value, "y0": 0, "y1": 1,
                                     "x1": 100 * max(right, limit.value), "line": {"width": 0}, "fillcolor": SOFT,
                                     "opacity": 0.1, "layer": "below"})
        layout["shapes"].append({"type": "line", "yref": "paper", "x0": limit.value, "x1": limit.value, "y0": 0,
                                 "y1": 1, "line": {"color": limit.colour, "width": 1.5, "dash": "dash"},
                                 "layer": "above" if chart.bars else "below"})
        layout["annotations"].insert(0, {
            "x": math.log10(limit.value) if chart.x.log else limit.value, "y": 1, "yref": "paper", "text": limit.text,
            "showarrow": False, "xanchor": "center", "yanchor": "bottom", "font": {"color": limit.colour}})
        layout["margin"] = {"t": 26}
    if chart.legend == "level":
        layout["legend"] = {"orientation": "h", "traceorder": "normal"}
    return {"data": data, "layout": layout}


def axis_layout(axis: Axis) -> dict[str, Any]:
    """An axis as plotly's; the ends of a logarithmic one are exponents."""
    layout: dict[str, Any] = {"title": {"text": html.escape(axis.title)}, "showgrid": axis.grid,
                              "range": [math.log10(v) for v in axis.limits] if axis.log else list(axis.limits)}
    if axis.log:
        layout |= {"type": "log", "tickangle": 0}
    if axis.ticks:
        texts = [html.escape(text).replace("\n", "<br>") for _, text in axis.ticks]
        if axis.bold is not None:
            texts[axis.bold] = f"<b>{texts[axis.bold]}</b>"
        layout |= {"tickvals": [value for value, _ in axis.ticks], "ticktext": texts}
    if not axis.frame:
        layout |= {"tickcolor": "rgba(0,0,0,0)", "showline": False}  # a tick that is not seen keeps text at a distance
    if axis.slanted:
        layout["tickangle"] = -40
    return layout


def scatter(trace: Trace) -> dict[str, Any]:
    """Points or a line."""
    drawn: dict[str, Any] = {
        "type": "scatter", "x": list(trace.x), "y": list(trace.y), "name": html.escape(trace.name),
        "showlegend": bool(trace.name),
        "mode": "+".join(["lines"] * bool(trace.line) + ["markers"] * bool(trace.marker)),
        # Single marks may stand on the edge and are shown whole there; clouds of dots end with the chart.
        "cliponaxis": not trace.label and len(trace.x) != 1, "hoverinfo": "text" if trace.hover else "skip",
    }
    if trace.hover:
        drawn["hovertext"] = [hover_text(text) for text in trace.hover]
    if trace.group:
        drawn |= {"legendgroup": trace.group,
                  "legendgrouptitle": {"text": html.escape(trace.group).replace("\n", "<br>")}}
    if trace.line:
        drawn["line"] = {"shape": "hv" if trace.line == "steps" else "linear", "color": trace.colour,
                         "width": trace.width}
    if trace.marker:
        symbol = _SYMBOLS[trace.marker]
        symbols = [f"{symbol}-open" if hollow else symbol for hollow in trace.hollow]
        only_line = symbol == "line-ns"
        drawn["marker"] = {
            "color": list(trace.colour) if isinstance(trace.colour, tuple) else trace.colour,
            "size": trace.size * _PIXELS, "opacity": trace.opacity,
            "symbol": symbols if any(trace.hollow) else symbol,
            "line": {"color": trace.colour if only_line else trace.edge or _PAPER,
                     "width": 2.2 if only_line else max(1.0, trace.width) if any(trace.hollow) else 1.0}}
    return drawn


def heat_map(cells: Cells) -> dict[str, Any]:
    """Cells with the scale of their colours; a palette has none."""
    low, top = cells.limits
    levels = [[None if np.isnan(level) else float(level) for level in row] for row in cells.levels]  # JSON has no NaN
    drawn: dict[str, Any] = {
        "type": "heatmap", "z": levels, "zmin": low, "zmax": top, "colorscale": "Viridis", "hoverongaps": False,
        "colorbar": {"title": {"text": "%", "side": "top"}, "thickness": 12, "outlinewidth": 0, "len": 0.9},
        "hovertext": [[hover_text(text) for text in row] for row in cells.hover], "hoverinfo": "text"}
    if cells.palette:
        count = len(cells.palette)
        steps = [[(i + end) / count, colour] for i, colour in enumerate(cells.palette) for end in (0, 1)]
        del drawn["colorbar"]
        drawn |= {"zmin": -0.5, "zmax": count - 0.5, "colorscale": steps, "showscale": False}
    if cells.written:
        drawn |= {"xgap": 2, "ygap": 2, "texttemplate": "%{text}",
                  "text": [["" if level is None else f"{level:.0f}" for level in row] for row in levels]}
    return drawn


def stacked_bars(bars: Bars, layout: dict[str, Any]) -> list[dict[str, Any]]:
    """Horizontal bars, one trace a part; what stands at their ends is added to the layout."""
    layout |= {"barmode": "stack", "bargap": 0.38}
    places = list(range(len(bars.rows)))
    drawn = []
    for part, lengths in bars.parts.items():
        texts = [f"{row.name}\n{part}: {quantity(length, bars.unit)}"
                 for row, length in zip(bars.rows, lengths, strict=True)]
        drawn.append({"type": "bar", "orientation": "h", "y": places, "x": list(lengths), "name": html.escape(part),
                      "marker": {"color": list(bars.colours[part]), "line": {"width": 0}}, "textposition": "none",
                      "hovertext": [hover_text(text) for text in texts], "hoverinfo": "text"})
    for place, (row, total, cut) in enumerate(zip(bars.rows, bars.totals, bars.cut, strict=True)):
        text = quantity(total, bars.unit) + (" ▸" if cut else "")
        layout["annotations"].append({
            "x": bars.limit if cut else total, "y": place, "text": f"<b>{text}</b>" if row.chosen else text,
            "showarrow": False, "bgcolor": _PAPER, "borderpad": 1, "xanchor": "right" if cut else "left",
            "xshift": 1 if cut else 6})
    if any(bars.cut):  # beyond the limit there is room for numbers, not for bars
        layout["shapes"].append({"type": "rect", "yref": "paper", "x0": bars.limit, "x1": 2 * bars.limit, "y0": 0,
                                 "y1": 1, "line": {"width": 0}, "fillcolor": _PAPER, "layer": "above"})
    return drawn


def hover_text(text: str) -> str:
    """Lines as plotly shows them, the first in bold."""
    first, *rest = html.escape(text).split("\n")
    return "<br>".join([f"<b>{first}</b>" if first else "", *rest])
