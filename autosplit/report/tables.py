"""The comparison of deployments, and a latency breakdown, as terminal tables and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autosplit.core.comparison import ComparisonRow
from autosplit.core.plan import LatencySummary

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

__all__ = ["CAPTION", "STAGES", "SummaryRow", "comparison_table", "factor", "latency_table",
           "summary_markdown", "summary_table", "to_frame", "to_markdown"]

STAGES = ("device", "encode", "uplink", "edge", "downlink")
_RELATIVE_TOLERANCE = 1e-6
_EMPTY = "-"
CAPTION = """\
accuracy: test set, and its change against the uncut network in points
ratio: of the fp32 feature / the PNG / the JPEG to the payload
in time: p95 within the budget, and the share of inferences that are; in-time accuracy: accuracy x that share
mJ, MMACs: energy and work of the device, encoder included
speed-up: p95 of the quickest baseline that loses at most 1 point over this p95; * = the chosen plan"""


def comparison_table(rows: Sequence[ComparisonRow], budget_ms: float) -> Table:
    """The deployments side by side; readable from 80 columns up, and without colour.

    Args:
        rows: The deployments, in the order of display.
        budget_ms: The deadline they are held against, milliseconds.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, header_style="bold",
                  caption=CAPTION, caption_justify="left")
    table.add_column("deployment", ratio=1, min_width=18, overflow="fold")
    for title in ("accuracy", "payload\nratio", "p95 ms\np50 ms", f"in time\n{_number(budget_ms)} ms",
                  "in-time\naccuracy", "mJ\nMMACs", "speed-\nup"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row.chosen else None)
    return table


def _cells(row: ComparisonRow) -> list[Text | str]:
    from rich.text import Text

    name = Text(f"{'* ' if row.chosen else ''}{row.name}")
    name.append(f"\n{row.plan}", style="dim")
    verdict = Text("yes" if row.feasible else "NO", style="green" if row.feasible else "red")
    verdict.append(f"\n{_share(row.latency.in_time)}", style="dim")
    times = Text(_ms(row.latency.p95_ms), style="" if row.feasible else "red")
    times.append(f"\n{_ms(row.latency.p50_ms)}", style="dim")
    work = Text(_number(row.latency.energy_mj))
    work.append(f"\n{_number(row.device_macs / 1e6)}", style="dim")
    payload = Text(f"{row.payload_bytes:,.0f} B" if row.payload_bytes else "0 B")
    payload.append(f"\n{_ratios(row)}", style="dim")
    accuracy = Text(f"{row.accuracy * 100:.1f} %")
    accuracy.append(f"\n{_change(row)}", style="dim")
    return [name, accuracy, payload, times, verdict, f"{row.in_time_accuracy * 100:.1f} %", work,
            factor(row.speed_up)]


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
        baselines = [row for row in rows if not row.chosen]
        return cls(title, next(row for row in rows if row.chosen), max(baselines, key=lambda r: r.in_time_accuracy))

    @property
    def cells(self) -> tuple[str, ...]:
        """Scenario, plan, in-time accuracy, best baseline and its own, and the speed-up, as text."""
        return (self.title, self.ours.plan, f"{self.ours.in_time_accuracy * 100:.1f} %", self.best.name,
                f"{self.best.in_time_accuracy * 100:.1f} %", factor(self.ours.speed_up))


_SUMMARY_TITLES = ("scenario", "plan", "in-time accuracy", "best baseline", "its own", "speed-up")
_SUMMARY_CAPTION = """\
in-time accuracy: accuracy (test) x the probability of an answer within the budget; best baseline: in this respect
speed-up: p95 of the quickest baseline that loses at most 1 point over the plan's p95"""


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
    lines = [_SUMMARY_TITLES, (":--", ":--", "--:", ":--", "--:", "--:"), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in cells)} |" for cells in lines) + "\n"


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
    for title, field, unit in _latency_lines():
        before = getattr(recorded, field)
        cells = [title, f"{before * 100:.2f} %" if unit == "%" else f"{_ms(before)} {unit}"]
        if replayed is not None:
            now = getattr(replayed, field)
            cells += [f"{now * 100:.2f} %" if unit == "%" else f"{_ms(now)} {unit}", _difference(before, now, unit)]
        table.add_row(*cells, end_section=field == "downlink_ms",
                      style="bold" if field in ("p50_ms", "p95_ms") else None)
    return table


def _latency_lines() -> list[tuple[str, str, str]]:
    stages = [(f"{stage} (median)", f"{stage}_ms", "ms") for stage in STAGES]
    return [*stages, ("end to end, p50", "p50_ms", "ms"), ("end to end, p95", "p95_ms", "ms"),
            ("in time", "in_time", "%"), ("device energy", "energy_mj", "mJ")]


def _difference(before: float, now: float, unit: str) -> str:
    if abs(now - before) <= _RELATIVE_TOLERANCE * max(abs(before), abs(now)):
        return "="
    change, name = ((now - before) * 100, "points") if unit == "%" else (now - before, unit)
    return f"{change:+.3g} {name} !"


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
    titles = ["deployment", "plan", "accuracy", "change", "payload", "x fp32 feature", "x PNG", "x JPEG",
              "device MMACs", "p50 ms", "p95 ms", "in time", "in-time accuracy", "energy mJ", "speed-up"]
    lines = [titles, [":--", ":--", *["--:"] * (len(titles) - 2)], *map(_markdown_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _markdown_cells(row: ComparisonRow) -> list[str]:
    cells = [row.name, row.plan, f"{row.accuracy * 100:.1f} %", _change(row), f"{row.payload_bytes:,.0f} B",
             *map(factor, (row.ratio_to_feature, row.ratio_to_png, row.ratio_to_jpeg)),
             _number(row.device_macs / 1e6), _ms(row.latency.p50_ms), _ms(row.latency.p95_ms),
             f"{'yes' if row.feasible else 'no'} ({_share(row.latency.in_time)})",
             f"{row.in_time_accuracy * 100:.1f} %", _number(row.latency.energy_mj), factor(row.speed_up)]
    escaped = [_escaped(cell) for cell in cells]
    return [f"**{cell}**" for cell in escaped] if row.chosen else escaped


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _ms(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def factor(value: float | None) -> str:
    """A speed-up or a ratio as text; a dash for none."""
    if value is None:
        return _EMPTY
    return f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x" if value >= 0.95 else f"{value:.2f}x"


def _ratios(row: ComparisonRow) -> str:
    ratios = (row.ratio_to_feature, row.ratio_to_png, row.ratio_to_jpeg)
    return _EMPTY if ratios == (None, None, None) else "/".join(map(_short_ratio, ratios))


def _short_ratio(value: float | None) -> str:
    if value is None:
        return _EMPTY
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "<.1"


def _change(row: ComparisonRow) -> str:
    return f"{round(-row.accuracy_loss_points, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"


def _share(probability: float) -> str:
    percent = probability * 100
    return f"{percent:.0f} %" if percent in (0, 100) or 1 <= percent <= 99 else (
        "<1 %" if percent < 1 else ">99 %")
