"""A device that changes the size of its code with the link, beside the same device at each fixed size.

    autosplit search --budget-ms 90 --channel benchmarks/profiles/shaped-link.yaml --out RUN
    autosplit adapt RUN --out BUNDLE --budget-ms 65 --epochs 2
    python -m benchmarks.adaptive --bundle BUNDLE --out results/benchmarks/adaptive

Three processes: the edge, the link (`benchmarks.shaping`: 1 Mb/s, then falling to 30 kb/s, then back, 5 ms of delay in
each direction) and the device, which gets a test image every `--period-ms` and has to answer within the bundle's
deadline. Every baseline has the same images in the same order. An image that the device cannot begin with before its
deadline is skipped, and counts as missed; so nobody drags a queue along. This machine is quicker than the device that
the run was for, so the device's part is stretched to what the manifest says of it (`--no-stretch` leaves it).
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import time
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.data import load_dataset
from autosplit.data.base import Split
from autosplit.runtime.standalone.bundle.parts import DevicePart, load_device, load_edge
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from benchmarks.common import command_line, write_json
from benchmarks.shaping import Trace, shape

ADAPTIVE = "adaptive"
DELAY_MS = 5.0
WARM_UP = 10  # answers before the trace begins


@dataclass(frozen=True)
class Row:
    """What became of one image.

    Attributes:
        baseline: `adaptive`, or a rate.
        seed: Of the order of images.
        image: Number in the test part.
        second: When it was due.
        link_kbps: Of the link then.
        rate: That it was encoded at; -1 where it was skipped.
        payload_bytes: Sent.
        total_ms: From when it was due to its answer.
        right: Whether the answer is right.
        in_time: Whether it came within the deadline.
        believed_kbps: The rate that the device then thought the link has; 0 where it does not care.
    """

    baseline: str
    seed: int
    image: int
    second: float
    link_kbps: float
    rate: int
    payload_bytes: int
    total_ms: float
    right: bool
    in_time: bool
    believed_kbps: float


class StretchedDevice:
    """A device part that takes as long as the latency model says of the device.

    Args:
        part: Of the bundle.
        stretch: Whether to.
    """

    answers = False

    def __init__(self, part: DevicePart, stretch: bool) -> None:
        self.manifest, self._part, self._stretch = part.manifest, part, stretch

    def begin(
        self, images: NDArray[np.uint8], rate: int | None = None
    ) -> tuple[list[bytes], NDArray[np.float32] | None]:
        """See `DevicePart.begin`."""
        end_s = time.monotonic()
        payloads = self._part.begin(images, rate)
        if self._stretch:
            end_s += len(images) * self.manifest.rates[rate or 0].device_ms / 1000
            time.sleep(max(0.0, end_s - time.monotonic()))
        return payloads

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `DevicePart.logits`."""
        return self._part.logits(images)

    def fallback(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """None: a missing answer shall be seen."""


def serve(bundle: Path, pipe: Connection) -> None:
    """The edge's process."""
    with EdgeServer(load_edge(bundle, 1), ServerOptions("tcp://127.0.0.1:0", rate=0)) as server:
        pipe.send(int(server.endpoint.rpartition(":")[2]))
        pipe.recv()


def ask(device: StretchedDevice, port: int, baseline: str, seed: int, images: Split, trace: Trace,
        period_s: float, begin: Any) -> list[Row]:
    """One run along the trace; `begin` is told when it starts."""
    assert device.manifest.switching is not None
    budget_ms = device.manifest.switching.budget_ms
    adaptive = baseline == ADAPTIVE
    options = ClientOptions(timeout_ms=5000, adaptive=adaptive, rate=None if adaptive else int(baseline))
    count = int(trace.seconds[-1] / period_s)
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    rows = []
    with DeviceClient(device, f"127.0.0.1:{port}", options) as client:
        for i in range(WARM_UP):
            client.infer(images.images[i].numpy())
        start_s = time.monotonic() + 0.2
        begin(start_s)
        for number, image in enumerate(order):
            due_s, rate, answer = number * period_s, -1, None
            time.sleep(max(0.0, start_s + due_s - time.monotonic()))
            if time.monotonic() - start_s - due_s <= budget_ms / 1000:
                answer = client.infer(images.images[image].numpy())
            total_ms = 1000 * (time.monotonic() - start_s - due_s)
            if answer is not None:
                assert answer.where == "edge"
                rate = -1 if answer.rate is None else answer.rate
            right = answer is not None and answer.label == int(images.labels[image])
            rows.append(Row(baseline, seed, int(image), round(due_s, 3), round(trace.at(due_s), 2), rate,
                            answer.payload_bytes if answer else 0, round(total_ms, 3), right,
                            answer is not None and total_ms <= budget_ms,
                            client.switch.link.rate_kbps if client.switch else 0.0))
    return rows


def measure(options: argparse.Namespace) -> list[Row]:
    """All baselines, in turn, for every seed."""
    device = StretchedDevice(load_device(options.bundle), options.stretch)
    images = load_dataset(device.manifest.source.dataset if device.manifest.source else "digits-m").test
    trace = trace_of(options)
    spawn = multiprocessing.get_context("spawn")
    (edge, far), (link, end) = spawn.Pipe(), spawn.Pipe()
    server = spawn.Process(target=serve, args=(options.bundle, far))
    server.start()
    proxy = spawn.Process(target=shape, args=(("127.0.0.1", edge.recv()), trace, DELAY_MS, end))
    proxy.start()
    port, rows = link.recv(), []
    baselines = [ADAPTIVE, *map(str, range(len(device.manifest.rates)))]
    for seed in range(options.repetitions):
        # in another order each time, so that nobody always runs when the machine has most to do
        for baseline in np.random.default_rng([seed, 1]).permutation(baselines):
            link.send(float("inf"))  # the first rate again
            found = ask(device, port, str(baseline), seed, images, trace, options.period_ms / 1000, link.send)
            print(f"seed {seed}, {baseline}: {in_time_accuracy(found):.1%}", flush=True)
            rows += found
    link.send(None)
    edge.send(None)
    for process in (proxy, server):
        process.join()
    return rows


def trace_of(options: argparse.Namespace) -> Trace:
    """1 Mb/s, a fall to 30 kb/s, and back."""
    shares = (0.0, 0.22, 0.38, 0.62, 0.78, 1.0)
    return Trace(tuple(options.seconds * s for s in shares), (1000, 1000, 30, 30, 1000, 1000))


def in_time_accuracy(rows: list[Row]) -> float:
    """Share of images answered right and within the deadline."""
    return fmean(row.right and row.in_time for row in rows)


def summary(rows: list[Row]) -> dict[str, Any]:
    """In-time accuracy of each baseline: mean and spread over seeds, and how far the adaptive one is ahead."""
    seeds = sorted({row.seed for row in rows})
    runs = {name: [in_time_accuracy([r for r in rows if (r.baseline, r.seed) == (name, seed)]) for seed in seeds]
            for name in sorted({row.baseline for row in rows}, key=lambda n: (n != ADAPTIVE, n))}
    found = {}
    for name, values in runs.items():
        mine = [r for r in rows if r.baseline == name]
        found[name] = {
            "in_time_accuracy": fmean(values), "spread": _spread(values), "by_seed": values,
            "in_time": fmean(r.in_time for r in mine),
            "right_of_answered": fmean(r.right for r in mine if r.rate >= 0),
            "payload_bytes": fmean(r.payload_bytes for r in mine if r.rate >= 0)}
    fixed = max((name for name in runs if name != ADAPTIVE), key=lambda name: fmean(runs[name]))
    ahead = [a - b for a, b in zip(runs[ADAPTIVE], runs[fixed], strict=True)]
    each = [a - max(runs[name][i] for name in runs if name != ADAPTIVE) for i, a in enumerate(runs[ADAPTIVE])]
    return {"baselines": found, "best_fixed": fixed,
            "ahead_of_best_fixed": {"mean": fmean(ahead), "spread": _spread(ahead), "least": min(ahead)},
            "ahead_of_the_best_of_each_seed": each}


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def write_rows(path: Path, rows: list[Row]) -> None:
    """Rows as CSV, with the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {command_line()}\n")
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    """Run the benchmark that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder that `autosplit adapt` wrote")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the trace")
    parser.add_argument("--period-ms", type=float, default=100.0, help="from one image to the next")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--no-stretch", dest="stretch", action="store_false", help="the device is this machine")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from benchmarks.adaptive_plot import draw

    rows, manifest = measure(options), load_device(options.bundle).manifest
    write_rows(options.out / "images.csv", rows)
    assert manifest.switching is not None
    write_json(options.out / "summary.json", {
        "plan": manifest.label, "budget_ms": manifest.switching.budget_ms, "seconds": options.seconds,
        "period_ms": options.period_ms, "repetitions": options.repetitions, "delay_ms_each_way": DELAY_MS,
        "stretched": options.stretch, "rates": [asdict(rate) for rate in manifest.rates], **summary(rows)})
    draw(rows, manifest, options.out / "adaptive.png")


if __name__ == "__main__":
    main()
