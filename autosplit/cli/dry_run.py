"""`autosplit search --dry-run`: what would be searched, without training anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import typer

from autosplit.cli.console import print_rich
from autosplit.core.scenario import Scenario
from autosplit.core.space import channels_kept

__all__ = ["describe"]


def describe(scenario: Scenario, data_root: Path | None, as_json: bool, quiet: bool) -> None:
    """Print the split points with the work before them, and how many plans there are."""
    from rich.table import Table

    from autosplit.core.measurement import Workload
    from autosplit.core.plan import OUTPUT, CodecSetting, Plan
    from autosplit.models.costs import stage_cost
    from autosplit.pipeline.search import scorer_of
    from autosplit.pipeline.trial import try_deployments
    from autosplit.report.progress import Progress
    from autosplit.training.prepare import untrained

    progress, scorer = Progress(quiet=quiet), scorer_of(scenario)
    prepared = untrained(scenario, progress, data_root=data_root)
    try_deployments(prepared, scorer, progress)
    space, shape, conditions = prepared.supernet.plan_space, prepared.data.shape, scenario.conditions
    model = scorer.latency_model
    rows: list[dict[str, Any]] = []
    for split in space.splits:
        pruner = prepared.supernet.pruners.get(split)  # None where the device runs nothing
        groups = pruner.groups if pruner else ()
        heads = len(space.sparsities[split])
        if scenario.search.granularity == "layer":  # a sparsity for each group, whose channels go one by one
            most = max(space.sparsities[split])
            heads = math.prod(1 + g.channels - int(channels_kept(g.channels, most)) for g in groups)
        row: dict[str, Any] = {"split": split, "feature": "", "head_mmacs": 0.0, "device_ms": 0.0,
                               "groups": len(groups), "plans": heads * len(space.codecs[split])}
        if split in prepared.supernet.places:
            row["feature"] = "x".join(map(str, prepared.supernet.feature_shape(split)))
        if pruner:  # the latency of the head is what it would be with nothing after it
            cost = stage_cost(prepared.supernet.head(split), shape)
            work = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), device=cost)
            row["head_mmacs"] = round(cost.macs / 1e6, 3)
            row["device_ms"] = round(float(model.latency([work], [conditions]).device_ms[0, 0]), 2)
        rows.append(row)
    summary: dict[str, Any] = {
        "scenario": scenario.name, "dataset": scenario.dataset, "backbone": scenario.backbone,
        "device": conditions.device.name, "edge": conditions.edge.name, "channel": conditions.channel.name,
        "budget_ms": conditions.budget_ms, "agent": scenario.search.agent, "granularity": scenario.search.granularity,
        "plans": sum(row["plans"] for row in rows), "evaluations": scenario.search.evaluations, "splits": rows}
    if as_json:
        typer.echo(json.dumps(summary))
        return
    numbers = [str(n) if n < 10**7 else f"{n:.1e}" for n in (summary["plans"], *(row["plans"] for row in rows))]
    table = Table(title=f"{numbers[0]} plans, of which at most "
                        f"{scenario.search.evaluations} are measured ({conditions.device.name} -> "
                        f"{conditions.channel.name} -> {conditions.edge.name}, {conditions.budget_ms:g} ms)")
    for name, justify in (("split", "left"), ("feature", "left"), ("head MMACs", "right"), ("device ms", "right"),
                          ("groups", "right"), ("plans", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row, plans in zip(rows, numbers[1:], strict=True):
        table.add_row(row["split"], row["feature"], f"{row['head_mmacs']:.2f}", f"{row['device_ms']:.1f}",
                      str(row["groups"]), plans)
    print_rich(table)
