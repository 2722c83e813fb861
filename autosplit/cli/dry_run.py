"""`autosplit search --dry-run`: what would be searched, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autosplit.cli.common import print_rich
from autosplit.core.scenario import Scenario
from autosplit.core.space import channels_kept

if TYPE_CHECKING:
    from autosplit.core.space import PlanSpace
    from autosplit.models.pruning import PrunableGroup

__all__ = ["describe"]


def describe(scenario: Scenario, data_root: Path | None, as_json: bool, quiet: bool) -> None:
    """Print the split points with the work before them, and how many plans there are."""
    from rich.table import Table

    from autosplit.core.plan import OUTPUT, CodecSetting, Plan, Workload
    from autosplit.latency import load_latency_model
    from autosplit.models.costs import stage_cost
    from autosplit.report.progress import Progress
    from autosplit.training.prepare import untrained

    prepared = untrained(scenario, Progress(quiet=quiet), data_root=data_root)
    space, shape, conditions = prepared.supernet.plan_space, prepared.data.shape, scenario.conditions
    model = load_latency_model(scenario.latency_model)
    rows: list[dict[str, Any]] = []
    for split in space.splits:
        cost = stage_cost(prepared.supernet.head(split), shape) if split in prepared.supernet.pruners else None
        groups = prepared.supernet.pruners[split].groups if split in prepared.supernet.pruners else ()
        row: dict[str, Any] = {"split": split, "feature": "", "head_mmacs": 0.0, "device_ms": 0.0,
                               "groups": len(groups), "plans": _heads(scenario, space, split, groups)
                               * len(space.codecs[split])}
        if split in prepared.supernet.points:
            row["feature"] = "x".join(map(str, prepared.supernet.points[split].shape))
        if cost is not None:  # the latency of the head is what it would be with nothing after it
            work = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), device=cost)
            row["head_mmacs"] = round(cost.macs / 1e6, 3)
            row["device_ms"] = round(float(model.latency([work], [conditions]).device_ms[0, 0]), 2)
        rows.append(row)
    summary = {"scenario": scenario.name, "dataset": scenario.dataset, "backbone": scenario.backbone,
               "device": conditions.device.name, "edge": conditions.edge.name, "channel": conditions.channel.name,
               "budget_ms": conditions.budget_ms, "agent": scenario.search.agent,
               "granularity": scenario.search.granularity, "plans": sum(row["plans"] for row in rows),
               "evaluations": scenario.search.evaluations, "splits": rows}
    if as_json:
        typer.echo(json.dumps(summary))
        return
    table = Table(title=f"{_number(sum(row['plans'] for row in rows))} plans, of which at most "
                        f"{scenario.search.evaluations} are measured ({conditions.device.name} -> "
                        f"{conditions.channel.name} -> {conditions.edge.name}, {conditions.budget_ms:g} ms)")
    for name, justify in (("split", "left"), ("feature", "left"), ("head MMACs", "right"), ("device ms", "right"),
                          ("groups", "right"), ("plans", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row["split"], row["feature"], f"{row['head_mmacs']:.2f}", f"{row['device_ms']:.1f}",
                      str(row["groups"]), _number(row["plans"]))
    print_rich(table)


def _heads(scenario: Scenario, space: PlanSpace, split: str, groups: Sequence[PrunableGroup]) -> int:
    """Pruned heads at a split point: the uniform ones, or all those with a sparsity for each group."""
    if scenario.search.granularity == "uniform":
        return len(space.sparsities[split])
    most = max(space.sparsities[split])
    return math.prod(1 + g.channels - int(channels_kept(g.channels, most)) for g in groups)


def _number(count: int) -> str:
    return str(count) if count < 10**7 else f"{count:.1e}"
