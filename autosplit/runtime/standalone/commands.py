"""`serve` and `infer`: the functions behind both command lines, `autosplit` and `python -m coinference`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .edge.metrics import MetricsServer
from .errors import ConfigError, LinkError
from .options import ClientOptions, ServerOptions

if TYPE_CHECKING:
    from .device.client import Answer

__all__ = ["InferCommand", "ServeCommand", "add_commands", "infer", "serve", "write_keys"]

_IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_HOME = Path(__file__).resolve().parents[1]  # of a bundle, where this package is its folder `coinference`
_AT_ONCE = 64  # images read and sent before the next are read


@dataclass(frozen=True)
class ServeCommand:
    """What `serve` is asked for.

    Attributes:
        bundle: Folder of the bundle.
        options: How to serve.
        keys: Folder of CURVE keys, as `make_keys` writes it.
        metrics_port: Where Prometheus may ask; `None` = nowhere.
        threads: Threads of onnxruntime.
        as_json: Whether stdout gets JSON.
    """

    bundle: Path
    options: ServerOptions
    keys: Path | None = None
    metrics_port: int | None = None
    threads: int = 2
    as_json: bool = False


@dataclass(frozen=True)
class InferCommand:
    """What `infer` is asked for.

    Attributes:
        bundle: Folder of the bundle.
        images: Image files, .npy files, or folders of them.
        edge: `HOST:PORT`; empty where the whole network runs on the device.
        options: How to ask.
        keys: Folder with the device's pair of keys and `edge.key`.
        device_name: Name of that pair.
        threads: Threads of onnxruntime.
        as_json: Whether stdout gets JSON, one object a line.
    """

    bundle: Path
    images: Sequence[Path]
    edge: str
    options: ClientOptions
    keys: Path | None = None
    device_name: str = "device"
    threads: int = 1
    as_json: bool = False


def serve(command: ServeCommand) -> None:
    """Serve a bundle until SIGINT or SIGTERM, then answer what is queued and write the counters.

    Raises:
        AutosplitError: The bundle does not run here, or the address or the keys cannot be used.
    """
    _require_pyzmq()
    from .bundle.parts import load_edge
    from .edge.server import EdgeServer
    from .protocol.keys import EdgeKeys

    keys = EdgeKeys.load(command.keys) if command.keys else None
    server = EdgeServer(load_edge(command.bundle, command.threads), command.options, keys)
    with contextlib.ExitStack() as stack:
        ended = stack.enter_context(_ended_by_signal())
        if command.metrics_port is not None:
            metrics = MetricsServer(server.stats, command.metrics_port)
            stack.callback(metrics.close)
            _say(f"metrics at http://127.0.0.1:{metrics.port}/metrics")
        stack.enter_context(server)
        if command.as_json:
            print(json.dumps({"serving": server.endpoint, "keys": keys is not None}), flush=True)
        else:
            print(f"serving {command.bundle} at {server.endpoint}" + ("" if keys else ", without keys"), flush=True)
        while not ended.is_set() and not server.wait(0.2):
            pass
    if server.failed:
        raise LinkError("the edge server ended by a fault, its traceback is above; please report it")
    found = server.stats.summary()
    if command.as_json:
        print(json.dumps(found), flush=True)
    else:
        refused = ", ".join(f"{n} {word}" for word, n in found["refused"].items()) or "none"
        print(f"{found['answers']} answers in {found['batch']['count']} batches; refused: {refused}", flush=True)


def infer(command: InferCommand) -> None:
    """Classify images and write an answer a line.

    Raises:
        AutosplitError: The bundle does not run here, an image cannot be read, or the edge does not answer and there
            is no fallback.
    """
    _require_pyzmq()
    from .bundle.parts import load_device
    from .device.client import DeviceClient
    from .protocol.keys import DeviceKeys

    device = load_device(command.bundle, command.threads)
    keys = DeviceKeys.load(command.keys, command.device_name) if command.keys else None
    files = _files(command.images)
    warned = False
    with DeviceClient(device, command.edge, command.options, keys) as client:
        for names, images in _batches(files, device.manifest.image_shape):
            for name, answer in zip(names, client.infer(images), strict=True):
                if answer.reason and not warned:
                    _say(f"warning: no answer from the edge ({answer.reason}); the device answers itself")
                    warned = True
                print(_line(name, answer, command.as_json), flush=True)


def write_keys(folder: Path, device: str) -> None:
    """Make CURVE keys, and say what goes where.

    Raises:
        ConfigError: The device has keys already, or the folder cannot be written.
    """
    _require_pyzmq()
    from .protocol.keys import make_keys

    for file in make_keys(folder, device):
        print(file)
    _say(f"the edge serves with --keys {folder}; the device needs edge.key, {device}.key and {device}.key_secret")


# --- python -m coinference ------------------------------------------------------------------------------------------


def add_commands(commands: Any) -> None:
    """Add `serve` and `infer` to what `argparse.ArgumentParser.add_subparsers` gave."""
    _add_serve(commands.add_parser("serve", help="answer devices: decoder and tail of a bundle"))
    _add_infer(commands.add_parser("infer", help="classify images: head and encoder here, the rest at an edge"))


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle [the one that this program lies in]")
    _add_numbers(parser, ServerOptions(), {
        "bind": "address, tcp://HOST:PORT", "max_batch": "most requests computed at once",
        "max_wait_ms": "how long the first request of a batch waits for others",
        "queue": "most requests that wait", "max_payload_bytes": "longest payload",
        "rate": "frames a second of one device; 0 = no limit", "burst": "frames of one device at once; 0 = as rate",
        "max_devices": "most devices with a session", "idle_s": "a device silent for so long is forgotten"})
    parser.add_argument("--insecure", action="store_true", help="let other machines connect without keys")
    parser.add_argument("--keys", type=Path, help="folder of CURVE keys")
    parser.add_argument("--make-keys", type=Path, metavar="DIR", help="write CURVE keys to a folder, and leave")
    parser.add_argument("--device", default="device", help="name of the device to make keys for [device]")
    parser.add_argument("--metrics-port", type=int, help="port of Prometheus metrics")
    parser.add_argument("--threads", type=int, default=2, help="threads of onnxruntime [2]")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.set_defaults(command=_serve)


def _serve(given: argparse.Namespace) -> int:
    if given.make_keys:
        write_keys(given.make_keys, given.device)
        return 0
    bundle = given.bundle or (_HOME if (_HOME / "manifest.json").is_file() else None)
    if bundle is None:
        raise ConfigError("name the bundle to serve")
    serve(ServeCommand(bundle, _options(ServerOptions, given), given.keys, given.metrics_port, given.threads,
                       given.json))
    return 0


def _add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("images", type=Path, nargs="+", help="image files, .npy files, or folders of them")
    parser.add_argument("--edge", default="", metavar="HOST:PORT", help="where the edge is")
    _add_numbers(parser, ClientOptions(), {
        "timeout_ms": "longest wait for the edge, an image", "retry_s": "how often a lost edge is tried again",
        "window": "most requests on the way at once"})
    parser.add_argument("--no-fallback", dest="fallback", action="store_false", help="rather fail than answer here")
    parser.add_argument("--logits", action="store_true", help="let the edge send all logits")
    parser.add_argument("--adaptive", action="store_true", help="change the rate as the link changes")
    parser.add_argument("--rate", type=int, help="encode at this rate of the bundle [the one it starts with]")
    parser.add_argument("--keys", type=Path, help="folder of the device's CURVE keys")
    parser.add_argument("--device", default="device", help="name of the device in that folder [device]")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime [1]")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, an object a line")
    parser.set_defaults(command=_infer)


def _infer(given: argparse.Namespace) -> int:
    infer(InferCommand(given.bundle, given.images, given.edge, _options(ClientOptions, given), given.keys,
                       given.device, given.threads, given.json))
    return 0


def _add_numbers(parser: argparse.ArgumentParser, defaults: Any, helps: dict[str, str]) -> None:
    for name, text in helps.items():
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{text} [{value}]")


def _options(kind: Any, given: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(given, field.name) for field in fields(kind)})


# --- details --------------------------------------------------------------------------------------------------------


def _require_pyzmq() -> None:
    """Look for the package that nothing but serving needs.

    Raises:
        ConfigError: It is absent.
    """
    try:
        import zmq  # noqa: F401
    except ImportError as e:
        raise ConfigError(f"serve and infer need the package pyzmq: pip install pyzmq ({e})") from e


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; afterwards they do what they did before."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield ended
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _files(images: Sequence[Path]) -> list[Path]:
    """The files meant: those named, and those of a known kind in folders named."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in _IMAGES)
            if not inside:
                raise ConfigError(f"{path} holds no image file; name files of the kinds {', '.join(sorted(_IMAGES))}")
            found += inside
        else:
            found.append(path)
    return found


