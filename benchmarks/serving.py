"""Many devices at one edge: every answer checked, latency, answers a second, memory of the server over time.

    python -m benchmarks.serving --bundle BUNDLE --out results/benchmarks/serving

The server is a process of its own and so is each device; all are on this machine and talk over loopback, so that what
is measured is the computing and the serving, not a radio. A device asks for one image at a time, `--rate` times a
second (0: as soon as it has an answer), and compares the label with the one that the bundle gives in one process.
Without `--bundle` both halves are made up: 8 KB of payload hold the label, and the edge multiplies matrices with about
the work of a ResNet-20's tail (`--macs` an image).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from benchmarks.common import command_line, write_json

CLASSES, SHAPE, PAYLOAD_BYTES = 10, (3, 32, 32), 8192
MANIFEST = SimpleNamespace(key="benchmarks.serving", image_shape=SHAPE, num_classes=CLASSES,
                           label="made up")
STAGES = ("encode", "link", "queue", "edge", "total")


def one_hot(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of these labels."""
    return np.eye(CLASSES, dtype=np.float32)[labels % CLASSES]


class MadeUpDevice:
    """Sends the first pixel, and as many other bytes as a real payload of a large code has."""

    manifest, answers = MANIFEST, False

    def begin(self, images: NDArray[np.uint8], rate: int | None = None) -> tuple[list[bytes], None]:  # noqa: ARG002
        """See `DeviceSide.begin`."""
        return [image.tobytes().ljust(PAYLOAD_BYTES, b"\0") for image in images], None

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `DeviceSide.logits`."""
        return one_hot(images[:, 0, 0, 0])

    def fallback(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """None: a missing answer shall be seen."""


class MadeUpEdge:
    """Multiplies matrices for each payload, then reads the label.

    Args:
        macs: Multiply-accumulates an image.
    """

    manifest = MANIFEST

    def __init__(self, macs: float) -> None:
        self._weights = np.ones((256, 256), dtype=np.float32)
        self._rows = max(1, round(macs / self._weights.size))

    def decode(self, payloads: list[bytes]) -> NDArray[np.float32]:
        """See `EdgeSide.decode`."""
        work = np.ones((self._rows * len(payloads), 256), dtype=np.float32) @ self._weights
        assert work[0, 0] == 256
        return one_hot(np.array([payload[0] for payload in payloads]))


def halves(options: argparse.Namespace, which: str) -> Any:
    """The device's or the edge's side."""
    if not options.bundle:
        return MadeUpDevice() if which == "device" else MadeUpEdge(options.macs)
    from autosplit.runtime.standalone import bundle

    return bundle.load_device(options.bundle) if which == "device" else bundle.load_edge(options.bundle, 1)


def serve(options: argparse.Namespace, pipe: Connection) -> None:
    """The server's process: tells its address, and its counters when it is told to end."""
    with EdgeServer(halves(options, "edge"), ServerOptions("tcp://127.0.0.1:0", rate=0)) as server:
        pipe.send(server.endpoint)
        pipe.recv()
    pipe.send(server.stats.summary())


def ask(options: argparse.Namespace, endpoint: str, images: NDArray[np.uint8], labels: list[int], number: int,
        start: Any, pipe: Connection) -> None:
    """A device's process: milliseconds of each answer, and how many were wrong."""
    rows, wrong, elsewhere = [], 0, 0
    with DeviceClient(halves(options, "device"), endpoint, ClientOptions(timeout_ms=10_000)) as client:
        client.infer(images[0])
        start.wait()
        begun = time.monotonic()
        # spread over the interval, so that devices do not all ask at once
        due = begun + (number / options.devices / options.rate if options.rate else 0.0)
        while (now := time.monotonic()) < begun + options.seconds:
            if options.rate:
                time.sleep(max(0.0, due - now))
                due += 1 / options.rate
            i = (len(rows) * options.devices + number) % len(images)
            answer = client.infer(images[i])
            rows.append([getattr(answer.ms, stage) for stage in STAGES])
            wrong += answer.label != labels[i]
            elsewhere += answer.where != "edge"
    pipe.send((np.array(rows), wrong, elsewhere, time.monotonic() - begun))


def resident_mb(pid: int) -> float:
    """Resident memory of a process (Linux), MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run server and devices; returns the figures, with memory by second."""
    images = np.random.default_rng(options.seed).integers(0, 256, (options.images, *shape_of(options)), dtype=np.uint8)
    labels = expected(options, images)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(options, theirs))
    server.start()
    endpoint, start = ours.recv(), spawn.Barrier(options.devices + 1)
    pipes = [spawn.Pipe() for _ in range(options.devices)]
    devices = [spawn.Process(target=ask, args=(options, endpoint, images, labels, n, start, pipe[1]))
               for n, pipe in enumerate(pipes)]
    for device in devices:
        device.start()
    start.wait()
    begun, memory = time.monotonic(), []
    for second in range(options.seconds + 1):
        time.sleep(max(0.0, begun + second - time.monotonic()))
        memory.append((second, resident_mb(server.pid or 0)))
    found = [pipe[0].recv() for pipe in pipes]
    ours.send("end")
    stats = ours.recv()
    for process in (*devices, server):
        process.join()
    return {**figures([f[0] for f in found]), "wrong": sum(f[1] for f in found),
            "not_from_edge": sum(f[2] for f in found),
            "answers_per_second": sum(len(f[0]) / f[3] for f in found), "server": stats, "memory": memory}


def shape_of(options: argparse.Namespace) -> tuple[int, ...]:
    """Shape of an image."""
    return tuple(halves(options, "device").manifest.image_shape)


def expected(options: argparse.Namespace, images: NDArray[np.uint8]) -> list[int]:
    """Labels that the two halves give without a link between them, one image at a time."""
    device, edge = halves(options, "device"), halves(options, "edge")
    return [int(edge.decode(device.begin(images[i : i + 1])[0]).argmax()) for i in range(len(images))]


def figures(rows: list[NDArray[np.float64]]) -> dict[str, Any]:
    """Counts and percentiles of the milliseconds of all answers, and of each device's."""
    every = np.concatenate(rows)
    total = every[:, STAGES.index("total")]
    return {
        "answers": len(every),
        "total_ms": {name: float(np.percentile(total, p)) for name, p in
                     (("p50", 50), ("p95", 95), ("p99", 99), ("max", 100))},
        "median_ms": {stage: float(np.median(every[:, i])) for i, stage in enumerate(STAGES)},
        "p99_ms_by_device": [float(np.percentile(r[:, STAGES.index("total")], 99)) for r in rows],
    }


def main() -> None:
    """Run the benchmark that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder that `autosplit export` wrote [made-up halves]")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=float, default=20.0, help="images a second of each device; 0 = no pause")
    parser.add_argument("--images", type=int, default=500, help="random images that the devices go round in")
    parser.add_argument("--macs", type=float, default=20e6, help="of the made-up edge, an image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(options)
    memory = found.pop("memory")
    settled = [mb for second, mb in memory if second >= min(5, options.seconds // 2)]
    write_json(options.out / "summary.json", {
        "plan": halves(options, "device").manifest.label, "devices": options.devices,
        "seconds": options.seconds, "rate": options.rate, **found,
        "server_resident_mb": {"first": memory[0][1], "settled": settled[0], "last": settled[-1], "max": max(settled)}})
    rows = "".join(f"{second},{mb:.3f}\n" for second, mb in memory)
    (options.out / "memory.csv").write_text(f"# {command_line()}\nsecond,server_resident_mb\n{rows}")


if __name__ == "__main__":
    main()
