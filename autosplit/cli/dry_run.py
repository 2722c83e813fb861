"""`autosplit search --dry-run`: what would be searched, without training anything."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from autosplit.cli.console import print_rich
from autosplit.core.scenario import Scenario

__all__ = ["describe"]


def describe(scenario: Scenario, data_root: Path | None, as_json: bool, quiet: bool) -> None:
    """Print the split points with the work before them, and how many plans there are."""
    from rich.table import Table

    from autosplit.pipeline.dry_run import preview
    from autosplit.report.progress import Progress

    search, conditions = scenario.search, scenario.conditions
    found = preview(scenario, Progress(quiet=quiet), data_root=data_root)
    rows = [{**asdict(row), "feature": "x".join(map(str, row.feature)), "head_mmacs": round(row.head_mmacs, 3),
             "device_ms": round(row.device_ms, 2)} for row in found.rows]
    if as_json:
        typer.echo(json.dumps({
            "scenario": scenario.name, "dataset": scenario.dataset, "backbone": scenario.backbone,
            "device": conditions.device.name, "edge": conditions.edge.name, "channel": conditions.channel.name,
            "budget_ms": conditions.budget_ms, "agent": search.agent, "granularity": search.granularity,
            "plans": found.plans, "evaluations": search.evaluations, "splits": rows}))
        return
    table = Table(title=f"{_count(found.plans)} plans, of which at most {search.evaluations} are measured "
                        f"({conditions.device.name} -> {conditions.channel.name} -> {conditions.edge.name}, "
                        f"{conditions.budget_ms:g} ms)")
    names = ["split", "feature", "head MMACs", "device ms", "groups", "plans"]
    in_c = search.target == "c"
    for name in [*names, *(["RAM kB", "flash kB"] if in_c else [])]:
        table.add_column(name, justify="left" if name in {"split", "feature"} else "right")
    for row in rows:
        memory = row["memory"]
        taken = ["-".join(f"{use[part] / 1000:.1f}" for use in memory or ()) or "none"
                 for part in ("ram_bytes", "flash_bytes")]
        table.add_row(row["split"], row["feature"], f"{row['head_mmacs']:.2f}", f"{row['device_ms']:.1f}",
                      str(row["groups"]), _count(row["plans"]), *(taken if in_c else []))
    if in_c:
        table.caption = "RAM, flash: of the plans that take the least and the most RAM"
    print_rich(table, *(f"no plans at {row['split']}: {row['left_out']}" for row in rows if row["left_out"]))


def _count(plans: int) -> str:
    return str(plans) if plans < 10**7 else f"{plans:.1e}"
