"""The figures of a run: what each of them shows, from outcomes and comparison to `charts`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.comparison import FINALIST, ComparisonRow, best_baseline, best_split
from autosplit.core.measurement import Outcome
from autosplit.core.plan import INPUT, OUTPUT
from autosplit.core.result import Result
from autosplit.report.charts import Axis, Bars, Cells, Chart, Figure, Limit, Trace, log_axis, percent_axis
from autosplit.report.deployment_map import DeploymentMap
from autosplit.report.map_figure import map_figure
from autosplit.report.pareto import measured_plans, one_a_plan, pareto_mask
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.style import (
    GOLD,
    INK,
    RED,
    SOFT,
    SPAN,
    STAGE_COLOURS,
    level_range,
    look,
    nice_ticks,
    quantity,
    shades,
)
from autosplit.report.verdict import finding

__all__ = ["DEPLOYMENTS", "PLANS", "HeatMap", "SearchCurve", "depth_order", "energy_bars", "energy_figure", "few",
           "front_of", "heat_map_figure", "role", "run_figures", "search_curve_figure",
           "sensitivity_figures", "shortened", "stage_bars", "stages_figure", "tradeoff_figure"]

PLANS = "plans by split point\n(hollow: too late)"
DEPLOYMENTS = "deployments\n(test images)"
_NAMED = ("device", "png")  # named in the figure, beside what the verdict speaks of and what is off the scale
_OFF_SCALE = 6.0  # times the budget; what takes longer would press the rest of the chart together
_LEGEND_ENTRIES = 8
_LONGEST_BAR = 4.0  # times the median bar; a longer one is cut, since it would flatten all others
_BAR_ROOM = 1.28  # of the axis in lengths of its longest bar, for the numbers at the ends
_NAME_LENGTH = 20  # characters of a split point or a line of a deployment's name, on an axis or in a legend

T = TypeVar("T")


def run_figures(
    result: Result, outcomes: Sequence[Outcome], sensitivity: Sensitivity | None, found: DeploymentMap | None = None
) -> dict[str, Figure]:
    """All figures of a run by their names, for the page and for files.

    Args:
        result: What the search found.
        outcomes: Its ledger, in the order of the search.
        sensitivity: Its measured plans under other conditions; without them their two figures are left out.
        found: The map of deployments; without it that figure is left out.
    """
    budget, rows, measured = result.scenario.conditions.budget_ms, result.comparison, measured_plans(outcomes)
    figures = {
        "tradeoff": tradeoff_figure(outcomes, rows, result.outcome, result.best_baseline),
        "stages": stages_figure(stage_bars(rows, budget), budget),
        "energy": energy_figure(energy_bars(rows)),
        "heat-map": heat_map_figure(HeatMap.of(measured)),
        "search-curve": search_curve_figure(SearchCurve.of(measured), result.scenario.objective.partition(":")[0],
                                            result.provenance.agent),
    }
    if sensitivity is not None:
        figures["sensitivity-plans"], figures["sensitivity"] = sensitivity_figures(sensitivity)
    if found is not None:
        figures["map"] = map_figure(found)
    return figures


# --- accuracy against latency --------------------------------------------------------------------------------------


def tradeoff_figure(
    outcomes: Sequence[Outcome], rows: Sequence[ComparisonRow], best: Outcome, baseline: str = ""
) -> Figure:
    """Accuracy against p95 latency: measured plans, Pareto front, budget, baselines and the chosen plan.

    Args:
        outcomes: Measured plans (validation accuracy) under one set of conditions.
        rows: The comparison (test accuracy); the row that is `chosen` is the star, the others are baselines and
            finalists.
        best: The chosen outcome; the star stands here when no row is `chosen`.
        baseline: Method of the best baseline, as for `verdict`.
    """
    plans = one_a_plan(outcomes)
    points = [(o.latency.p95_ms, 100 * o.measurement.accuracy) for o in plans]
    chosen_row = next((row for row in rows if row.chosen), None)
    star = ((chosen_row.latency.p95_ms, 100 * chosen_row.accuracy) if chosen_row
            else (best.latency.p95_ms, 100 * best.measurement.accuracy))
    marks = [(row.latency.p95_ms, 100 * row.accuracy) for row in rows if not row.chosen] + [star]

    # In view is the part of the plane that matters: not the hopeless plans, and not what takes many times as long.
    times = [ms for ms, _ in points + marks] + [best.budget_ms]
    levels = [percent for _, percent in points + marks]
    least = max(min(levels), min(max(levels) - SPAN, star[1]))
    y = percent_axis("top-1 accuracy (%)", levels, least)
    low = max(min(t for t in times if t > 0), min(best.budget_ms, star[0]) / 50)
    high = max(t for t in times if t <= _OFF_SCALE * max(best.budget_ms, star[0]))
    right = high * (1.3 if high == max(times) else 1.6)  # marks off the scale stand at the edge
    x = log_axis("p95 latency, end to end (ms, log scale)", low / 1.2, right)
    hidden = sum(not (low / 1.2 <= ms <= right and y.limits[0] <= percent) for ms, percent in points)

    splits = depth_order(plans)
    listed = set(few(splits))
    traces = []
    for split, shade in zip(splits, shades(len(splits)), strict=True):
        mine = sorted((o for o in plans if o.plan.split == split), key=lambda o: not o.feasible)  # legend: the first
        traces.append(Trace(
            shortened(split) if split in listed else "", tuple(o.latency.p95_ms for o in mine),
            tuple(100 * o.measurement.accuracy for o in mine), shade, marker="o", edge=SOFT, opacity=0.9, group=PLANS,
            hollow=tuple(not o.feasible for o in mine), hover=tuple(about_plan(o) for o in mine)))
    front = front_of(plans)
    if len(front):
        # The last step goes on to the right: what takes longer and is no more accurate is beaten by it.
        end = 1.25 * max([right, *times])
        traces.append(Trace("Pareto front", (*front[:, 0].tolist(), end), (*front[:, 1].tolist(), float(front[-1, 1])),
                            INK, line="steps", group=PLANS))
    named = [best_split(rows), best_baseline(rows, baseline), *(row for row in rows if row.method in _NAMED)]
    for row in sorted(rows, key=lambda r: r.chosen):
        if chosen_row is not None and not row.chosen and row.plan == chosen_row.plan:  # below the star
            continue
        style, percent = look(row.method), 100 * row.accuracy
        text = f"{row.name}\n{percent:.1f} %, {quantity(row.latency.p95_ms, 'ms')}"
        traces.append(Trace(
            role(best) if row.chosen else row.name if row.method == FINALIST else style.label,
            (row.latency.p95_ms,), (max(percent, y.limits[0]),),
            GOLD if row.chosen else style.colour, marker=style.marker, size=16 if row.chosen else 8.5,
            edge=INK if row.chosen else "#ffffff", group=DEPLOYMENTS, bold=row.chosen,
            label=text if row.chosen or row in named or row.latency.p95_ms > right else "", hover=(about_row(row),)))
    if chosen_row is None:
        traces.append(Trace(role(best), star[:1], star[1:], GOLD, marker="*", size=16, edge=INK, group=DEPLOYMENTS,
                            bold=True, label=f"{role(best)}\n{star[1]:.1f} %, {quantity(star[0], 'ms')}"))

    note = (f"Each dot is one of {len(plans)} measured plans (validation images, most of them in the supernet without "
            f"fine-tuning). The star is the {role(best)}, the other marks are baselines and finalists, all on test "
            "images. Better is up and left; right of the dashed line is too late.")
    if hidden:
        note += f" {hidden} dot{' lies' if hidden == 1 else 's lie'} outside this view."
    chart = Chart(x, y, tuple(traces), limit=budget_line(best.budget_ms, shaded=True), legend="beside")
    return Figure("Accuracy against latency", note, (chart,),
                  finding(rows, best.budget_ms, baseline) if chosen_row is not None else "")


def depth_order(outcomes: Sequence[Outcome]) -> list[str]:
    """Split points from shallow to deep, `input` first, `output` last.

    By the operators of the head, which pruning leaves as many, then by the work of the least pruned one seen.
    """
    depth: dict[str, tuple[int, float]] = {}
    for o in outcomes:
        head = o.measurement.workload.device
        depth[o.plan.split] = max(depth.get(o.plan.split, (0, 0.0)), (head.operators, head.macs))
    return sorted(depth, key=lambda split: (split == OUTPUT, split != INPUT, depth[split], split))


def few(entries: Sequence[T]) -> list[T]:
    """As many entries as a legend has room for, evenly chosen, both ends included."""
    if len(entries) <= _LEGEND_ENTRIES:
        return list(entries)
    picked = np.unique(np.linspace(0, len(entries) - 1, _LEGEND_ENTRIES).round().astype(int))
    return [entries[i] for i in picked]


def shortened(path: str, width: int = _NAME_LENGTH) -> str:
    """A module path for an axis or a legend: one that is too long keeps its end, which tells it from others."""
    return path if len(path) <= width else f"…{path[1 - width:]}"


def front_of(outcomes: Sequence[Outcome]) -> Array:
    """The plans that no other beats in accuracy and p95 latency: milliseconds and per cent, shape (N, 2), ascending."""
    points = np.array([(o.latency.p95_ms, o.measurement.accuracy * 100) for o in outcomes]).reshape(-1, 2)
    front: Array = np.unique(points[pareto_mask(points * [1, -1])], axis=0) if len(points) else points
    return front


def role(best: Outcome) -> str:
    """What the chosen plan is called where none may be in time."""
    return "chosen plan" if best.feasible else "least late plan"


def about_plan(outcome: Outcome) -> str:
    """A plan in a few lines, its label first."""
    measured, times = outcome.measurement, outcome.latency
    ratio = measured.compression_ratio
    smaller = f" ({ratio:.1f}x less than the fp32 feature)" if ratio else ""
    return (f"{outcome.plan.label}\n{100 * measured.accuracy:.1f} % on validation images ({measured.fidelity})"
            f"\np95 {quantity(times.p95_ms, 'ms')}, p50 {quantity(times.p50_ms, 'ms')}"
            f"\npayload {measured.workload.payload_bytes_mean:,.0f} B{smaller}\n{quantity(times.energy_mj, 'mJ')}")


def about_row(row: ComparisonRow) -> str:
    """A deployment in a few lines, its name first."""
    times = row.latency
    return (f"{row.name}\n{row.plan}\n{100 * row.accuracy:.1f} % on test images"
            f"\np95 {quantity(times.p95_ms, 'ms')}, p50 {quantity(times.p50_ms, 'ms')}"
            f"\npayload {row.payload_bytes:,.0f} B\n{quantity(times.energy_mj, 'mJ')}")


def budget_line(budget_ms: float, shaded: bool) -> Limit:
    """The deadline in a chart whose x axis is latency."""
    return Limit(budget_ms, f"budget {quantity(budget_ms, 'ms')}", shaded, colour=RED)


# --- bars of deployments -------------------------------------------------------------------------------------------


def stage_bars(rows: Sequence[ComparisonRow], budget_ms: float) -> Bars:
    """Median milliseconds of each stage; totals are the p95 latency.

    Args:
        rows: The comparison.
        budget_ms: The deadline, always on the axis.
    """
    ordered = sorted(rows, key=lambda row: not row.chosen)
    parts = {stage: tuple(getattr(row.latency, f"{stage}_ms") for row in ordered) for stage in STAGE_COLOURS}
    colours = {stage: (colour,) * len(ordered) for stage, colour in STAGE_COLOURS.items()}
    return _bars(ordered, parts, tuple(row.latency.p95_ms for row in ordered), "ms", colours, budget_ms)


def energy_bars(rows: Sequence[ComparisonRow]) -> Bars:
    """Millijoules that the device spends on one inference.

    Args:
        rows: The comparison.
    """
    ordered = sorted(rows, key=lambda row: not row.chosen)
    totals = tuple(row.latency.energy_mj for row in ordered)
    colours = {"device": tuple(GOLD if row.chosen else SOFT for row in ordered)}
    return _bars(ordered, {"device": totals}, totals, "mJ", colours, 0.0)


def _bars(rows: Sequence[ComparisonRow], parts: dict[str, tuple[float, ...]], totals: tuple[float, ...], unit: str,
          colours: dict[str, tuple[str, ...]], least: float) -> Bars:
    # One bar of seconds beside others of milliseconds would leave nothing to see of them.
    reach = max(_LONGEST_BAR * float(np.median(totals)), least)
    limit = 1.04 * max([least, 1e-9, *(total for total in totals if total <= reach)])
    return Bars(tuple(rows), parts, totals, limit, unit, colours)


def stages_figure(bars: Bars, budget_ms: float) -> Figure:
    """Stacked bars of the five stages, with the p95 of each deployment and the budget.

    Args:
        bars: Of `stage_bars`.
        budget_ms: The deadline.
    """
    inside = [i for i, cut in enumerate(bars.cut) if not cut]
    ends = Trace("p95, end to end", tuple(bars.totals[i] for i in inside), tuple(map(float, inside)), INK, marker="|",
                 size=15, hover=tuple(about_row(bars.rows[i]) for i in inside))
    note = ("Medians of the stages, stacked; the tick and the number are the p95 from end to end."
            + (" A bar with ▸ is longer than the axis." if any(bars.cut) else ""))
    chart = _bar_chart(bars, "milliseconds (stages: medians)", (ends,), budget_line(budget_ms, shaded=False))
    return Figure("Where the time goes", note, (chart,))


def energy_figure(bars: Bars) -> Figure:
    """Energy of the device for one inference.

    Args:
        bars: Of `energy_bars`.
    """
    return Figure("Energy", "What the device spends on one inference: computing, sending, waiting for the answer.",
                  (_bar_chart(bars, "millijoules an inference", (), None),))


def _bar_chart(bars: Bars, title: str, traces: tuple[Trace, ...], limit: Limit | None) -> Chart:
    names = tuple(enumerate(textwrap.fill(row.name, _NAME_LENGTH) for row in bars.rows))
    chosen = next((i for i, row in enumerate(bars.rows) if row.chosen), None)
    return Chart(Axis(title, (0.0, _BAR_ROOM * bars.limit), grid=True),
                 Axis("", (len(names) - 0.4, -0.6), ticks=names, frame=False, bold=chosen), traces, bars=bars,
                 limit=limit, legend="level" if len(bars.parts) > 1 else "none")


# --- accuracy over split and compression ---------------------------------------------------------------------------


@dataclass(frozen=True)
class HeatMap:
    """The most accurate measured plan of each split point and size of payload.

    Attributes:
        splits: Rows, from shallow to deep.
        sizes: Columns: payload bytes by powers of two, as text.
        best: The plan of each cell, `None` where none was measured.
    """

    splits: tuple[str, ...]
    sizes: tuple[str, ...]
    best: tuple[tuple[Outcome | None, ...], ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> HeatMap:
        """The map of outcomes of one fidelity."""
        splits = depth_order(outcomes)
        # Payloads differ by orders of magnitude, so each column holds twice the bytes of the one before.
        payloads = [o.measurement.workload.payload_bytes_mean for o in outcomes]
        octaves = [math.floor(math.log2(max(payload, 1.0))) if payload > 0 else None for payload in payloads]
        sent = [k for k in octaves if k is not None]
        columns: list[int | None] = [None] if None in octaves else []
        columns += list(range(min(sent), max(sent) + 1)) if sent else []
        cells: dict[tuple[str, int | None], Outcome] = {}
        for o, octave in zip(outcomes, octaves, strict=True):
            known = cells.get((o.plan.split, octave))
            if known is None or o.measurement.accuracy > known.measurement.accuracy:
                cells[o.plan.split, octave] = o
        best = tuple(tuple(cells.get((split, column)) for column in columns) for split in splits)
        return cls(tuple(splits), tuple(map(payload_range, columns)), best)

    @property
    def accuracy(self) -> Array:
        """Per cent, shape (splits, sizes); NaN where no plan was measured."""
        return np.array([[math.nan if o is None else 100 * o.measurement.accuracy for o in row] for row in self.best])


def payload_range(octave: int | None) -> str:
    """Bytes from one power of two to the next as text; `None` is a plan that sends nothing."""
    if octave is None:
        return "nothing"
    low, high = 2**octave, 2 ** (octave + 1)
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if low >= size:
            return f"{low // size}-{high // size} {unit}"
    return f"{low}-{high} B"


def heat_map_figure(found: HeatMap) -> Figure:
    """The most accurate measured plan of each split point and payload size.

    Args:
        found: Of `HeatMap.of`.
    """
    cells = Cells(found.accuracy, tuple(tuple("" if o is None else about_plan(o) for o in row) for row in found.best),
                  level_range(found.accuracy), written=True)
    columns, rows = len(found.sizes), len(found.splits)
    x = Axis("payload", (-0.5, columns - 0.5), ticks=tuple(enumerate(found.sizes)), frame=False, slanted=True)
    y = Axis("split point", (rows - 0.5, -0.5), ticks=tuple(enumerate(map(shortened, found.splits))), frame=False)
    return Figure("Accuracy over split and compression",
                  "The most accurate measured plan of each cell, in per cent (proxy accuracy: supernet, validation "
                  "images), whatever its sparsity. An empty cell was not measured. Splits from shallow (top) to deep.",
                  (Chart(x, y, cells=cells),))


# --- the progress of the search -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchCurve:
    """The best reward after each measurement of a search.

    Attributes:
        outcomes: Measurements (F1), in order.
        best: For each, the place of the best feasible one up to then; -1 where none was in time yet.
    """

    outcomes: tuple[Outcome, ...]
    best: tuple[int, ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> SearchCurve:
        """The curve of a search, from its outcomes in order."""
        best, at = [], -1
        for i, o in enumerate(outcomes):
            if o.feasible and (at < 0 or o.reward > outcomes[at].reward):
                at = i
            best.append(at)
        return cls(tuple(outcomes), tuple(best))

    @property
    def records(self) -> list[int]:
        """Places of the measurements that became the best so far."""
        return [at for i, at in enumerate(self.best) if at == i]

    @property
    def view(self) -> tuple[float, float]:
        """Rewards in view: from the best down to the least feasible one, not too far."""
        rewards = [o.reward for o in self.outcomes if o.feasible] or [o.reward for o in self.outcomes] or [0.0]
        top = max(rewards)
        # A few plans that fail altogether would otherwise leave a thin line of all others.
        bottom = max(min(rewards), top - SPAN / 100)
        margin = max(0.01, 0.06 * (top - bottom))
        return bottom - margin, top + margin


def search_curve_figure(curve: SearchCurve, objective: str, agent: str) -> Figure:
    """Best reward so far against the number of measurements.

    Args:
        curve: Of `SearchCurve.of`.
        objective: Name of the reward.
        agent: Name of what searched.
    """
    bottom, top = curve.view
    found = curve.outcomes

    def points(places: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
        texts = []
        for i in places:
            plan, _, rest = about_plan(found[i]).partition("\n")
            texts.append(f"{plan}\nmeasurement {i + 1}, reward {found[i].reward:.3f}\n{rest}")
        return (tuple(i + 1.0 for i in places), tuple(max(found[i].reward, bottom) for i in places), tuple(texts))

    traces = []
    for feasible, name in ((True, "in time"), (False, "too late")):
        x, y, hover = points([i for i, o in enumerate(found) if o.feasible is feasible])
        traces.append(Trace(name, x, y, SOFT, marker="o", size=4.8, edge=SOFT, hollow=(not feasible,) * len(x),
                            hover=hover))
    since = [i for i, at in enumerate(curve.best) if at >= 0]  # before, nothing was in time
    traces.append(Trace("best so far", tuple(i + 1.0 for i in since),
                        tuple(found[curve.best[i]].reward for i in since), "#0072b2", line="steps", width=2.2))
    x, y, hover = points(curve.records)
    traces.append(Trace("new best", x, y, GOLD, marker="D", size=7, edge=INK, hover=hover))
    rewards = Axis(f"reward ({objective})", (bottom - 0.02 * (top - bottom), top), grid=True)
    chart = Chart(Axis("measurements", (0.0, len(found) + 1.0)), rewards, tuple(traces), legend="level")
    return Figure("How the search went",
                  f"The best reward so far after each measurement by the agent {agent}. Dots are the plans that it "
                  "tried; those below the chart stand on its lower edge.", (chart,))


# --- other conditions ----------------------------------------------------------------------------------------------


def sensitivity_figures(found: Sensitivity) -> tuple[Figure, Figure]:
    """The measured plans under the scenario's own rate and budget, and the best of them under all others.

    The page's sliders move what the first one shows: its trace 0, the star of trace 1 and its limit.

    Args:
        found: The measured plans over a grid of link rates and budgets.
    """
    r, b = found.home
    splits = depth_order(found.outcomes)
    shade = dict(zip(splits, shades(len(splits)), strict=True))
    levels = [100 * o.measurement.accuracy for o in found.outcomes]
    p95, at, budget = found.latency.p95_ms, int(found.best[r, b]), float(found.budgets_ms[b])
    dots = Trace("", tuple(p95[:, r].tolist()), tuple(levels), tuple(shade[o.plan.split] for o in found.outcomes),
                 marker="o", edge=SOFT,
                 hover=tuple(f"{o.plan.label}\n{levels[i]:.1f} % (F1)" for i, o in enumerate(found.outcomes)))
    star = Trace("", (float(p95[at, r]),), (levels[at],), GOLD, marker="*", size=16, edge=INK)
    left, right = float(p95.min()) / 1.3, float(max(p95.max(), found.budgets_ms[-1])) * 1.3
    plans = Chart(log_axis("p95 latency (ms, log scale)", max(left, budget / 400), min(right, budget * 400), 0.6),
                  percent_axis("proxy accuracy (%)", levels, max(min(levels), max(levels) - 60.0)), (dots, star),
                  limit=budget_line(budget, shaded=True))

    hover = []
    for i, rate in enumerate(found.rates_kbps):
        hover.append(tuple(
            f"{quantity(rate, 'kb/s')}, budget {quantity(found.budgets_ms[j], 'ms')}\n"
            + ("" if found.feasible[i, j] else "nothing in time; least late:\n")
            + found.outcomes[found.best[i, j]].plan.label for j in range(len(found.budgets_ms))))
    here = Trace("", (float(b),), (float(r),), RED, marker="o", size=13, edge=RED, hollow=(True,), width=2.5)
    rows, columns = len(found.rates_kbps), len(found.budgets_ms)
    everywhere = Chart(
        Axis("budget (ms)", (-0.5, columns - 0.5), ticks=nice_ticks(found.budgets_ms, b), frame=False),
        Axis("uplink (kb/s)", (-0.5, rows - 0.5), ticks=nice_ticks(found.rates_kbps, r), frame=False), (here,),
        cells=Cells(found.accuracy, tuple(hover), level_range(found.accuracy)))
    return (Figure("The plans at this rate", "", (plans,)),
            Figure("If link or budget change",
                   "Accuracy of the best measured plan in per cent (proxy accuracy: supernet, validation images) over "
                   "link rate and budget. The circle is the scenario's own place; nothing is in time in empty cells.",
                   (everywhere,)))
