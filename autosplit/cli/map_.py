"""`autosplit map`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import reported
from autosplit.cli.options import AsJson, Channel, Device, Edge, OptionalDeadline, TrustCode, changed
from autosplit.runtime.standalone.errors import printable

__all__ = ["command"]


class SecondAxis(str, Enum):
    """What a map has beside the link's rate."""

    SPEED = "speed"
    BUDGET = "budget"


@reported
def command(
    measured: Annotated[Path, typer.Argument(
        metavar="RUN_OR_TABLE", help="The run directory of a finished search, or a table of `autosplit bench table`.")],
    across: Annotated[SecondAxis, typer.Option(
        help="What the map has beside the link's rate: the device's speed, or the deadline.")] = SecondAxis.SPEED,
    device: Device = None,
    edge: Edge = None,
    channel: Channel = None,
    budget_ms: OptionalDeadline = None,
    out: Annotated[Path | None, typer.Option(
        help="Folder of map.csv and map.png; the run directory, or the table's folder, when left out.")] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Show where which deployment is the best, over link rate and device speed or deadline, and where a split pays.

    Nothing is measured: all that was is scored under other conditions. A run measured what may be in time under its own
    conditions; a table holds every plan.
    """
    from autosplit.core.files import write_whole
    from autosplit.core.records import writing
    from autosplit.evaluation.scorer import Scorer
    from autosplit.experiments.bench.table import load_table, table_name
    from autosplit.pipeline.ledger import load_baselines, load_run
    from autosplit.report.deployment_map import DeploymentMap, all_measured
    from autosplit.report.draw_matplotlib import write_figure
    from autosplit.report.map_figure import map_figure

    if measured.is_dir():
        result, outcomes = load_run(measured, trust_code=trust_code)
        scenario, folder, stem = result.scenario, measured, "map"
        plans = all_measured(outcomes, load_baselines(measured))
    else:
        table = load_table(measured)
        scenario, folder, stem = table.record.scenario, measured.parent, f"{table_name(measured)}-map"
        plans = list(table.evaluator.measurements)
    conditions = {"device": device, "edge": edge, "channel": channel, "budget_ms": budget_ms}
    scenario = changed(scenario, {f"conditions.{key}": value for key, value in conditions.items()}, {})
    found = DeploymentMap.of(plans, Scorer.of(scenario), across.value)
    frame, folder = found.to_frame(), out or folder
    files = [folder / f"{stem}.csv", folder / f"{stem}.png"]
    with writing(folder):
        write_whole(files[0], frame.to_csv(index=False))
    write_figure(map_figure(found), files[1])
    if as_json:
        cells = frame.astype(object).where(frame.notna(), None).to_dict("records")  # JSON has no NaN
        typer.echo(json.dumps({"summary": found.summary, "cells": cells, "files": [str(file) for file in files]},
                              allow_nan=False))
        return
    for line in (found.summary, *(f"written to {file}" for file in files)):
        typer.echo(printable(line))
