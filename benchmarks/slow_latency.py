"""How long a search takes whose latency model takes 50 ms for a plan.

    python -m benchmarks.slow_latency --out results/benchmarks/slow-latency

The default scenario is searched three times on one cache, so that networks and measurements are there from the first:
to fill the cache; with the analytic model as a plug-in, which counts what it is asked; and with one that sleeps for
50 ms for each plan under each set of conditions before it answers the same. Both have the same plans to choose among.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Workload
from autosplit.latency import LatencyBreakdown
from autosplit.latency.analytic import AnalyticLatencyModel
from benchmarks.common import parser, scenario_of, write_json


class Counting:
    """The analytic model, which counts the plans that it is asked about and sleeps for each.

    Args:
        each_s: Seconds for one plan under one set of conditions.
    """

    def __init__(self, each_s: float) -> None:
        self._model, self._each_s = AnalyticLatencyModel(), each_s
        self.cells = 0
        self.plans: set[str] = set()

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`."""
        self.cells += len(workloads) * len(conditions)
        self.plans.update(w.model_dump_json() for w in workloads)
        time.sleep(self._each_s * len(workloads) * len(conditions))
        return self._model.latency(workloads, conditions)


def searched(scenario: Any, model: Counting | None, out: Path) -> dict[str, Any]:
    """One search, with what its latency model was asked."""
    import autosplit

    began = time.perf_counter()
    found = autosplit.search(scenario, out, latency=model, quiet=True)
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {"seconds": round(seconds, 1), "plan": found.plan.label,
                           "phases": {name: round(s, 1) for name, s in found.provenance.seconds.items()}}
    return row if model is None else {**row, "cells": model.cells, "plans": len(model.plans)}


def main() -> None:
    """Search three times and write what it took."""
    options = parser(__doc__)
    options.add_argument("--each-ms", type=float, default=50.0, help="of the slow model, for one plan")
    chosen = options.parse_args()
    scenario = scenario_of(chosen)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("AUTOSPLIT_CACHE", f"{folder}/cache")
        searched(scenario, None, Path(folder) / "first")
        quick = searched(scenario, Counting(0.0), Path(folder) / "quick")
        slow = searched(scenario, Counting(chosen.each_ms / 1e3), Path(folder) / "slow")
    asked_s = slow["plans"] * chosen.each_ms / 1e3
    write_json(chosen.out / "slow_latency.json", {
        "each_ms": chosen.each_ms, "quick": quick, "slow": slow, "plans_times_each_s": round(asked_s, 1),
        "search_over_that": round(slow["seconds"] / asked_s, 2),
        "model_over_that": round(slow["cells"] / slow["plans"], 2)})


if __name__ == "__main__":
    main()
