"""`autosplit list`."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from autosplit.cli.console import reported
from autosplit.cli.options import AsJson

__all__ = ["Kind", "command", "entries"]


class Kind(str, Enum):
    """What can be listed."""

    backbones = "backbones"
    datasets = "datasets"
    devices = "devices"
    channels = "channels"
    latency_models = "latency-models"
    codecs = "codecs"
    agents = "agents"
    objectives = "objectives"
    scenarios = "scenarios"


@reported
def command(
    kind: Annotated[Kind | None, typer.Argument(
        help="What to list: backbones, datasets, devices, channels, latency-models, codecs, agents, objectives or "
             "scenarios; everything when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the names that a scenario may use."""
    found = {k.value: entries(k) for k in ([kind] if kind else Kind)}
    if as_json:
        typer.echo(json.dumps({title: list(notes) for title, notes in found.items()}))
        return
    for title, notes in found.items():
        typer.echo(f"{title}:")
        width = max(map(len, notes))
        for name, note in notes.items():
            typer.echo(f"  {name:<{width}}  {note}".rstrip())


def entries(kind: Kind) -> dict[str, str]:
    """The names of one kind, each with a note that may be empty."""
    from autosplit.agents import list_agents
    from autosplit.compression import list_codecs
    from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile
    from autosplit.core.scenario import list_scenarios
    from autosplit.data import list_datasets
    from autosplit.evaluation.objective import list_objectives
    from autosplit.latency import list_latency_models
    from autosplit.models.names import list_backbones

    if kind is Kind.devices:
        return {name: load_profile(DeviceProfile, name).title for name in list_profiles(DeviceProfile)}
    if kind is Kind.channels:
        return {name: load_profile(ChannelProfile, name).title for name in list_profiles(ChannelProfile)}
    if kind is Kind.agents:  # the note says at which granularities it can prune
        known = {"uniform": list_agents("uniform"), "layer": list_agents("layer")}
        return {name: " and ".join(granularity for granularity, names in known.items() if name in names)
                for name in sorted({name for names in known.values() for name in names})}
    listing = {
        Kind.backbones: lambda: [*list_backbones(), "torchvision:NAME", "timm:NAME", "hf:NAME", "FILE.py:FACTORY"],
        Kind.datasets: list_datasets, Kind.latency_models: list_latency_models, Kind.codecs: list_codecs,
        Kind.objectives: list_objectives, Kind.scenarios: list_scenarios,
    }
    return dict.fromkeys(listing[kind](), "")
