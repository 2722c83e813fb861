"""`autosplit infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import reported
from autosplit.cli.options import AsJson, CurveKeys

__all__ = ["command"]


@reported
def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that `autosplit export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, .npy files, or folders of them.")],
    edge: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the edge is; none where the plan needs none.")]
    = "",
    timeout_ms: Annotated[float, typer.Option(help="Longest wait for the edge, per image.")] = 1000.0,
    retry_s: Annotated[float, typer.Option(help="How often a lost edge is tried again.")] = 1.0,
    window: Annotated[int, typer.Option(help="Most requests in flight at once.")] = 16,
    fallback: Annotated[bool, typer.Option(help="Whether the device answers itself where the edge does not, if the "
                                                "bundle can.")] = True,
    logits: Annotated[bool, typer.Option("--logits", help="Let the edge send all logits.")] = False,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Change between the bundle's rates as the link "
                                                              "changes.")] = False,
    rate: Annotated[int | None, typer.Option(min=0, help="Encode at this rate of the bundle [default: the one it "
                                                          "starts with].")] = None,
    per_s: Annotated[float | None, typer.Option(metavar="RATE", help="Images that arrive in a second, as a camera's "
                                                "do; each has a deadline [default: each after the answer to the one "
                                                "before].")] = None,
    keys: CurveKeys = None,
    device: Annotated[str, typer.Option(help="Name of the device in that folder.")] = "device",
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Classify images with a bundle: head and encoder run here, decoder and tail at an edge."""
    from autosplit.runtime.standalone import commands
    from autosplit.runtime.standalone.options import ClientOptions

    options = ClientOptions(timeout_ms, retry_s, window, fallback, logits, adaptive, rate)
    commands.infer(bundle, images, edge, options, keys=keys, device_name=device, threads=threads, per_s=per_s,
                   as_json=as_json)
