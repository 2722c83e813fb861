"""`autosplit serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import quoted, reported, say_next
from autosplit.cli.options import AsJson, CurveKeys
from autosplit.core.errors import ConfigError

__all__ = ["command"]


@reported
def command(
    bundle: Annotated[Path | None, typer.Argument(help="Folder that `autosplit export` wrote.")] = None,
    bind: Annotated[str, typer.Option(help="Address, tcp://HOST:PORT; port 0 takes a free one.")]
    = "tcp://127.0.0.1:5555",
    max_batch: Annotated[int, typer.Option(help="Most requests computed at once.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(help="How long the first request of a batch waits for others.")] = 0.0,
    queue: Annotated[int, typer.Option(help="Most requests that wait; above it devices are told busy.")] = 256,
    max_payload_bytes: Annotated[int, typer.Option(help="Longest payload.")] = 1 << 20,
    rate: Annotated[float, typer.Option(help="Frames a second of one device; 0 = no limit.")] = 1000.0,
    burst: Annotated[float, typer.Option(help="Frames of one device at once; 0 = as rate.")] = 0.0,
    max_devices: Annotated[int, typer.Option(help="Most devices with a session.")] = 1024,
    idle_s: Annotated[float, typer.Option(help="A device silent for so long is forgotten.")] = 60.0,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines connect without keys.")] = False,
    keys: CurveKeys = None,
    make_keys: Annotated[Path | None, typer.Option(metavar="DIR",
                                                   help="Write CURVE keys to a folder, and leave.")] = None,
    device: Annotated[str, typer.Option(help="Name of the device to make keys for.")] = "device",
    metrics_port: Annotated[int | None, typer.Option(help="Port of Prometheus metrics, on this machine.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that compute.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime, in each process.")] = 2,
    provider: Annotated[str, typer.Option(
        help="Execution provider of onnxruntime, such as cuda; compared with the bundle's own answers first.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Serve a bundle's edge side: decoder and tail, for many devices at once. Ends with Ctrl-C."""
    from autosplit.runtime.standalone import commands
    from autosplit.runtime.standalone.options import ServerOptions

    if make_keys:
        commands.write_keys(make_keys, device)
        return
    if bundle is None:
        raise ConfigError("name the bundle to serve; `autosplit export` writes one")

    def ready(endpoint: str) -> None:
        say_next(f"infer {quoted(bundle)} IMAGES --edge {endpoint.removeprefix('tcp://')}")

    options = ServerOptions(bind, max_batch, max_wait_ms, queue, max_payload_bytes, rate, burst, max_devices, idle_s,
                            insecure)
    commands.serve(bundle, options, keys=keys, metrics_port=metrics_port, threads=threads, provider=provider,
                   workers=workers, as_json=as_json, ready=None if as_json else ready)
