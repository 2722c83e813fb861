"""`serve`, `infer` and `gateway`: the functions behind both command lines, `autosplit` and `python -m coinference`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .edge.metrics import MetricsServer
from .errors import ConfigError, LinkError, printable
from .images import image_batches, image_files
from .options import PROVIDER, ClientOptions, GatewayOptions, ServerOptions
from .protocol.interfaces import EdgeSide
from .signals import ended_by_signal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .bundle.parts import DevicePart
    from .device.client import Answer, DeviceClient
    from .device.stream import Settled

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
          device_name: str = "device", threads: int = 1, per_s: float | None = None, as_json: bool = False) -> None:
    """Classify images and write an answer a line: its file, its class, where it was computed, and how long it took.

    Args:
        bundle: Folder of the bundle.
        images: Image files, .npy files, or folders of them.
        edge: `HOST:PORT`; empty where the whole network runs on the device.
        options: How to ask.
        keys: Folder with the device's pair of keys and `edge.key`.
        device_name: Name of that pair.
        threads: Threads of onnxruntime.
        per_s: Images that arrive in a second, as a camera's do: each has to be answered within the bundle's deadline
            (`timeout_ms` where it has none), and what grows older is dropped. Where left out, each image waits for the
            answers to those before it.
        as_json: Whether stdout gets JSON, one object a line.

    Raises:
        AutosplitError: The bundle does not run here, an image cannot be read, or the edge does not answer and there
            is no fallback.
    """
    from .bundle import load_device
    from .device.client import DeviceClient
    from .protocol.keys import DeviceKeys

    if per_s is not None and not 1e-3 <= per_s <= 1e4:
        raise ConfigError(f"images that arrive in a second must lie in [0.001, 10000], got {per_s:g}")
    device = load_device(bundle, threads)
    pair = DeviceKeys.load(keys, device_name) if keys else None
    files = image_files(images)
    with DeviceClient(device, edge, options, pair) as client:
        told = _Told(device.manifest.class_names, as_json)
        batches = image_batches(files, device.manifest.image_shape)
        if per_s is None:
            for names, pixels in batches:
                for name, answer in zip(names, client.infer(list(pixels)), strict=True):
                    told.tell(name, answer)
        else:
            _infer_over_time(client, device, batches, per_s, told)


def _infer_over_time(client: DeviceClient, device: DevicePart, batches: Iterator[tuple[list[str], NDArray[np.uint8]]],
                     per_s: float, told: _Told) -> None:
    from .device.choosers import BUFFER, Chooser, FixedRate, chooser_of
    from .device.stream import Outcome, PictureStream

    manifest, options = device.manifest, client.options
    chooser: Chooser
    deadline_ms, buffer = options.timeout_ms, BUFFER
    if manifest.rates:
        chooser, deadline_ms, buffer = chooser_of(manifest, device.controller)
    if not options.adaptive:
        chooser = FixedRate(manifest.start if options.rate is None else options.rate)
    stream, ended = PictureStream(client, chooser, deadline_ms, buffer), threading.Event()

    def camera() -> None:
        try:
            begin_s, number = time.monotonic(), 0
            for names, pixels in batches:
                for name, image in zip(names, pixels, strict=True):
                    if ended.wait(max(0.0, begin_s + number / per_s - time.monotonic())):
                        return
                    stream.offer(name, image)
                    number += 1
        except BaseException as e:  # an image that cannot be read is told by the thread that waits for it
            faults.append(e)
        finally:
            stream.close()

    faults: list[BaseException] = []
    thread = threading.Thread(target=camera, name="camera")
    counted = dict.fromkeys(get_args(Outcome), 0)
    thread.start()
    try:
        for settled in stream:
            counted[settled.outcome] += 1
            told.tell(settled.name, settled.answer, settled)
    finally:
        ended.set()
        thread.join()
    if faults:
        raise faults[0]
    print(f"{sum(counted.values())} images, {per_s:g} a second, within {deadline_ms:g} ms: "
          + ", ".join(f"{count} {outcome}" for outcome, count in counted.items()), file=sys.stderr, flush=True)


class _Told:
    """Writes what became of images, a line each.

    Args:
        classes: Their names.
        as_json: Whether as JSON.
    """

    def __init__(self, classes: Sequence[str], as_json: bool) -> None:
        self._classes, self._as_json, self._warned = classes, as_json, False

    def tell(self, name: str, answer: Answer | None, settled: Settled | None = None) -> None:
        """One image; `settled` where it arrived over time."""
        if answer and answer.reason and not self._warned:  # once, however many images follow without an edge
            print(f"warning: no answer from the edge ({answer.reason}); the device answers itself", file=sys.stderr,
                  flush=True)
            self._warned = True
        if self._as_json:
            print(json.dumps({"image": name, **self._answer(answer), **_times(settled)}), flush=True)
            return
        queued = "" if settled is None else (
            f"  {settled.outcome} at {settled.age_ms:.1f} ms, {settled.waited_ms:.1f} of them waiting")
        if answer is None:
            print(f"{printable(name)}{queued}", flush=True)
            return
        stages = asdict(answer.ms)
        why = f" ({answer.reason})" if answer.reason else ""
        rate = "" if answer.rate is None else f" at rate {answer.rate}"
        print(f"{printable(name)}  {printable(self._classes[answer.label])}  {answer.where}{why}  "
              f"{answer.payload_bytes} B{rate}  {answer.ms.total:.1f} ms: "
              + ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items()) + queued, flush=True)

    def _answer(self, answer: Answer | None) -> dict[str, Any]:
        if answer is None:
            return {"label": None}
        stages = {**asdict(answer.ms), "total": answer.ms.total}
        logits = None if answer.logits is None else [float(f"{v:.6g}") for v in answer.logits]
        return {"label": answer.label, "class_name": self._classes[answer.label], "where": answer.where,
                "reason": answer.reason, "payload_bytes": answer.payload_bytes, "rate": answer.rate,
                "ms": {stage: round(ms, 3) for stage, ms in stages.items()}, "logits": logits}


def _times(settled: Settled | None) -> dict[str, Any]:
    if settled is None:
        return {}
    return {"outcome": settled.outcome, "age_ms": round(settled.age_ms, 3), "waited_ms": round(settled.waited_ms, 3)}


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
