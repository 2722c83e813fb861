"""`serve`, `infer` and `gateway`: the functions behind both command lines, `autosplit` and `python -m coinference`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from .edge.metrics import MetricsServer
from .errors import ConfigError, LinkError, printable
from .images import image_batches, image_files
from .options import PROVIDER, ClientOptions, GatewayOptions, ServerOptions
from .protocol.interfaces import EdgeSide
from .signals import ended_by_signal

__all__ = ["gateway", "infer", "serve", "write_keys"]


def serve(bundle: Path, options: ServerOptions, *, keys: Path | None = None, metrics_port: int | None = None,
          threads: int = 2, provider: str = PROVIDER, workers: int = 1, as_json: bool = False,
          ready: Callable[[str], None] | None = None) -> None:
    """Serve a bundle until SIGINT, SIGTERM or SIGHUP, then answer what is queued and write the counters.

    Args:
        bundle: Folder of the bundle.
        options: How to serve.
        keys: Folder of CURVE keys, as `make_keys` writes it.
        metrics_port: Where Prometheus may ask; `None` = nowhere.
        threads: Threads of onnxruntime, in each process.
        workers: Processes that compute; 1 = this one.
        provider: Execution provider that computes; any but `cpu` is compared on the images in the bundle first.
        as_json: Whether stdout gets JSON.
        ready: Called with the address once requests are taken.

    Raises:
        AutosplitError: The bundle does not run here, or answers otherwise by that provider, or the address or the keys
            cannot be used.
    """
    # imported here, since a bundle can be checked where pyzmq and onnxruntime are not installed
    from .bundle import load_edge
    from .edge.processes import EdgeProcess
    from .edge.server import EdgeServer
    from .protocol.keys import EdgeKeys

    if workers < 1:
        raise ConfigError(f"workers is {workers}; give at least 1")
    pair = EdgeKeys.load(keys) if keys else None
    if provider != PROVIDER:
        from .bundle.check import require_equal_answers

        require_equal_answers(bundle, threads, provider)
    with contextlib.ExitStack() as stack:
        load = partial(load_edge, bundle, threads, provider)
        edges: list[EdgeSide] = [load()] if workers == 1 else []
        for _ in range(workers if workers > 1 else 0):
            edges.append(process := EdgeProcess(load))
            stack.callback(process.close)
        server = EdgeServer(edges, options, pair)
        ended = stack.enter_context(ended_by_signal())
        if metrics_port is not None:
            metrics = MetricsServer(server.stats, metrics_port)
            stack.callback(metrics.close)
            print(f"metrics at http://127.0.0.1:{metrics.port}/metrics", file=sys.stderr, flush=True)
        stack.enter_context(server)
        if as_json:
            print(json.dumps({"serving": server.endpoint, "keys": pair is not None}), flush=True)
        else:
            print(f"serving {bundle} at {server.endpoint}" + ("" if pair else ", without keys"), flush=True)
        if ready is not None:
            ready(server.endpoint)
        while not ended.is_set() and not server.wait(0.2):
            pass
    if server.failed:
        raise LinkError("the edge server ended by a fault, its traceback is above; please report it")
    found = server.stats.summary()
    if as_json:
        print(json.dumps(found), flush=True)
    else:
        refused = ", ".join(f"{n} {word}" for word, n in found["refused"].items()) or "none"
        print(f"{found['answers']} answers in {found['batch']['count']} batches; refused: {refused}", flush=True)


def infer(bundle: Path, images: Sequence[Path], edge: str, options: ClientOptions, *, keys: Path | None = None,
          device_name: str = "device", threads: int = 1, as_json: bool = False) -> None:
    """Classify images and write an answer a line: its file, its class, where it was computed, and how long it took.

    Args:
        bundle: Folder of the bundle.
        images: Image files, .npy files, or folders of them.
        edge: `HOST:PORT`; empty where the whole network runs on the device.
        options: How to ask.
        keys: Folder with the device's pair of keys and `edge.key`.
        device_name: Name of that pair.
        threads: Threads of onnxruntime.
        as_json: Whether stdout gets JSON, one object a line.

    Raises:
        AutosplitError: The bundle does not run here, an image cannot be read, or the edge does not answer and there
            is no fallback.
    """
    from .bundle import load_device
    from .device.client import DeviceClient
    from .protocol.keys import DeviceKeys

    device = load_device(bundle, threads)
    classes = device.manifest.class_names
    pair = DeviceKeys.load(keys, device_name) if keys else None
    files = image_files(images)
    warned = False
    with DeviceClient(device, edge, options, pair) as client:
        for names, pixels in image_batches(files, device.manifest.image_shape):
            for name, answer in zip(names, client.infer(list(pixels)), strict=True):
                if answer.reason and not warned:  # once, however many images follow without an edge
                    print(f"warning: no answer from the edge ({answer.reason}); the device answers itself",
                          file=sys.stderr, flush=True)
                    warned = True
                stages = {**asdict(answer.ms), "total": answer.ms.total}
                if as_json:
                    logits = None if answer.logits is None else [float(f"{v:.6g}") for v in answer.logits]
                    print(json.dumps({
                        "image": name, "label": answer.label, "class_name": classes[answer.label],
                        "where": answer.where, "reason": answer.reason, "payload_bytes": answer.payload_bytes,
                        "rate": answer.rate, "ms": {stage: round(ms, 3) for stage, ms in stages.items()},
                        "logits": logits}), flush=True)
                    continue
                total_ms = stages.pop("total")
                why = f" ({answer.reason})" if answer.reason else ""
                rate = "" if answer.rate is None else f" at rate {answer.rate}"
                print(f"{printable(name)}  {printable(classes[answer.label])}  {answer.where}{why}  "
                      f"{answer.payload_bytes} B{rate}  {total_ms:.1f} ms: "
                      + ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items()), flush=True)


def gateway(bundle: Path, edge: str, options: GatewayOptions, *, keys: Path | None = None,
            device_name: str = "device", as_json: bool = False, ready: Callable[[str], None] | None = None) -> None:
    """Take packets of devices to an edge, until SIGINT, SIGTERM or SIGHUP, then write the counters.

    Args:
        bundle: Folder of the bundle that the edge serves; neither its networks nor onnxruntime are needed.
        edge: `HOST:PORT`.
        options: Where packets come from, limits and timeouts.
        keys: Folder with the gateway's pair of keys and `edge.key`.
        device_name: Name of that pair.
        as_json: Whether stdout gets JSON.
        ready: Called with the link's name once packets are taken.

    Raises:
        AutosplitError: The bundle cannot be used, or the addresses, the serial port or the keys cannot.
    """
    from .gateway.gateway import Deployment, Gateway
    from .gateway.links import PacketLink, SerialLink, UdpLink
    from .protocol.keys import DeviceKeys
    from .protocol.wire import short_key

    if not edge:
        raise ConfigError("a gateway needs an edge to ask; name it with --edge HOST:PORT")
    deployment = Deployment.load(bundle)
    pair = DeviceKeys.load(keys, device_name) if keys else None
    with contextlib.ExitStack() as stack:
        ended = stack.enter_context(ended_by_signal())
        link: PacketLink
        if options.serial:
            link = SerialLink(options.serial, options.baud, options.packet_bytes)
        else:
            link = udp = UdpLink(options.udp, options.packet_bytes)
            if not udp.is_local:
                print(f"warning: everybody who reaches {udp.name} is served: packets of devices are checked, but "
                      "neither encrypted nor authenticated", file=sys.stderr, flush=True)
        stack.callback(link.close)
        running = stack.enter_context(Gateway(link, deployment, edge, options, pair))
        if as_json:
            print(json.dumps({"gateway": link.name, "edge": edge, "keys": pair is not None,
                              "deployment": short_key(deployment.key).hex(), "packet_bytes": options.packet_bytes,
                              "max_payload_bytes": deployment.max_payload_bytes}), flush=True)
        else:
            print(f"gateway from {link.name} to {edge}{'' if pair else ', without keys'}: deployment "
                  f"{short_key(deployment.key).hex()}, packets of up to {options.packet_bytes} bytes", flush=True)
        if ready is not None:
            ready(link.name)
        told = {"refused payload (away)"}  # of which the gateway tells itself
        while not ended.is_set():
            running.step()
            for what in running.stats.wrong - told:
                print(f"warning: a first {what}; all are counted at the end", file=sys.stderr, flush=True)
                told.add(what)
    found = running.stats.summary()
    if as_json:
        print(json.dumps(found), flush=True)
    else:
        refused, malformed = (", ".join(f"{n} {word}" for word, n in found[name].items()) or "none"
                              for name in ("refused", "malformed"))
        print(f"{found['answers']} answers to {found['messages']} payloads in {found['packets']} packets; refused: "
              f"{refused}; incomplete: {found['incomplete']}; malformed packets: {malformed}", flush=True)


def write_keys(folder: Path, device: str) -> None:
    """Make CURVE keys, and say what goes where.

    Raises:
        ConfigError: The device has keys already, or the folder cannot be written.
    """
    from .protocol.keys import make_keys

    for file in make_keys(folder, device):
        print(file)
    print(f"the edge serves with --keys {folder}; the device needs edge.key, {device}.key and {device}.key_secret",
          file=sys.stderr, flush=True)
