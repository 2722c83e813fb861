"""The comparison of deployments, and a latency breakdown, as terminal tables and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autosplit.core.comparison import ComparisonRow, best_baseline
from autosplit.core.measurement import LatencySummary

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["CAPTION", "STAGES", "SummaryRow", "comparison_table", "factor", "latency_table",
           "summary_markdown", "summary_table", "to_frame", "to_markdown"]

STAGES = ("device", "encode", "uplink", "edge", "downlink")
_RELATIVE_TOLERANCE = 1e-6
_EMPTY = "-"
CAPTION = """\
accuracy: test images classified right, below it the 95 % interval
against *: points of accuracy against the chosen plan, paired on the same images,
below it the 95 % interval; where it holds 0 the two cannot be told apart
image formats: the network on the edge was fine-tuned on pictures so coded, unless late
payload: mean bytes of an image that is sent (and how many are, where the device has an
exit and answers the others); ratios: fp32 feature / PNG / JPEG over it
p95, p50: milliseconds within which 95 % and half of the answers arrive
in time: whether p95 is within the budget, and the share of answers that are
energy, MMACs: of the device for one inference, mJ and million multiply-adds
speed-up: p95 of the quickest baseline that loses at most 1 point over this p95
* = the chosen plan"""
_MEMORY = "RAM, flash: of the device's side as C; - = it cannot be written as C"


def comparison_table(rows: Sequence[ComparisonRow], budget_ms: float) -> Table:
    """The deployments side by side; readable from 80 columns up, and without colour.

    Args:
        rows: The deployments, in the order of display.
        budget_ms: The deadline they are held against, milliseconds.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, header_style="bold",
                  caption=CAPTION, caption_justify="left")
    table.add_column("deployment", ratio=1, min_width=18, overflow="fold")
    for title in ("accuracy\n95 %", "against\n*", "payload\nratios", "p95 ms\np50 ms",
                  f"in time\n{number(budget_ms)} ms", "energy\nMMACs", "speed-\nup"):
        table.add_column(title, justify="right", no_wrap=True)
    in_c = any(row.ram_bytes is not None for row in rows)
    if in_c:
        table.add_column("RAM kB\nflash", justify="right", no_wrap=True)
        table.caption = f"{CAPTION}\n{_MEMORY}"
    for row in rows:
        late = "" if row.feasible else "red"
        # Two values a cell, the second one dim below the first: side by side they would not fit into 80 columns.
        cells = ((f"{'* ' if row.chosen else ''}{row.name}", row.plan, ""),
                 (f"{row.accuracy * 100:.1f} %", accuracy_interval(row), ""),
                 difference(row),
                 (payload(row), ratios(row), ""),
                 (milliseconds(row.latency.p95_ms), milliseconds(row.latency.p50_ms), late),
                 ("yes" if row.feasible else "NO", share(row.latency.in_time), late or "green"),
                 (number(row.latency.energy_mj), number(row.device_macs / 1e6), ""),
                 (factor(row.speed_up), "", ""),
                 *([(kilobytes(row.ram_bytes), kilobytes(row.flash_bytes), "")] if in_c else []))
        table.add_row(*(Text.assemble((first, style), (f"\n{second}" if second else "", "dim"))
                        for first, second, style in cells), style="bold" if row.chosen else None)
    return table


@dataclass(frozen=True)
class SummaryRow:
    """One scenario of many: the chosen plan against the baselines.

    Attributes:
        title: The scenario.
        ours: The chosen plan.
        best: The baseline of the highest in-time accuracy.
    """

    title: str
    ours: ComparisonRow
    best: ComparisonRow

    @classmethod
    def of(cls, title: str, rows: Sequence[ComparisonRow]) -> SummaryRow:
        """The summary of one comparison."""
        best = best_baseline(rows)
        assert best is not None  # a comparison without baselines is none
        return cls(title, next(row for row in rows if row.chosen), best)

    @property
    def cells(self) -> tuple[str, ...]:
        """Scenario, plan, in-time accuracy, best baseline, its in-time accuracy, and the speed-up, as text."""
        return (self.title, self.ours.plan, f"{self.ours.in_time_accuracy * 100:.1f} %", self.best.name,
                f"{self.best.in_time_accuracy * 100:.1f} %", factor(self.ours.speed_up))


