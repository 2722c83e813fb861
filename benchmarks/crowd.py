"""A thousand simulated devices at one edge, with one process that computes and with several, and one of them killed.

    autosplit export results/split --out bundle
    python -m benchmarks.crowd --bundle bundle --out results/benchmarks/crowd

The edge is `autosplit serve bundle --workers N` on the loopback. The devices are one process with a connection and a
session for each: payloads of random images are encoded beforehand, a device has one request under way at most and
checks every label against the one that the bundle's halves give in one process. First each device asks again as soon as
it has an answer, which shows what the edge can do; then `--rate` times a second; then the same while a process that
computes is killed. A device that is told `busy` asks again after 0.1 s.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from autosplit.runtime.standalone.bundle import load_device, load_edge
from autosplit.runtime.standalone.protocol.wire import EdgeAnswer, Frame, Kind, Reason, short_key
from benchmarks.common import write_json

_BUSY_S, _PATIENCE_S, _SETTLE_S = 0.1, 10.0, 2.0


@dataclass
class Crowd:
    """Devices of one process, and what they were told.

    Attributes:
        endpoint: Of the edge.
        key: Of the bundle.
        payloads: What they send, one after the other.
        labels: What is right for each.
        answered: (time, milliseconds) of each answer.
        refused: Refusals, by reason.
        wrong: Answers with another label.
        lost: Requests without an answer for ten seconds.
    """

    endpoint: str
    key: bytes
    payloads: list[bytes]
    labels: list[int]
    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0

    def connect(self, devices: int) -> None:
        """Open a session for each device."""
        self.context, self.poller = zmq.Context(), zmq.Poller()
        self.context.set(zmq.MAX_SOCKETS, devices + 16)
        self.sockets: dict[Any, int] = {}
        self.sessions, self.sequences = [0] * devices, [1] * devices
        self.under_way: dict[int, tuple[int, int, float]] = {}  # device -> sequence, payload, when
        for number in range(devices):
            socket = self.context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(self.endpoint)
            socket.send(Frame(Kind.HELLO, self.key, sequence=1, body=number.to_bytes(8, "big")).encode())
            self.sockets[socket] = number
            self.poller.register(socket, zmq.POLLIN)
        self.by_number = {number: socket for socket, number in self.sockets.items()}
        until = time.monotonic() + 60
        while not all(self.sessions) and time.monotonic() < until:
            for socket, _ in self.poller.poll(100):
                frame = Frame.decode(socket.recv(), self.key)
                if frame.kind is Kind.WELCOME:
                    self.sessions[self.sockets[socket]] = frame.session

    def run(self, seconds: float, rate: float) -> dict[str, Any]:
        """Ask for so long; `rate` images a second of each device, 0 = as soon as there is an answer."""
        self.answered, self.refused, self.wrong, self.lost = [], {}, 0, 0
        begun = time.monotonic()
        devices = len(self.sessions)
        due = [(begun + (n / devices / rate if rate else 0.0), n) for n in range(devices)]
        heapq.heapify(due)
        sent = 0
        while (now := time.monotonic()) < begun + seconds:
            while due and due[0][0] <= now:
                _, number = heapq.heappop(due)
                self._ask(number, sent % len(self.payloads), now)
                sent += 1
            for socket, _ in self.poller.poll(max(0.0, min(0.05, due[0][0] - now) if due else 0.05) * 1000):
                number = self.sockets[socket]
                with contextlib.suppress(zmq.Again):
                    while True:
                        again = self._take(number, Frame.decode(socket.recv(zmq.NOBLOCK), self.key), rate)
                        if again is not None:
                            heapq.heappush(due, (again, number))
        self.lost = sum(now - when > _PATIENCE_S for _, _, when in self.under_way.values())
        until = time.monotonic() + _PATIENCE_S
        while self.under_way and time.monotonic() < until:  # what is under way belongs to this run
            for socket, _ in self.poller.poll(100):
                self._take(self.sockets[socket], Frame.decode(socket.recv(), self.key), rate)
        self.lost += len(self.under_way)
        self.under_way.clear()
        ms = np.array([m for when, m in self.answered if when < begun + seconds])
        return {"asked": sent, "answers": len(self.answered), "answers_per_second": round(len(ms) / seconds, 1),
                "wrong": self.wrong, "without_answer": self.lost, "refused": self.refused,
                "ms": {f"p{p}": round(float(np.percentile(ms, p)), 1) for p in (50, 95, 99)}}

    def _ask(self, number: int, payload: int, now: float) -> None:
        self.sequences[number] += 1
        self.under_way[number] = self.sequences[number], payload, now
        self.by_number[number].send(Frame(Kind.REQUEST, self.key, self.sessions[number], self.sequences[number],
                                          self.payloads[payload]).encode())

    def _take(self, number: int, frame: Frame, rate: float) -> float | None:
        """Note an answer or a refusal; gives when the device asks again."""
        sequence, payload, when = self.under_way.get(number, (0, 0, 0.0))
        if frame.sequence != sequence:
            return None
        del self.under_way[number]
        now = time.monotonic()
        if frame.kind is Kind.ANSWER:
            self.answered.append((now, 1000 * (now - when)))
            self.wrong += EdgeAnswer.decode(frame.body).label != self.labels[payload]
            return max(now, when + 1 / rate) if rate else now
        reason = frame.reason.word if isinstance(frame.reason, Reason) else "?"
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return now + _BUSY_S

    def gap_after(self, moment: float, step_s: float = 0.25) -> dict[str, float]:
        """What a killed process cost: the longest time without an answer, and how long answers were fewer."""
        times = np.array([when for when, _ in self.answered])
        before = ((times > moment - 2) & (times <= moment)).sum() / 2 * step_s
        after = times[times > moment]
        counts = np.histogram(after, np.arange(moment, after.max() - step_s, step_s))[0]
        slow = np.flatnonzero(counts < 0.5 * before)
        return {"longest_gap_ms": round(1000 * float(np.diff(np.concatenate([[moment], after])).max()), 1),
                "seconds_until_as_frequent": round(float((slow[-1] + 1) * step_s) if len(slow) else 0.0, 1),
                "slowest_ms": round(max(ms for when, ms in self.answered if when > moment), 1)}


def resident_mb(pid: int) -> float:
    """Of a process and its children (Linux), MB; what they share counts for each."""
    pids = [pid, *children(pid)]
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def children(pid: int) -> list[int]:
    """Processes that compute for a server."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # the first one may be Python's tracker of resources
    return [int(c) for c in found if b"resource_tracker" not in Path(f"/proc/{c}/cmdline").read_bytes()]


