"""Controllers on real processes: devices that share one link and one edge, beside what the simulation says.

    autosplit search --budget-ms 90 --channel benchmarks/profiles/shaped-link.yaml --out RUN
    autosplit adapt RUN --out BUNDLE --budget-ms 200 --epochs 2
    python -m benchmarks.controlled --run RUN --bundle BUNDLE --out results/benchmarks/controlled

A process for each device, one for the link (`benchmarks.shaping`: all connections share its rate), one for the edge.
Each device gets test images at times that are drawn beforehand, the same for every controller, answers them with
`PictureStream`, and computes as long as the manifest says of the device. Controllers come from `train-controller`'s
own code; `switching table` is what a bundle without one does. Counted is what is right and in time, of all pictures.

The simulation (`autosplit.envs.fleet`) plays the same controllers in the same setting, with payloads that stay in the
link's queue although their pictures were given up, as over TCP (`Fleet.withdraws`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from autosplit.agents.control.play import play
from autosplit.core.result import Result
from autosplit.data import load_dataset
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.stream.around import StreamsAround
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.pipeline.controllers import control, levels_of
from autosplit.report.progress import Progress
from autosplit.runtime.standalone.bundle.parts import load_device
from autosplit.runtime.standalone.control.controller import Controller
from autosplit.runtime.standalone.control.record import ControllerRecord
from autosplit.runtime.standalone.device.choosers import Chooser, ControllerChooser, SwitchingTable
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.device.stream import PictureStream
from benchmarks.adaptive import StretchedDevice, serve
from benchmarks.common import parser, write_json
from benchmarks.shaping import Trace, shape

TABLE = "switching table"
_DELAY_MS = 5.0  # of each direction, as the profile says
_READY_S = 0.5


@dataclass(frozen=True)
class Job:
    """What a device does next.

    Attributes:
        controller: That decides; the bundle's switching table where there is none.
        record: Deadline and all else that it is told.
        arrivals_ms: When its pictures come, shape (n,).
        images: uint8, shape (n, C, H, W).
    """

    controller: Controller | None
    record: ControllerRecord
    arrivals_ms: Any
    images: Any


def device(bundle: Path, port: int, pipe: Connection) -> None:
    """A device's process: for each job the outcome, the label and the age of every picture."""
    part = load_device(bundle)
    while (job := pipe.recv()) is not None:
        chooser: Chooser = SwitchingTable(part.manifest) if job.controller is None else ControllerChooser(
            part.manifest, job.record, job.controller)
        with DeviceClient(StretchedDevice(part, True), f"127.0.0.1:{port}", ClientOptions(timeout_ms=5000)) as client:
            client.ping()
            stream = PictureStream(client, chooser, job.record.deadline_ms, job.record.buffer)
            pipe.send(None)
            thread = threading.Thread(target=_camera, args=(stream, job, pipe.recv()))
            thread.start()
            pipe.send([(int(s.name), s.outcome, s.age_ms, -1 if s.answer is None else s.answer.label,
                        -1 if s.answer is None or s.answer.rate is None else s.answer.rate) for s in stream])
            thread.join()


def _camera(stream: PictureStream, job: Job, start_s: float) -> None:
    for number, (arrival_ms, image) in enumerate(zip(job.arrivals_ms, job.images, strict=True)):
        time.sleep(max(0.0, start_s + arrival_ms / 1000 - time.monotonic()))
        stream.offer(str(number), image)
    stream.close()


def measure(options: argparse.Namespace, controllers: dict[str, Controller | None], record: ControllerRecord,
            arrivals: Arrivals) -> pd.DataFrame:
    """Every controller in turn, for every repetition: a row a picture."""
    part = load_device(options.bundle)
    images = load_dataset(part.manifest.source.dataset if part.manifest.source else "digits-m").test
    spawn = multiprocessing.get_context("spawn")
    (edge, far), (link, end) = spawn.Pipe(), spawn.Pipe()
    processes = [spawn.Process(target=serve, args=(options.bundle, far))]
    processes[0].start()
    trace = Trace((0.0,), (record.uplink_kbps,))
    processes.append(spawn.Process(target=shape, args=(("127.0.0.1", edge.recv()), trace, _DELAY_MS, end)))
    processes[1].start()
    port, pipes = link.recv(), []
    for _ in range(options.devices):
        ours, theirs = spawn.Pipe()
        pipes.append(ours)
        processes.append(spawn.Process(target=device, args=(options.bundle, port, theirs)))
        processes[-1].start()
    rows: list[dict[str, Any]] = []
    for repetition in range(options.repetitions):
        rng = np.random.default_rng([options.seed, repetition])
        most = int(3 * arrivals.per_s * options.seconds)
        times = [row[row < 1000 * options.seconds] for row in arrivals.draw(options.devices, most, rng)]
        picked = [rng.integers(len(images), size=len(each)) for each in times]
        # in another order each time, so that nobody always runs when the machine has most to do
        for name in rng.permutation(list(controllers)):
            for pipe, each, which in zip(pipes, times, picked, strict=True):
                pipe.send(Job(controllers[name], record, each, images.images[which].numpy()))
            for pipe in pipes:
                pipe.recv()
            start_s = time.monotonic() + _READY_S
            for pipe in pipes:
                pipe.send(start_s)
            found = [pipe.recv() for pipe in pipes]
            for number, (settled, which) in enumerate(zip(found, picked, strict=True)):
                labels = images.labels[which].tolist()
                rows += [{"controller": name, "repetition": repetition, "device": number, "picture": picture,
                          "outcome": outcome, "age_ms": round(age_ms, 2), "rate": rate,
                          "right": outcome == "answered" and label == labels[picture]}
                         for picture, outcome, age_ms, label, rate in settled]
            part_of = [row["right"] for row in rows if (row["controller"], row["repetition"]) == (name, repetition)]
            print(f"repetition {repetition}, {name}: {np.mean(part_of):.1%} of {len(part_of)}", flush=True)
    for pipe in (*pipes, link, edge):
        pipe.send(None)
    for process in processes:
        process.join()
    return pd.DataFrame(rows)