_SUMMARY_TITLES = ("scenario", "plan", "in-time accuracy", "best baseline", "baseline's in-time accuracy", "speed-up")
_SUMMARY_CAPTION = """\
in-time accuracy: accuracy (test images) x the probability of an answer within the budget
best baseline: the one of the highest in-time accuracy
speed-up: p95 of the quickest baseline that loses at most 1 point, divided by the plan's p95; red = too late"""


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """Many scenarios, a line each; readable from 80 columns up.

    Args:
        rows: One a scenario.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold",
                  caption=_SUMMARY_CAPTION, caption_justify="left")
    for title in _SUMMARY_TITLES:
        text = title in {"scenario", "plan", "best baseline"}
        table.add_column(title, justify="left" if text else "right", overflow="fold", ratio=1 if text else None)
    for row in rows:
        table.add_row(*map(Text, row.cells), style=None if row.ours.feasible else "red")
    return table


def summary_markdown(rows: Sequence[SummaryRow]) -> str:
    """Many scenarios as a Markdown table."""
    return markdown([_SUMMARY_TITLES, (":--", ":--", "--:", ":--", "--:", "--:"), *(row.cells for row in rows)])


def latency_table(recorded: LatencySummary, replayed: LatencySummary | None = None) -> Table:
    """The latency stage by stage; with a second one, both side by side and where they differ.

    Args:
        recorded: The latency in the result file.
        replayed: The latency now, or `None` to show the recorded one alone.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("stage")
    table.add_column("recorded", justify="right")
    if replayed is not None:
        table.add_column("replayed", justify="right")
        table.add_column("difference", justify="right")
    lines = [*((f"{stage} (median)", f"{stage}_ms", "ms") for stage in STAGES),
             ("end to end, p50", "p50_ms", "ms"), ("end to end, p95", "p95_ms", "ms"), ("in time", "in_time", "%"),
             ("device energy", "energy_mj", "mJ")]
    for title, field, unit in lines:
        before = getattr(recorded, field)
        now = before if replayed is None else getattr(replayed, field)
        cells = [f"{value * 100:.2f} %" if unit == "%" else f"{milliseconds(value)} {unit}" for value in (before, now)]
        # Another processor may round sums of floats differently; that is no difference worth a mark.
        if abs(now - before) <= _RELATIVE_TOLERANCE * max(abs(before), abs(now)):
            difference = "="
        elif unit == "%":
            difference = f"{(now - before) * 100:+.3g} points !"
        else:
            difference = f"{now - before:+.3g} {unit} !"
        table.add_row(title, *(cells[:1] if replayed is None else [*cells, difference]),
                      end_section=field == "downlink_ms", style="bold" if field in ("p50_ms", "p95_ms") else None)
    return table


def to_frame(rows: Sequence[ComparisonRow]) -> pd.DataFrame:
    """The comparison as a flat table of plain numbers; units stand in the names of the columns."""
    import pandas as pd

    columns = [*(n for n in ComparisonRow.model_fields if n != "latency"), *LatencySummary.model_fields,
               "in_time_accuracy"]
    records = [{**row.model_dump(exclude={"latency"}), **row.latency.model_dump(),
                "in_time_accuracy": row.in_time_accuracy} for row in rows]
    frame: pd.DataFrame = pd.DataFrame.from_records(records, columns=columns)
    return frame