def measure(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """All runs with so many processes."""
    device, edge = load_device(options.bundle), load_edge(options.bundle, 1)
    images = np.random.default_rng(0).integers(0, 256, (options.images, *device.manifest.image_shape), dtype=np.uint8)
    payloads, _ = device.begin(images)
    kept = [p for p in payloads if p]
    labels = edge.decode(kept).argmax(1).tolist()
    with subprocess.Popen(
            [sys.executable, "-m", "autosplit", "serve", str(options.bundle), "--bind", "tcp://127.0.0.1:0",
             "--workers", str(workers), "--threads", str(options.threads), "--rate", "0",
             "--max-devices", str(options.devices), "--idle-s", "600", "--json"],
            stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        crowd = Crowd(json.loads(server.stdout.readline())["serving"], short_key(device.manifest.key), kept, labels)
        crowd.connect(options.devices)
        found: dict[str, Any] = {"workers": workers, "sessions": sum(map(bool, crowd.sessions))}
        crowd.run(_SETTLE_S, 0)
        found["flat_out"] = crowd.run(options.seconds, 0)
        found["paced"] = crowd.run(options.seconds, options.rate)
        found["server_resident_mb"] = resident_mb(server.pid)
        if workers > 1:
            killed: list[float] = []

            def kill() -> None:
                time.sleep(options.seconds / 3)
                os.kill(children(server.pid)[0], signal.SIGKILL)
                killed.append(time.monotonic())

            thread = threading.Thread(target=kill)
            thread.start()
            found["one_killed"] = crowd.run(options.seconds, options.rate)
            thread.join()
            found["one_killed"] |= crowd.gap_after(killed[0])
        server.send_signal(signal.SIGTERM)
        found["server"] = {name: value for name, value in json.loads(server.stdout.read().splitlines()[-1]).items()
                           if name in {"answers", "lost", "refused", "dropped"}}
    return found


def main() -> None:
    """Run the benchmark that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime in each process")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=0.5, help="images a second of each device, when paced")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.out / "crowd.json", {
        "plan": load_device(options.bundle).manifest.label, "devices": options.devices, "rate": options.rate,
        "threads": options.threads, "seconds": options.seconds,
        "runs": [measure(options, workers) for workers in options.workers]})


if __name__ == "__main__":
    main()