def simulated(options: argparse.Namespace, controllers: dict[str, Controller | None], around: StreamsAround
              ) -> dict[str, Any]:
    """Right and in time of each controller in the simulation of this very setting, one value an episode."""
    core = FleetCore((around.as_told(),), 64, options.seed)
    which = np.zeros(64, dtype=np.int64)
    return {name: play(core, each, which, options.seed).accuracy for name, each in controllers.items()
            if each is not None}


def summary(frame: pd.DataFrame, played: dict[str, Any], chosen: str) -> pd.DataFrame:
    """Of each controller: right and in time, by how much the chosen one is ahead, and what the simulation says."""
    shares = frame.groupby(["controller", "repetition"])["right"].mean().unstack()
    rows = []
    for name, values in shares.iterrows():
        ahead = (shares.loc[chosen] - values).to_numpy(float)
        half = float(student.ppf(0.975, len(ahead) - 1) * ahead.std(ddof=1) / np.sqrt(len(ahead)))
        row = {"controller": name, "right_in_time": values.mean(), "spread": values.std(ddof=1),
               "chosen_ahead": ahead.mean(), "low": ahead.mean() - half, "high": ahead.mean() + half}
        if name in played:
            row |= {"simulated": played[name].mean(),
                    "simulated_ahead": played[chosen].mean() - played[name].mean()}
        mine = frame[frame["controller"] == name]
        row |= {outcome: (mine["outcome"] == outcome).mean() for outcome in ("answered", "late", "skipped", "dropped")}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("right_in_time").reset_index(drop=True)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--run", type=Path, required=True, help="directory of the search")
    options_parser.add_argument("--bundle", type=Path, required=True, help="folder that `autosplit adapt` wrote")
    options_parser.add_argument("--devices", type=int, default=8)
    options_parser.add_argument("--per-s", type=float, default=4.0, help="pictures a second at each device")
    options_parser.add_argument("--peak", type=float, default=3.0, help="within bursts so many times as many")
    options_parser.add_argument("--budget-ms", type=float, help="deadline; by default the bundle's")
    options_parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    options_parser.add_argument("--repetitions", type=int, default=5)
    options_parser.add_argument("--steps", type=int, default=600_000, help="of the network's training")
    options = options_parser.parse_args()
    arrivals = Arrivals(options.per_s, peak=options.peak)
    found = control(options.run, options.bundle, arrivals, devices=options.devices, deadline_ms=options.budget_ms,
                    steps=options.steps, seed=options.seed, progress=Progress())
    record = found.manifest.controller
    assert record is not None
    controllers: dict[str, Controller | None] = {TABLE: None, **found.controllers}
    conditions = Result.load(options.run / "best.json").scenario.conditions.model_copy(
        update={"budget_ms": record.deadline_ms})
    around = StreamsAround(levels_of(found.manifest), conditions, arrivals, options.devices,
                           int(options.per_s * options.seconds), record.buffer)
    played = simulated(options, controllers, around)
    frame = measure(options, controllers, record, arrivals)
    table = summary(frame, played, found.chosen)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "pictures.csv.gz", index=False)
    table.round(4).to_csv(options.out / "summary.csv", index=False)
    write_json(options.out / "summary.json", {
        "chosen": found.chosen, "devices": options.devices, "per_s": options.per_s, "peak": options.peak,
        "deadline_ms": record.deadline_ms, "uplink_kbps": record.uplink_kbps, "seconds": options.seconds,
        "repetitions": options.repetitions, "settings": {row.name: row.setting for row in found.compared},
        "drawn_streams": {row.name: row.in_time_accuracy for row in found.compared}})
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
