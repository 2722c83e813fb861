"""The picture of a map of deployments: who is best where, and by how much a split is ahead."""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator

from autosplit.report.charts import Axis, Cells, Chart, Figure, Trace
from autosplit.report.deployment_map import KINDS, DeploymentMap
from autosplit.report.style import INK, RED, nice_ticks, plain_number, quantity

__all__ = ["map_figure"]

# of `KINDS`: two quiet ones, and the splits
_KIND_COLOURS = ("#9fb8c9", "#f2d9a7", "#e07b39", "#8e2f5b", "#4a5fa5", "#2f7d6b")
_CONTOURS = (1.0, 5.0, 20.0)


def map_figure(found: DeploymentMap) -> Figure:
    """Which kind of deployment is the best where, how far splits are ahead, and the scenario's own conditions.

    Args:
        found: The map.
    """
    r, s = found.home
    kinds, gain = found.kinds, found.gain
    hover = tuple(tuple(_about_cell(found, i, j) for i in range(len(found.rates_kbps)))
                  for j in range(len(found.others)))
    levels = np.where(kinds >= 0, kinds, np.nan).astype(np.float64).T
    outside = (-9.0, -9.0)  # where nothing is seen: an entry of the legend needs points
    traces = [Trace(name, outside, outside, colour, marker="s", size=9)
              for number, (name, colour) in enumerate(zip(KINDS, _KIND_COLOURS, strict=True))
              if (kinds == number).any()]
    for level, width in zip(_CONTOURS, (1.0, 1.7, 2.6), strict=True):
        for number, line in enumerate(contour_generator(z=gain.T).lines(level)):
            points = np.asarray(line)
            traces.append(Trace("" if number else f"a split {level:g} {'point' if level == 1 else 'points'} ahead",
                                tuple(points[:, 0].tolist()), tuple(points[:, 1].tolist()), INK, line="straight",
                                width=width))
    traces.append(Trace("as searched", (float(r),), (float(s),), RED, marker="o", size=13, edge=RED, hollow=(True,),
                        width=2.5))
    rows, columns = levels.shape
    second = ("speed of the device, in multiples of the scenario's" if found.across == "speed" else "deadline (ms)")
    chart = Chart(
        Axis("uplink (kb/s)", (-0.5, columns - 0.5), ticks=nice_ticks(found.rates_kbps, r), frame=False),
        Axis(second, (-0.5, rows - 0.5), ticks=tuple((float(j), plain_number(float(f"{found.others[j]:.2g}")))
                                                    for j in range(s % 2, rows, 2)), frame=False),
        tuple(traces), cells=Cells(levels, hover, (0.0, len(KINDS) - 1.0), palette=_KIND_COLOURS), legend="beside")
    tuned = all(m.fidelity == "F3" for m in found.measured)
    note = (f"The best deployment among all that was measured ({'fine-tuned' if tuned else 'proxy'} accuracy, "
            "validation images). A run measures what "
            "may be in time under its own conditions, so elsewhere a better plan may be missing. Lines: how many "
            "points of in-time accuracy (accuracy x share of answers in time) the best split is ahead of the best "
            "deployment without one; it pays from 1 point on. Nothing is in time in empty cells.")
    return Figure("Where which deployment is best", note, (chart,), finding=found.finding)


def _about_cell(found: DeploymentMap, i: int, j: int) -> str:
    other = (f"{found.others[j]:.3g}x the device's speed" if found.across == "speed"
             else f"deadline {quantity(found.others[j], 'ms')}")
    number, lines = int(found.best[i, j]), [f"{quantity(found.rates_kbps[i], 'kb/s')}, {other}"]
    if number < 0:
        return "\n".join([*lines, "nothing in time"])
    best = found.measured[number]
    lines += [best.plan.label, f"{100 * best.accuracy:.1f} % (F1), p95 {quantity(found.p95_ms[i, j], 'ms')}"]
    halves = (("best split", found.split, found.of_splits), ("best other", found.other, found.of_others))
    lines += [f"{name}: {found.measured[int(where[i, j])].plan.label}, {100 * share[i, j]:.1f} % right in time"
              for name, where, share in halves if where[i, j] >= 0]
    return "\n".join(lines)
