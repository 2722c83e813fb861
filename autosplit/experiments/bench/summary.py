"""Summaries of the searches of a grid: regret, ranks, tests, measurements to within a percent; tables, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

from autosplit.core.arrays import Array
from autosplit.experiments.bench.runs import Run, Setting
from autosplit.report.style import GRID, INK, figure_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_regret", "scenario_frame", "summarise", "to_markdown"]

_NO_PRIOR = "-no-prior"
_CLOSE = 0.01
_LEVELS = {"1_percent": _CLOSE, "0.1_percent": 0.001, "best": 0.0}
"""Regrets that searches are to come down to, by the name of their columns."""

_FLOOR = 1e-4  # of the logarithmic axis of regret
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f",
            "#bcbd22", "#393b79", "#ad494a")


def summarise(runs: Sequence[Run], reference: str, evaluations: int) -> pd.DataFrame:
    """A row for each table and method.

    Columns: median and 90th percentile of the regret after 25, 50 and all measurements (over scenarios and seeds);
    median and mean measurements until the regret is at most 1 %, 0.1 % and 0 (searches that never get there count as
    one measurement more than they had); mean rank within each scenario and seed, by final regret (`mean_rank`) and by
    the mean regret along the way, the area under the curve (`mean_rank_along`); for each of the two, against the
    reference, the number of scenarios in which a method's mean over the seeds is lower, equal or higher, with
    Wilcoxon's signed-rank test over scenarios, two-sided, p-values by Holm's procedure within a table; median over
    searches of their seconds a measurement.

    Args:
        runs: All of them, complete.
        reference: Method that the others are tested against.
        evaluations: Measurements of each search.
    """
    import pandas as pd

    rows = []
    for table in dict.fromkeys(r.table for r in runs):
        part = [r for r in runs if r.table == table]
        curves = {m: np.array([r.curve(evaluations) for r in part if r.method == m])
                  for m in dict.fromkeys(r.method for r in part)}
        final = _against({m: curve[:, -1] for m, curve in curves.items()}, part, reference)
        along = _against({m: curve.mean(axis=1) for m, curve in curves.items()}, part, reference)
        for method, curve in curves.items():
            row: dict[str, Any] = {"table": table, "method": method, "searches": len(curve)}
            for at in sorted({min(25, evaluations), min(50, evaluations), evaluations}):
                row |= {f"median_{at}": np.median(curve[:, at - 1]), f"p90_{at}": np.percentile(curve[:, at - 1], 90)}
            for name, level in _LEVELS.items():
                close = curve <= level
                # a search that never comes close counts as one measurement more than it had
                until = np.where(close.any(axis=1), close.argmax(axis=1) + 1.0, curve.shape[1] + 1.0)
                row |= {f"to_{name}": float(np.median(until)), f"mean_to_{name}": float(until.mean()),
                        f"reached_{name}": float(close[:, -1].mean())}
            row |= final[method] | {f"{name}_along": value for name, value in along[method].items()}
            row["seconds_per_measurement"] = float(np.median([r.seconds / len(r.regret) for r in part
                                                              if r.method == method]))
            rows.append(row)
    frame: pd.DataFrame = pd.DataFrame(rows).sort_values(["table", "mean_rank_along"], kind="stable", ignore_index=True)
    return frame


def scenario_frame(settings: Sequence[Setting]) -> pd.DataFrame:
    """A row for each table and scenario: conditions, plans in time, the best reward."""
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame([{
        "table": s.table, "scenario": s.number, "device": s.conditions.device.name, "edge": s.conditions.edge.name,
        "channel": s.conditions.channel.name, "budget_ms": round(s.conditions.budget_ms, 2),
        "uplink_kbps": round(s.conditions.channel.uplink_kbps.value, 3), "plans_in_time": int(s.in_time.sum()),
        "best_reward": round(s.optimum, 5),
    } for s in settings])
    return frame


def to_markdown(frame: pd.DataFrame, evaluations: int) -> str:
    """The summary as a Markdown table."""
    head = ("method", f"median regret at {evaluations}", "90th percentile", "rank", "better / equal / worse", "p",
            "rank along the way", "better / equal / worse", "p", "measurements to 1 %, median (mean)", "to 0.1 %",
            "to the best", "1 % reached", "s a measurement")
    lines = []
    for table, part in frame.groupby("table", sort=False):
        lines += [f"### {table}", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for r in part.to_dict("records"):
            until = " | ".join((f"{r[f'to_{name}']:.0f}" if r[f"to_{name}"] <= evaluations else f"> {evaluations}")
                               + f" ({r[f'mean_to_{name}']:.1f})" for name in _LEVELS)
            lines.append(f"| {r['method']} | {r[f'median_{evaluations}']:.2%} | {r[f'p90_{evaluations}']:.2%} | "
                         f"{_compared(r, '')} | {_compared(r, '_along')} | {until} | {r['reached_1_percent']:.0%} | "
                         f"{r['seconds_per_measurement']:.3f} |")
        lines.append("")
    return "\n".join(lines)


def draw_regret(runs: Sequence[Run], evaluations: int, *paths: Path) -> None:
    """Regret against measurements: median and quartiles over scenarios and seeds, a panel a table.

    A method whose name ends in `-no-prior` is dashed, in the colour of the one that it is a version of.
    """
    tables = list(dict.fromkeys(r.table for r in runs))
    methods = list(dict.fromkeys(r.method for r in runs))
    colours = {name: _COLOURS[i % len(_COLOURS)]
               for i, name in enumerate(dict.fromkeys(m.removesuffix(_NO_PRIOR) for m in methods))}
    x = np.arange(1, evaluations + 1)
    with figure_file(*paths, size=(6.4 * len(tables) + 1.6, 5.0)) as figure:
        figure.set_layout_engine("constrained")
        panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
        for axes, table in zip(panels, tables, strict=True):
            for number, method in enumerate(methods):
                curve = np.array([r.curve(evaluations) for r in runs if (r.table, r.method) == (table, method)])
                low, middle, high = (np.maximum(np.percentile(curve, q, axis=0), _FLOOR) for q in (25, 50, 75))
                colour = colours[method.removesuffix(_NO_PRIOR)]
                front = {"linewidth": 2.4, "zorder": 4} if number == 0 else {"linewidth": 1.4}
                axes.plot(x, middle, "--" if method.endswith(_NO_PRIOR) else "-", color=colour, label=method, **front)
                axes.fill_between(x, low, high, color=colour, alpha=0.06, linewidth=0)
            axes.axhline(_CLOSE, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set(yscale="log", title=table, xlabel="measurements", xlim=(1, evaluations), ylim=(_FLOOR, 1.0))
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
            axes.grid(color=GRID)
        panels[0].set_ylabel("regret against the best plan of the table")
        figure.legend(*panels[-1].get_legend_handles_labels(), fontsize=8, loc="outside right upper", edgecolor=GRID)


def _compared(row: Mapping[Any, Any], which: str) -> str:
    """Rank, scenarios won and lost, p-value, as cells."""
    rank, p = row[f"mean_rank{which}"], row[f"p_value{which}"]
    won = " / ".join(str(row[name + which]) for name in ("better", "equal", "worse"))
    return f"{rank:.2f} | {won} | {'' if p is None or np.isnan(p) else f'{p:.2g}'}"


def _against(figures: dict[str, Array], runs: Sequence[Run], reference: str) -> dict[str, dict[str, Any]]:
    """Ranks of methods by one number a search, lower is better, and their tests against the reference.

    Args:
        figures: The numbers of each method, in the order of its searches in `runs`.
        runs: Of one table.
        reference: A method.
    """
    ranks = rankdata(np.array(list(figures.values())), axis=0).mean(axis=1)
    means: dict[str, Array] = {}
    for method, figure in figures.items():
        scenarios = np.array([r.scenario for r in runs if r.method == method])
        # seeds of one scenario are no independent samples: only their mean enters the test
        means[method] = np.array([figure[scenarios == s].mean() for s in np.unique(scenarios)])
    ours = means[reference]
    # the test is not defined where no scenario differs, and nothing could be clearer then
    p_values = {m: float(wilcoxon(theirs, ours).pvalue) if (theirs != ours).any() else 1.0
                for m, theirs in means.items() if m != reference}
    adjusted, highest = dict[str, float](), 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - i)))  # Holm's step-down adjustment
        adjusted[name] = highest
    found = {}
    for method, rank in zip(figures, ranks, strict=True):
        difference = means[method] - ours
        found[method] = {"mean_rank": rank, "better": int((difference < 0).sum()),
                         "equal": int((difference == 0).sum()), "worse": int((difference > 0).sum()),
                         "p_value": adjusted.get(method)}
    return found