def _batches(files: Sequence[Path], shape: tuple[int, int, int]) -> Iterator[tuple[list[str], Any]]:
    """Names and images (N, C, H, W), some at a time; a .npy file of several images gives names with numbers."""
    import numpy as np

    from .payload.images import read_images

    names: list[str] = []
    parts: list[Any] = []
    for file in files:
        images = read_images([file], shape)
        for i in range(0, len(images), _AT_ONCE):
            part = images[i : i + _AT_ONCE]
            parts.append(part)
            names += [str(file)] if len(images) == 1 else [f"{file}[{i + k}]" for k in range(len(part))]
            if len(names) >= _AT_ONCE:
                yield names, np.concatenate(parts)
                names, parts = [], []
    if names:
        yield names, np.concatenate(parts)


def _line(name: str, answer: Answer, as_json: bool) -> str:
    spent = answer.ms
    if as_json:
        ms = {stage: round(value, 3) for stage, value in {**asdict(spent), "total": spent.total}.items()}
        logits = None if answer.logits is None else [float(f"{v:.6g}") for v in answer.logits]
        return json.dumps({"image": name, "label": answer.label, "where": answer.where, "reason": answer.reason,
                           "payload_bytes": answer.payload_bytes, "rate": answer.rate, "ms": ms, "logits": logits})
    why = f" ({answer.reason})" if answer.reason else ""
    rate = "" if answer.rate is None else f" at rate {answer.rate}"
    return (f"{name}  {answer.label}  {answer.where}{why}  {answer.payload_bytes} B{rate}  {spent.total:.1f} ms: "
            f"encode {spent.encode:.1f}, link {spent.link:.1f}, queue {spent.queue:.1f}, edge {spent.edge:.1f}, local "
            f"{spent.local:.1f}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
