"""`autosplit list`."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from autosplit.cli.common import reported

__all__ = ["command"]


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
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Names as JSON on stdout.")] = False,
) -> None:
    """List the names that a scenario may use."""
    found = {k.value: _entries(k) for k in ([kind] if kind else Kind)}
    if as_json:
        typer.echo(json.dumps({k: [name for name, _ in v] for k, v in found.items()}))
        return
    for title, entries in found.items():
        typer.echo(f"{title}:")
        width = max(len(name) for name, _ in entries)
        for name, note in entries:
            typer.echo(f"  {name:<{width}}  {note}".rstrip())


def _entries(kind: Kind) -> list[tuple[str, str]]:
    from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile

    if kind is Kind.devices:
        return [(n, load_profile(DeviceProfile, n).title) for n in list_profiles(DeviceProfile)]
    if kind is Kind.channels:
        return [(n, load_profile(ChannelProfile, n).title) for n in list_profiles(ChannelProfile)]
    if kind is Kind.agents:
        return _agents()
    return [(name, "") for name in _names(kind)]


def _agents() -> list[tuple[str, str]]:
    """All agents, each with the granularities that it knows."""
    from autosplit.agents import list_agents

    known = {"uniform": list_agents("uniform"), "layer": list_agents("layer")}
    names = sorted({name for found in known.values() for name in found})
    return [(name, " and ".join(g for g, found in known.items() if name in found)) for name in names]


def _names(kind: Kind) -> list[str]:
    from autosplit.compression import list_codecs
    from autosplit.core.scenario import list_scenarios
    from autosplit.data import list_datasets
    from autosplit.evaluation.objective import list_objectives
    from autosplit.latency import list_latency_models
    from autosplit.models.names import list_backbones

    listing = {
        Kind.backbones: lambda: [*list_backbones(), "torchvision:NAME", "FILE.py:FACTORY"],
        Kind.datasets: list_datasets, Kind.latency_models: list_latency_models, Kind.codecs: list_codecs,
        Kind.objectives: list_objectives, Kind.scenarios: list_scenarios,
    }
    return listing[kind]()