def to_markdown(rows: Sequence[ComparisonRow]) -> str:
    """The comparison as a Markdown table, the chosen plan in bold."""
    titles = ["deployment", "plan", "accuracy", "95 %", "against chosen", "95 %", "payload",
              "x fp32 feature", "x PNG", "x JPEG", "device MMACs", "p50 ms", "p95 ms", "in time",
              "in-time accuracy", "energy mJ", "speed-up"]
    in_c = any(row.ram_bytes is not None for row in rows)
    titles += ["RAM kB", "flash kB"] if in_c else []
    lines = [titles, [":--", ":--", *["--:"] * (len(titles) - 2)]]
    for row in rows:
        cells = [row.name, row.plan, f"{row.accuracy * 100:.1f} %", accuracy_interval(row), *difference(row)[:2],
                 payload(row),
                 *map(factor, (row.ratio_to_feature, row.ratio_to_png, row.ratio_to_jpeg)),
                 number(row.device_macs / 1e6), milliseconds(row.latency.p50_ms), milliseconds(row.latency.p95_ms),
                 f"{'yes' if row.feasible else 'no'} ({share(row.latency.in_time)})",
                 f"{row.in_time_accuracy * 100:.1f} %", number(row.latency.energy_mj), factor(row.speed_up),
                 *([kilobytes(row.ram_bytes), kilobytes(row.flash_bytes)] if in_c else [])]
        lines.append([f"**{cell}**" for cell in cells] if row.chosen else cells)
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table; a bar within a cell, as in a plan's label, would end the cell."""
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped) + "\n"


# --- numbers as text -----------------------------------------------------------------------------------------------


def kilobytes(size: int | None) -> str:
    """Memory in thousands of bytes."""
    return _EMPTY if size is None else f"{size / 1000:.1f}"


def milliseconds(value: float) -> str:
    """A time or an energy, of which small ones need two decimals."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def number(value: float) -> str:
    """Three figures, no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def payload(row: ComparisonRow) -> str:
    """Mean bytes of an image that is sent, and the share that is where it is not all."""
    text = f"{row.payload_bytes:,.0f} B"
    return text if row.exit is None else f"{text} ({share(row.exit.sent)})"


def factor(value: float | None) -> str:
    """A speed-up or a ratio as text; a dash for none."""
    if value is None:
        return _EMPTY
    return f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x" if value >= 0.95 else f"{value:.2f}x"


def ratios(row: ComparisonRow) -> str:
    """How many times larger the fp32 feature, the PNG and the JPEG are than the payload, in little room."""
    found = (row.ratio_to_feature, row.ratio_to_png, row.ratio_to_jpeg)
    if not any(found):
        return _EMPTY
    return "/".join(_EMPTY if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1
                    else "<.1" for value in found)


def accuracy_interval(row: ComparisonRow) -> str:
    """The 95 % interval of an accuracy, per cent; a dash where it was not recorded."""
    if row.accuracy_low is None or row.accuracy_high is None:
        return _EMPTY
    return f"{100 * row.accuracy_low:.1f}-{100 * row.accuracy_high:.1f}"


def difference(row: ComparisonRow) -> tuple[str, str, str]:
    """Points of accuracy against the chosen plan and their 95 % interval, and how a table shows them.

    In red where the interval lies below 0, in green where it lies above.
    """
    points, low, high = row.difference_points, row.difference_low_points, row.difference_high_points
    if row.chosen or points is None or low is None or high is None:
        return _EMPTY, "", ""
    return (f"{round(points, 1) + 0.0:+.1f}", f"{round(low, 1) + 0.0:+.1f}..{round(high, 1) + 0.0:+.1f}",
            "red" if high < 0 else "green" if low > 0 else "")


def share(probability: float) -> str:
    """Whole per cent; 0 % and 100 % only where they are exact."""
    percent = probability * 100
    return f"{percent:.0f} %" if percent in (0, 100) or 1 <= percent <= 99 else (
        "<1 %" if percent < 1 else ">99 %")
