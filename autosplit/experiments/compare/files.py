"""The files of a comparison: one table of all rows, a page for people, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autosplit.core.errors import unwritable
from autosplit.core.files import write_whole
from autosplit.experiments.compare.curves import latency_panels, payload_panels, rate_panels, titles
from autosplit.experiments.compare.run import Comparison
from autosplit.report.comparison_figures import accuracy_latency_figure, accuracy_payload_figure, in_time_figure
from autosplit.report.draw_matplotlib import write_figure
from autosplit.report.tables import CAPTION, SummaryRow, summary_markdown, to_frame, to_markdown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["all_rows", "draw_figures", "summary", "write_tables"]

_TABLE, _PAGE = "comparison.csv", "comparison.md"
_PAYLOAD, _LATENCY, _RATE = "accuracy-payload", "accuracy-latency", "in-time-rate"
_CAPTIONS = {
    _PAYLOAD: "Lines: the best accuracy with at most so many bytes among everything measured with a codec, pruned or "
              "not (F1, validation images); faint dots: all of it. Marks: the deployments that were chosen, "
              "fine-tuned, in the device's arithmetic, through real payloads (F3, test images). Where "
              "several scenarios share the networks, measurements and marks of all of them are shown.",
    _LATENCY: "Deployments that were chosen on validation images, in the device's arithmetic, through real payloads "
              "(F3, test images). Shaded: later than the budget.",
    _RATE: "Uplink and downlink of the scenario's channel are scaled together, all else stays. At each rate every "
           "method chooses anew, among what it measured under the scenario's own conditions (F1, validation images), "
           "the plan of the highest expected in-time accuracy, accuracy x P(latency <= budget). Dashed: the "
           "scenario's own rate, the only one that plans were searched for.",
}


def all_rows(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One line each baseline and scenario, with the conditions in front."""
    import pandas as pd

    frames = []
    for comparison in comparisons:
        scenario, where = comparison.scenario, comparison.scenario.conditions
        frame = to_frame(comparison.rows)
        columns: dict[str, str | float] = {
            "scenario": scenario.name, "dataset": scenario.dataset, "backbone": scenario.backbone,
            "device": where.device.name, "edge": where.edge.name, "channel": where.channel.name,
            "uplink_kbps": where.channel.uplink_kbps.value, "budget_ms": where.budget_ms,
        }
        for place, (name, value) in enumerate(columns.items()):
            frame.insert(place, name, value)
        frame.insert(len(columns), "method", frame.pop("method"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def summary(comparisons: Sequence[Comparison]) -> list[SummaryRow]:
    """A line each scenario: the search against the best baseline."""
    return [SummaryRow.of(title, c.rows) for c, title in zip(comparisons, titles(comparisons), strict=True)]


def write_tables(comparisons: Sequence[Comparison], out: Path) -> list[Path]:
    """Write or replace the tables of all rows so far.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        write_whole(out / _TABLE, all_rows(comparisons).to_csv(index=False))
        write_whole(out / _PAGE, _page(comparisons))
    except OSError as e:
        raise unwritable(out, e) from e
    return [out / _TABLE, out / _PAGE]


def draw_figures(comparisons: Sequence[Comparison], out: Path) -> list[Path]:
    """Draw the three figures, each as PNG and SVG.

    Raises:
        ConfigError: The folder cannot be written.
    """
    drawn = []
    for name, draw, panels in ((_PAYLOAD, accuracy_payload_figure, payload_panels(comparisons)),
                               (_LATENCY, accuracy_latency_figure, latency_panels(comparisons)),
                               (_RATE, in_time_figure, rate_panels(comparisons))):
        paths = [out / f"{name}.png", out / f"{name}.svg"]
        write_figure(draw(panels, _CAPTIONS[name]), *paths)
        drawn += paths
    return drawn


def _page(comparisons: Sequence[Comparison]) -> str:
    parts = ["# Comparison\n"]
    if len(comparisons) > 1:
        parts.append(summary_markdown(summary(comparisons)))
    for comparison, title in zip(comparisons, titles(comparisons), strict=True):
        scenario = comparison.scenario
        parts.append(f"## {title}\n\n{scenario.backbone} on {scenario.dataset}, edge {scenario.conditions.edge.name}, "
                     f"uplink {scenario.conditions.channel.uplink_kbps.value:g} kb/s\n")
        parts.append(to_markdown(comparison.rows))
    parts.append("".join(f"- {line}\n" for line in CAPTION.splitlines()))
    parts += [f"![{name.replace('-', ' ')}]({name}.png)\n\n{_CAPTIONS[name]}\n" for name in _CAPTIONS]
    return "\n".join(parts)
