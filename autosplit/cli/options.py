"""Options that several commands share, each described once, and what the command line makes of a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.core.errors import ConfigError
from autosplit.core.opsets import OPSETS
from autosplit.core.trust import trust_typed

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario
    from autosplit.runtime.export import Target

__all__ = ["AcceleratorKind", "AsJson", "Channel", "Channels", "CurveKeys", "DataRoot", "Deadline", "Device", "Devices",
           "Edge", "ExportTarget", "Fallback", "Images", "LatencyModel", "NewBundle", "Objective", "Opset",
           "OptionalDeadline", "Policy", "Quiet", "ResultOrRun", "ScenarioName", "Set", "TrustCode", "assignments",
           "changed", "export_target"]

_DEADLINE = typer.Option(help="Deadline of one inference, end to end, milliseconds.")
_DEVICE = "Device profile, or a YAML file"
_CHANNEL = "Channel profile, or a YAML file"

AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that data sets lie in.")]
Set = Annotated[list[str] | None, typer.Option(
    "--set", help="Any other key of a scenario: space.splits=all, training.backbone_epochs=5.")]

AcceleratorKind = Annotated[str | None, typer.Option(
    "--accelerator", help="What trains and measures networks: auto (a GPU where there is one), cpu, cuda or mps.")]

Jobs = Annotated[int, typer.Option(min=1, help="Processes that measure and fine-tune.")]
RayCluster = Annotated[str | None, typer.Option(
    "--cluster", help="Address of a Ray cluster that measures and fine-tunes instead; auto for this machine's.")]

ScenarioName = Annotated[str, typer.Option(help="Packaged scenario, or a YAML file.")]
Deadline = Annotated[float, _DEADLINE]
OptionalDeadline = Annotated[float | None, _DEADLINE]
Device = Annotated[str | None, typer.Option(help=f"{_DEVICE}.")]
Devices = Annotated[list[str] | None, typer.Option(help=f"{_DEVICE}; may be repeated.")]
Edge = Annotated[str | None, typer.Option(help="Profile of the edge, or a YAML file.")]
Channel = Annotated[str | None, typer.Option(help=f"{_CHANNEL}.")]
Channels = Annotated[list[str] | None, typer.Option(help=f"{_CHANNEL}; may be repeated.")]
LatencyModel = Annotated[str, typer.Option(help="Name, module:Name or file.py:Name.")]
Objective = Annotated[str, typer.Option(
    help="Reward to maximise: in-time-accuracy, lagrangian, amc or latency.")]
Policy = Annotated[Path | None, typer.Option(help="Folder of a trained policy to start from.")]

ResultOrRun = Annotated[Path, typer.Argument(help="A best.json, its weights beside it; or a run directory.")]
NewBundle = Annotated[Path, typer.Option(help="Folder of the bundle, new or empty.")]
Images = Annotated[int | None, typer.Option(
    min=1, help="Test images to compare [default: all, of large ones as many as make 20 million pixels].")]
Fallback = Annotated[bool, typer.Option(
    "--fallback", help="Add the whole, unpruned network, for a device that loses its edge.")]
Opset = Annotated[int, typer.Option(
    min=min(OPSETS), max=max(OPSETS), help="Version of ONNX's operators; an older one for an older onnxruntime.")]
ExportTarget = Annotated[str, typer.Option(
    "--target", help="onnx; or c: the device's side as C sources for a microcontroller too.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run code that a file names, though it never ran here.")]
CurveKeys = Annotated[Path | None, typer.Option(help="Folder of this side's CURVE keys.")]


def export_target(name: str) -> Target:
    """What `--target` names.

    Raises:
        ConfigError: There is no such target.
    """
    targets: tuple[Target, ...] = ("onnx", "c")
    if name in targets:
        return targets[targets.index(name)]
    raise ConfigError(f"--target {name}: there is no such target; choose onnx or c")


def changed(
    scenario: Scenario, options: dict[str, Any], assigned: dict[str, Any], *, rename: bool = True
) -> Scenario:
    """A scenario with the options of the command line.

    Args:
        scenario: As loaded.
        options: By dotted keys; `None` = left out.
        assigned: What `--set` gave, which wins.
        rename: Whether another data set or backbone gives the scenario a name made of the two.
    """
    from autosplit.core.scenario import name_for

    changes = {key: value for key, value in options.items() if value is not None} | assigned
    for value in changes.values():
        trust_typed(value if isinstance(value, (list, tuple)) else [value])
    if rename and {"dataset", "backbone"} & set(changes):
        named = (str(changes.get(key, getattr(scenario, key))) for key in ("dataset", "backbone"))
        changes = {"name": name_for(*named)} | changes
    return scenario.replace(**changes) if changes else scenario


def assignments(items: Sequence[str] | None) -> dict[str, Any]:
    """The values of `--set key=value`, each read as YAML.

    Raises:
        ConfigError: There is no key, or the value is no YAML.
    """
    from autosplit.core.validation import load_yaml

    found = {}
    for item in items or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item!r}: write it as key=value, such as space.splits=all")
        found[key] = load_yaml(value, f"--set {item!r}")
    return found
