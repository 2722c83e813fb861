import io

import pytest
from rich.console import Console

from autosplit.core.comparison import ComparisonRow
from autosplit.report.tables import (
    SummaryRow,
    comparison_table,
    latency_table,
    summary_markdown,
    summary_table,
    to_frame,
    to_markdown,
)


def render(table, width, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, color_system=None).print(table)
    file.seek(0)
    return file.read()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_comparison_is_complete_at_every_width(rows, width):
    text = render(comparison_table(rows, 100.0), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text  # nothing was cut off
    lines = text.splitlines()
    for part in ("96.1 %", "2,065 B", "6.0/1.0/0.4", "227.0", "10,000", "* autosplit", "208/35/15", "0.45x"):
        assert sum(part in line for line in lines) >= 1, part


def test_too_late_is_said_in_words(rows):
    lines = render(comparison_table(rows, 100.0), 100).splitlines()
    verdicts = {name: next(line for line in lines if name in line) for name in ("whole network", "* autosplit")}
    assert " NO " in verdicts["whole network"]
    assert " yes " in verdicts["* autosplit"]


def test_wide_table_keeps_every_plan_on_one_line(rows):
    text = render(comparison_table(rows, 100.0), 140)
    for row in rows:
        assert row.plan in text


def test_comparison_prints_where_only_ascii_can(rows):
    assert "autosplit" in render(comparison_table(rows, 100.0), 80, "ascii")


def test_names_with_brackets_are_not_markup(rows):
    odd = rows[0].model_copy(update={"name": "[red]x[/red]", "plan": "[/]"})
    text = render(comparison_table([odd], 100.0), 100)
    assert "[red]x[/red]" in text
    assert "[/]" in text


def test_latency_breakdown_marks_differences(best):
    recorded = best.latency
    replayed = recorded.model_copy(update={"uplink_ms": recorded.uplink_ms + 3, "in_time": recorded.in_time - 0.1})
    lines = render(latency_table(recorded, replayed), 80).splitlines()
    marked = [line.split()[0] for line in lines if line.rstrip().endswith("!")]
    assert marked == ["uplink", "in"]
    assert any("+3 ms" in line for line in lines)
    assert any("-10 points" in line for line in lines)
    assert "replayed" not in render(latency_table(recorded), 80)


def test_frame_holds_plain_numbers(rows):
    frame = to_frame(rows)
    assert len(frame) == len(rows)
    assert set(ComparisonRow.model_fields) - {"latency"} <= set(frame.columns)
    assert frame["p95_ms"].tolist() == [r.latency.p95_ms for r in rows]
    assert frame["payload_bytes"].dtype == float
    assert frame["ratio_to_png"].isna().tolist() == [True, False, False, False, False]
    assert list(to_frame([]).columns) == list(frame.columns)


def test_markdown_is_a_table_with_escaped_bars(rows):
    lines = to_markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "**autosplit**" in lines[-1]
    assert "no (0 %)" in lines[2]


def test_in_time_accuracy_is_shown_and_written(rows):
    assert rows[0].in_time_accuracy == rows[0].accuracy * rows[0].latency.in_time
    text = render(comparison_table(rows, 100.0), 100)
    assert f"{rows[-1].in_time_accuracy * 100:.1f} %" in text
    frame = to_frame(rows)
    assert frame["in_time_accuracy"].tolist() == [r.in_time_accuracy for r in rows]
    assert f"| {rows[0].in_time_accuracy * 100:.1f} % |" in to_markdown(rows)


# --- many scenarios -------------------------------------------------------------------------------------------------


def test_a_summary_names_the_best_baseline(rows):
    late = [r.model_copy(update={"latency": r.latency.model_copy(update={"in_time": 0.5})}) for r in rows]
    line = SummaryRow.of("here", [*rows[:2], late[2], *rows[3:]])
    assert line.best.name == "JPEG q75"
    assert line.ours.chosen
    assert line.cells[0] == "here"
    assert line.cells[3:5] == ("JPEG q75", f"{late[2].accuracy * 50:.1f} %")


@pytest.mark.parametrize("width", [80, 120])
def test_summary_is_complete_at_every_width(rows, width):
    lines = [SummaryRow.of(f"device-{i}, channel-{i}, 100 ms", rows) for i in range(3)]
    text = render(summary_table(lines), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for part in ("device-0,", "device-2,", "1.9x", "in-time", "loses at most 1 point"):
        assert part in text
    odd = SummaryRow("[red]x[/red]", rows[-1], rows[0])
    assert "[red]x[/red]" in render(summary_table([odd]), 120)


def test_summary_markdown_is_a_table_with_escaped_bars(rows):
    lines = summary_markdown([SummaryRow.of("a | b", rows)] * 2).splitlines()
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
