"""`autosplit profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from autosplit.cli.console import print_rich, quoted, reported, say, say_next
from autosplit.cli.options import AsJson, DataRoot, Quiet
from autosplit.core.errors import ConfigError

__all__ = ["command", "image_shape_of"]


@reported
def command(
    backbone: Annotated[list[str], typer.Option(help="Network whose operators are timed; more than one may be given.")],
    out: Annotated[Path, typer.Option(help="The device profile, NAME.yaml; its timings are NAME.csv beside it.")],
    image_shape: Annotated[str | None, typer.Option(help="Channels x height x width of the input: 3x32x32.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set whose images have the shape, instead.")] = None,
    engine: Annotated[Literal["torch", "onnxruntime"], typer.Option(help="What runs the network: onnxruntime as in a "
                                                                         "bundle, or torch.")] = "torch",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine [default: torch's own].")] = None,
    repeats: Annotated[int, typer.Option(min=10, help="Passes through each version at most.")] = 60,
    active_mw: Annotated[float | None, typer.Option(min=0, help="Power while computing, if you know it.")] = None,
    idle_mw: Annotated[float | None, typer.Option(min=0, help="Power while waiting, if you know it.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time every operator of a network on this machine, and write a device profile with the timings."""
    shape = image_shape_of(image_shape, dataset, data_root)  # a typing mistake should not wait for torch

    import torch
    from rich.table import Table

    from autosplit.latency.profiling.run import ProfileSettings, profile_machine
    from autosplit.report.progress import Progress

    settings = ProfileSettings(tuple(backbone), shape, threads or torch.get_num_threads(), engine, repeats, active_mw,
                               idle_mw)
    made = profile_machine(settings, out, progress=Progress(quiet=quiet))
    if made.disturbance is not None:
        say(f"warning: {made.disturbance}")
    if as_json:
        typer.echo(made.device.model_dump_json())
        return
    table = Table(title="regression against operators of shapes left out")
    for name in ("operator type", "shapes", "median error", "90 % below"):
        table.add_column(name, justify="left" if name == "operator type" else "right")
    for kind, error in made.held_out.items():
        table.add_row(kind, str(error.shapes), f"{error.median_percent:.1f} %", f"{error.p90_percent:.1f} %")
    print_rich(f"{made.device.title}", table, f"{len(made.timings)} operators in {out.with_suffix('.csv')}, "
               f"device profile in {out}")
    if not quiet:
        say_next(f"search --device {quoted(out)} --edge {quoted(out)}")


def image_shape_of(text: str | None, dataset: str | None, data_root: Path | None) -> tuple[int, int, int]:
    """Channels, height and width, written out or those of a data set.

    Raises:
        ConfigError: Both or none of them are given, or the text is no shape.
    """
    if (text is None) == (dataset is None):
        raise ConfigError("give either --image-shape, such as 3x32x32, or --dataset")
    if dataset is not None:
        from autosplit.data import load_dataset

        found: tuple[int, int, int] = load_dataset(dataset, root=data_root).shape
        return found
    try:
        channels, height, width = (int(part) for part in str(text).lower().split("x"))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise ConfigError(f"--image-shape {text!r}: write it as channels x height x width, such as 3x32x32")
    return channels, height, width
