"""`python -m coinference` in a bundle: its options, and what its commands print and return."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import commands
from .errors import AutosplitError, ConfigError, error_line, printable
from .options import (
    PROFILE_ENGINES,
    PROFILE_SIDES,
    PROVIDER,
    ClientOptions,
    GatewayOptions,
    ProfileOptions,
    ServerOptions,
)
from .signals import abandon_stdout, interrupted_by_signals

__all__ = ["HOME", "command_line", "main"]

HOME = Path(__file__).resolve().parents[1]
"""The bundle that this package lies in, as its folder `coinference`."""

_MISMATCH, _INTERRUPTED = 4, 130


def command_line() -> argparse.ArgumentParser:
    """The parser; what it parses has a function `command`, which takes the options and gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m coinference", description="Run a bundle of autosplit.")
    adding = parser.add_subparsers(required=True, metavar="COMMAND")

    check = adding.add_parser("check", help="run the images in the bundle and compare with what was recorded")
    check.add_argument("bundle", nargs="?", type=Path, default=HOME, help="folder of the bundle [this one]")
    check.set_defaults(command=_check)

    serve = adding.add_parser("serve", help="answer devices: decoder and tail of a bundle")
    serve.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle [the one that this program lies in]")
    _add_numbers(serve, ServerOptions(), {
        "bind": "address, tcp://HOST:PORT", "max_batch": "most requests computed at once",
        "max_wait_ms": "how long the first request of a batch waits for others",
        "queue": "most requests that wait", "max_payload_bytes": "longest payload",
        "rate": "frames a second of one device; 0 = no limit", "burst": "frames of one device at once; 0 = as rate",
        "max_devices": "most devices with a session", "idle_s": "a device silent for so long is forgotten"})
    serve.add_argument("--insecure", action="store_true", help="let other machines connect without keys")
    serve.add_argument("--keys", type=Path, help="folder of CURVE keys")
    serve.add_argument("--make-keys", type=Path, metavar="DIR", help="write CURVE keys to a folder, and leave")
    serve.add_argument("--device", default="device", help="name of the device to make keys for [device]")
    serve.add_argument("--workers", type=int, default=1, help="processes that compute [1]")
    serve.add_argument("--metrics-port", type=int, help="port of Prometheus metrics")
    serve.set_defaults(command=_serve)

    infer = adding.add_parser("infer", help="classify images: head and encoder here, the rest at an edge")
    infer.add_argument("bundle", type=Path, help="folder of the bundle")
    infer.add_argument("images", type=Path, nargs="+", help="image files, .npy files, or folders of them")
    infer.add_argument("--edge", default="", metavar="HOST:PORT", help="where the edge is")
    _add_numbers(infer, ClientOptions(), {
        "timeout_ms": "longest wait for the edge, per image", "retry_s": "how often a lost edge is tried again",
        "window": "most requests in flight at once"})
    infer.add_argument("--no-fallback", dest="fallback", action="store_false", help="rather fail than answer here")
    infer.add_argument("--logits", action="store_true", help="let the edge send all logits")
    infer.add_argument("--adaptive", action="store_true", help="change the rate as the link changes")
    infer.add_argument("--rate", type=int, help="encode at this rate of the bundle [the one it starts with]")
    infer.add_argument("--per-s", type=float, help="images that arrive in a second, as a camera's do [each after the "
                                                   "answer to the one before]")
    infer.add_argument("--keys", type=Path, help="folder of the device's CURVE keys")
    infer.add_argument("--device", default="device", help="name of the device in that folder [device]")
    infer.set_defaults(command=_infer)

    gateway = adding.add_parser("gateway", help="take packets of devices with only a radio or a serial line to an edge")
    gateway.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle that the edge serves [this one]")
    gateway.add_argument("--edge", default="", metavar="HOST:PORT", help="where the edge is")
    gateway.add_argument("--udp", default="", metavar="HOST:PORT", help="where datagrams come, a packet each")
    gateway.add_argument("--serial", default="", metavar="PORT", help="serial port that packets come from")
    _add_numbers(gateway, GatewayOptions(udp="any"), {
        "baud": "bits a second of the serial port", "packet_bytes": "longest packet",
        "timeout_ms": "longest wait for the edge, per payload", "retry_s": "how often a lost edge is tried again",
        "assembly_s": "how long a payload may take from its first packet to its last",
        "rate": "payloads a second of one device; 0 = no limit",
        "answer_rate": "answers a second that the link back may carry; 0 = no limit",
        "max_devices": "most devices that are remembered", "queue": "most payloads that wait for the edge"})
    gateway.add_argument("--keys", type=Path, help="folder of the gateway's CURVE keys")
    gateway.add_argument("--device", default="device", help="name of the gateway in that folder [device]")
    gateway.add_argument("--json", action="store_true", help="JSON on stdout")
    gateway.set_defaults(command=_gateway)

    compiling = adding.add_parser("compile", help="compile the payload coder for this machine, which makes it quicker")
    compiling.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle [this one]")
    compiling.set_defaults(command=_compile)

    profile = adding.add_parser("profile", help="time the bundle's networks here, for a device profile of this machine")
    profile.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle [this one]")
    profile.add_argument("--out", type=Path, required=True, help="the device profile, NAME.yaml; NAME.csv is beside it")
    profile.add_argument("--side", choices=PROFILE_SIDES, default="device", help="whose networks are timed [device]")
    profile.add_argument("--engine", choices=PROFILE_ENGINES, default="onnxruntime",
                         help="what runs them: onnxruntime, or the bundle's C sources compiled here [onnxruntime]")
    profile.add_argument("--ticks", type=Path, metavar="LOG", help="what time.c printed on a board, instead")
    profile.add_argument("--clock-mhz", type=float, help="frequency of the counter that it read")
    profile.add_argument("--repeats", type=int, default=60, help="passes through each network at most [60]")
    profile.add_argument("--active-mw", type=float, help="power of this machine while computing, if you know it")
    profile.add_argument("--idle-mw", type=float, help="power while waiting, if you know it")
    profile.set_defaults(command=_profile)

    for each in (check, serve):
        each.add_argument("--provider", default=PROVIDER, metavar="NAME",
                          help="execution provider of onnxruntime that computes at the edge, such as cuda [cpu]")
    # the edge computes for many devices; a device leaves its other cores to whatever else it does
    for each, threads in ((check, 1), (serve, 2), (infer, 1), (profile, 1)):
        each.add_argument("--threads", type=int, default=threads, help=f"threads of onnxruntime [{threads}]")
        each.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 done, 2 wrong input, 4 another answer than recorded, 130 interrupted."""
    given = command_line().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        interrupted_by_signals()
    try:
        if given.command not in {_check, _compile, _profile}:
            try:
                import zmq  # noqa: F401
            except ImportError as e:
                needing = "a gateway needs" if given.command is _gateway else "serve and infer need"
                raise ConfigError(f"{needing} the package pyzmq: pip install pyzmq ({e})") from e
        code: int = given.command(given)
        sys.stdout.flush()  # here, where a closed pipe can be told from a fault
        return code
    except AutosplitError as e:
        print(error_line(e), file=sys.stderr)
        return e.exit_code
    except BrokenPipeError:  # `... | head`
        abandon_stdout()
        return 0
    except OSError as e:
        print(error_line(f"{e.filename}: {e.strerror or e}" if e.filename else e), file=sys.stderr)
        return AutosplitError.exit_code
    except MemoryError:
        print(error_line("not enough memory for this bundle"), file=sys.stderr)
        return AutosplitError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _check(given: argparse.Namespace) -> int:
    from .bundle.check import check

    found = check(given.bundle, given.threads, given.provider)
    if given.json:
        figures = {name: value for name, value in asdict(found).items() if name != "manifest"}
        print(json.dumps({"plan": found.manifest.label, "passed": found.passed, **figures}))
    else:
        print(f"plan      {printable(found.manifest.label)}")
        print(f"labels    {found.labels_equal} of {found.answers} as recorded")
        print(f"payloads  {found.payloads_equal} of {found.answers} equal to the byte"
              + ("" if found.manifest.exact else " (floating point and image libraries may differ in the last bits)"))
        if found.fallback_equal is not None:
            print(f"fallback  {found.fallback_equal} of {found.images} labels as recorded")
        print(f"logits    differ by at most {found.logit_error:.2g}")
    if not found.passed:
        print("error: this bundle does not answer as recorded; use the onnxruntime that the manifest names",
              file=sys.stderr)
    return 0 if found.passed else _MISMATCH


def _serve(given: argparse.Namespace) -> int:
    if given.make_keys:
        commands.write_keys(given.make_keys, given.device)
        return 0
    bundle = _bundle(given, "the bundle to serve")
    commands.serve(bundle, _options(ServerOptions, given), keys=given.keys, metrics_port=given.metrics_port,
                   threads=given.threads, provider=given.provider, workers=given.workers, as_json=given.json)
    return 0


def _compile(given: argparse.Namespace) -> int:
    from .bundle.manifest import Manifest
    from .bundle.parts import coders_of
    from .payload.native import compile_coder

    bundle = _bundle(given, "the bundle whose payload coder is to be compiled")
    library = compile_coder(bundle, coders_of(bundle, Manifest.load(bundle)))
    print(f"compiled  {library}; python -m coinference in that bundle uses it from now on, with the same payloads")
    return 0


def _profile(given: argparse.Namespace) -> int:
    from .profiling.clock import disturbance
    from .profiling.run import profile_bundle

    found = profile_bundle(_bundle(given, "the bundle to time"), given.out, _options(ProfileOptions, given),
                           log=given.ticks)
    warning = disturbance(found.machine.processor_share)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if given.json:
        print(json.dumps({"profile": str(given.out), "operators": found.operators, "wholes_ms": found.wholes_ms,
                          **asdict(found.machine)}))
        return 0
    print(f"machine   {printable(found.machine.title)}")
    for name, whole_ms in found.wholes_ms.items():
        print(f"{name:<17} {whole_ms:8.3f} ms")
    if found.machine.coding_ksymbols is not None:
        print(f"coder     {found.machine.coding_ksymbols:.0f} thousand symbols a second")
    in_c = given.ticks is not None or given.engine == "c"
    limits = " --set search.max_ram_kb=KB --set search.max_flash_kb=KB" if given.ticks is not None else ""
    print(f"profile   {given.out}, with {found.operators} operators in {given.out.with_suffix('.csv')}; on the "
          f"workstation: autosplit search{' --target c' if in_c else ''} --{given.side} {shlex.quote(str(given.out))}"
          f"{limits}")
    return 0


def _gateway(given: argparse.Namespace) -> int:
    bundle = _bundle(given, "the bundle that the edge serves")
    commands.gateway(bundle, given.edge, _options(GatewayOptions, given), keys=given.keys, device_name=given.device,
                     as_json=given.json)
    return 0


def _bundle(given: argparse.Namespace, what: str) -> Path:
    """The bundle that is named, or else the one that this program lies in."""
    bundle: Path | None = given.bundle or (HOME if (HOME / "manifest.json").is_file() else None)
    if bundle is None:
        raise ConfigError(f"name {what}")
    return bundle


def _infer(given: argparse.Namespace) -> int:
    commands.infer(given.bundle, given.images, given.edge, _options(ClientOptions, given), keys=given.keys,
                   device_name=given.device, threads=given.threads, per_s=given.per_s, as_json=given.json)
    return 0


def _add_numbers(parser: argparse.ArgumentParser, defaults: Any, helps: dict[str, str]) -> None:
    """Options with the name, type and default of a dataclass's fields."""
    for name, text in helps.items():
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{text} [{value}]")


def _options(kind: Any, given: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(given, field.name) for field in fields(kind)})


if __name__ == "__main__":
    sys.exit(main())
