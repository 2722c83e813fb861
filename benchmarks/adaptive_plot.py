"""The picture of `benchmarks.adaptive`: what the link did, which rate the device chose, when answers came, who won."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosplit.report.style import GOLD, INK, RED, SOFT, figure_file, plain_number, shades
from autosplit.runtime.standalone.bundle.manifest import Manifest

if TYPE_CHECKING:
    from benchmarks.adaptive import Row

__all__ = ["draw"]


def draw(rows: list[Row], manifest: Manifest, path: Path) -> None:
    """Draw the first adaptive run over time, and all baselines' in-time accuracy.

    Args:
        rows: Of all baselines and seeds.
        manifest: Of the bundle.
        path: The picture.
    """
    from benchmarks.adaptive import ADAPTIVE, summary

    assert manifest.switching is not None
    first = [r for r in rows if r.baseline == ADAPTIVE and r.seed == min(row.seed for row in rows)]
    with figure_file(path, size=(11.0, 7.5)) as figure:
        grid = figure.add_gridspec(3, 2, width_ratios=(1.7, 1.0), wspace=0.22, hspace=0.18,
                                   left=0.075, right=0.985, top=0.93, bottom=0.08)
        axes: list[Any] = [figure.add_subplot(grid[0, 0])]
        axes += [figure.add_subplot(grid[i, 0], sharex=axes[0]) for i in (1, 2)]
        _link(axes[0], first)
        _rates(axes[1], first, manifest)
        _latency(axes[2], first, manifest.switching.budget_ms)
        for upper in axes[:2]:
            upper.tick_params(labelbottom=False)
        _bars(figure.add_subplot(grid[:, 1]), summary(rows)["baselines"], manifest)
        figure.suptitle(f"{manifest.label}: an answer within {manifest.switching.budget_ms:g} ms", x=0.075, ha="left")


def _link(axes: Any, rows: list[Row]) -> None:
    seconds = [r.second for r in rows]
    axes.plot(seconds, [r.link_kbps for r in rows], color=INK, label="as it is")
    axes.step(seconds, [r.believed_kbps for r in rows], color=GOLD, where="post", label="as the device thinks")
    axes.set(yscale="log", ylabel="link, kb/s")
    axes.yaxis.set_major_formatter(lambda value, _: plain_number(value))
    axes.legend(frameon=False, loc="lower left")


def _rates(axes: Any, rows: list[Row], manifest: Manifest) -> None:
    sent = [r for r in rows if r.rate >= 0]
    axes.step([r.second for r in sent], [r.rate for r in sent], color=GOLD, where="post")
    axes.set(ylabel="rate", yticks=range(len(manifest.rates)), ylim=(-0.5, len(manifest.rates) - 0.5))
    axes.set_yticklabels([f"{rate.test_payload_bytes:.0f} B" for rate in manifest.rates])


def _latency(axes: Any, rows: list[Row], budget_ms: float) -> None:
    for wanted, colour, label in ((True, GOLD, "in time"), (False, RED, "too late or skipped")):
        found = [r for r in rows if r.in_time is wanted]
        axes.scatter([r.second for r in found], [r.total_ms for r in found], s=7, color=colour, label=label)
    axes.axhline(budget_ms, color=SOFT, linestyle="--", linewidth=1)
    axes.set(xlabel="seconds", ylabel="answer after, ms", ylim=(0, 3 * budget_ms))
    axes.legend(frameon=False, loc="upper left")


def _bars(axes: Any, baselines: dict[str, Any], manifest: Manifest) -> None:
    names = list(baselines)
    colours = [GOLD, *shades(len(names) - 1)]
    labels = ["adaptive", *(f"{rate.test_payload_bytes:.0f} B fixed" for rate in manifest.rates)]
    values = [100 * baselines[name]["in_time_accuracy"] for name in names]
    spreads = [100 * baselines[name]["spread"] for name in names]
    axes.barh(labels, values, xerr=spreads, color=colours, ecolor=INK, capsize=3)
    for i, (value, spread) in enumerate(zip(values, spreads, strict=True)):
        axes.text(value + spread + 1.5, i, f"{value:.1f} %", va="center")
    axes.invert_yaxis()
    axes.set(xlabel="right and in time, % of images", xlim=(0, 115))
