"""`autosplit train-controller`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import announce, print_rich, quoted, reported, say_next
from autosplit.cli.estimate import duration
from autosplit.cli.options import AsJson, OptionalDeadline, Quiet, TrustCode

__all__ = ["command"]

_STEPS_PER_S = 4_500  # of the training for eight devices, on two cores


@reported
def command(
    run: Annotated[Path, typer.Argument(help="The run directory that `adapt` was given.")],
    bundle: Annotated[Path, typer.Argument(help="Folder that `autosplit adapt` wrote; its manifest is written anew.")],
    per_s: Annotated[float, typer.Option(help="Pictures that arrive at a device in a second, in the mean.")],
    peak: Annotated[float, typer.Option(help="Within bursts so many times as many, 1 to 4; 1 = no bursts.")] = 1.0,
    peak_s: Annotated[float, typer.Option(help="Mean length of a burst, seconds.")] = 2.0,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share link and edge.")] = 1,
    budget_ms: OptionalDeadline = None,
    buffer: Annotated[int, typer.Option(min=1, help="Pictures that wait at most.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Decisions of the network's training.")] = 600_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of streams and training.")] = 0,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give a bundle of several code sizes what decides over each picture of a stream: `infer --adaptive --per-s`."""
    from rich.table import Table

    from autosplit.core.errors import ConfigError
    from autosplit.envs.stream.arrivals import Arrivals
    from autosplit.pipeline.controllers import NETWORK, control
    from autosplit.report.progress import Progress

    try:
        arrivals = Arrivals(per_s, peak=peak, peak_s=peak_s)
    except ValueError as e:
        raise ConfigError(f"--per-s {per_s:g} --peak {peak:g} --peak-s {peak_s:g}: {e}") from e
    if not quiet:
        announce(f"tune rules and train a network for {steps:,} decisions, {duration(steps / _STEPS_PER_S)} on two "
                 "cores")
    found = control(run, bundle, arrivals, devices=devices, deadline_ms=budget_ms, buffer=buffer, steps=steps,
                    seed=seed, progress=Progress(quiet=quiet), trust_code=trust_code)
    record = found.manifest.controller
    assert record is not None
    if as_json:
        typer.echo(json.dumps({"bundle": str(bundle), "chosen": found.chosen, "streams": found.streams,
                               "network_ahead": found.network_ahead, "compared": [asdict(c) for c in found.compared],
                               "controller": asdict(record)}))
        return
    table = Table(title=f"right and in time within {record.deadline_ms:g} ms, over {found.streams} simulated streams")
    for name in ("controller", "right, in time", "the chosen one is ahead by, points", "setting"):
        table.add_column(name, justify="right" if name.startswith(("right", "the")) else "left")
    for row in found.compared:
        ahead = "chosen" if row.name == found.chosen else (
            f"{100 * row.behind:+.1f} ({100 * row.interval.low:+.1f} to {100 * row.interval.high:+.1f})")
        table.add_row(row.name, f"{row.in_time_accuracy:.1%}", ahead, row.setting)
    low, high = found.network_ahead
    verdict = ("beyond the interval, so the bundle got the network" if found.chosen == NETWORK
               else "which could be chance, so the bundle got the rule")
    print_rich(table, f"choice  in other simulated streams the network is {100 * low:+.1f} to {100 * high:+.1f} points "
                      f"ahead of the tuned rule: {verdict}")
    if not quiet:
        say_next(f"serve {quoted(bundle)}  # the edge's side",
                 f"infer {quoted(bundle)} IMAGES --edge HOST:5555 --adaptive --per-s {per_s:g}  # the device's side")
