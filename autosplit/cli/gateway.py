"""`autosplit gateway`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import reported
from autosplit.cli.options import AsJson, CurveKeys

__all__ = ["command"]


@reported
def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that `autosplit export` wrote; the edge serves the same.")],
    edge: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the edge is.")] = "",
    udp: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where datagrams come, a packet each.")] = "",
    serial: Annotated[str, typer.Option(metavar="PORT", help="Serial port that packets come from, such as "
                                                             "/dev/ttyACM0.")] = "",
    baud: Annotated[int, typer.Option(help="Bits a second of the serial port.")] = 115_200,
    packet_bytes: Annotated[int, typer.Option(help="Longest packet that is taken.")] = 255,
    timeout_ms: Annotated[float, typer.Option(help="Longest wait for the edge, per payload.")] = 1000.0,
    retry_s: Annotated[float, typer.Option(help="How often a lost edge is tried again.")] = 1.0,
    assembly_s: Annotated[float, typer.Option(help="How long a payload may take from its first packet to its last.")]
    = 10.0,
    rate: Annotated[float, typer.Option(help="Payloads a second of one device; 0 = no limit.")] = 20.0,
    answer_rate: Annotated[float, typer.Option(help="Answers a second that the link back may carry; 0 = no limit.")]
    = 0.0,
    max_devices: Annotated[int, typer.Option(help="Most devices that are remembered.")] = 1024,
    queue: Annotated[int, typer.Option(help="Most payloads that wait for the edge; above it devices are told busy.")]
    = 256,
    keys: CurveKeys = None,
    device: Annotated[str, typer.Option(help="Name of the gateway in that folder.")] = "device",
    as_json: AsJson = False,
) -> None:
    """Take packets of devices with only a radio or a serial line to an edge, and answers back. Ends with Ctrl-C."""
    from autosplit.runtime.standalone import commands
    from autosplit.runtime.standalone.options import GatewayOptions

    options = GatewayOptions(udp, serial, baud, packet_bytes, timeout_ms, retry_s, assembly_s, rate, answer_rate,
                             max_devices, queue)
    commands.gateway(bundle, edge, options, keys=keys, device_name=device, as_json=as_json)
