"""Controllers in streams that nothing was tuned on: rules, each tuned to every stream, and one network for all of them.

    python -m benchmarks.stream --out results/benchmarks/stream
    python -m benchmarks.stream --devices 8 --train-streams 100 --episodes 16 --out results/benchmarks/fleet

Streams are drawn (`autosplit.envs.stream.sampler`) with levels from two tables of measured plans; with several
`--devices` each is a fleet of so many, which share a link and an edge (`autosplit.envs.fleet`) and have the same
controller. The network is trained in some, with several seeds, and met the others never. What it is compared with
knows more: every rule has its settings chosen stream by stream, on other draws of the same stream, and `best rule` is
the rule that did best there. `one rule for all` knows as much as the network: it is the rule and setting that did best
in the streams that the network was trained in. All see the same figures of the device, and all drop what is too old.
Everything is measured on draws of their own. `ceiling` is what nobody can reach: the most accurate level for every
picture, always in time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, wilcoxon

from autosplit.agents.control.learned import ControlPPO, train_controller
from autosplit.agents.control.play import Played, play
from autosplit.agents.control.tuning import RULES, best_for_all, tuned_each
from autosplit.core.arrays import Array
from autosplit.envs.conditions import ProfilesSampler
from autosplit.envs.fleet.core import FleetCore, core_of
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.fleet.sampler import FleetSampler
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.sampler import KINDS, StreamSampler
from autosplit.envs.stream.stream import Stream
from autosplit.experiments.bench.table import load_table
from autosplit.latency import load_latency_model
from autosplit.latency.base import coarse_of
from autosplit.report.progress import Progress
from autosplit.runtime.standalone.control.controller import Controller
from autosplit.runtime.standalone.control.network import NetworkController
from autosplit.runtime.standalone.control.rules import FairShare, Myopic
from benchmarks.common import parser, write_json

TABLES = ("results/tables/digits-m.csv.gz", "results/tables/cifar10.csv.gz")
DEVICES = ("stm32l4r5", "stm32h7a3", "raspberry-pi-zero-2w")
CHANNELS = ("sub-ghz-fsk-50k", "ble-coded", "ble-1m", "lte-m", "nb-iot", "wifi-halow", "3g")
BEST, COMMON, PPO = "best rule", "one rule for all", "ppo"
_TUNED_BY = 8  # episodes with each setting


def sampler(tables: tuple[str, ...], devices: int) -> StreamSampler | FleetSampler:
    """Draws streams of all kinds, or fleets of so many devices."""
    measured = tuple(tuple(load_table(table).evaluator.measurements) for table in tables)
    conditions = ProfilesSampler.named(devices=DEVICES, channels=CHANNELS)
    latency_model = coarse_of(load_latency_model("analytic"))
    if devices > 1:
        return FleetSampler(measured, conditions, latency_model, devices)
    return StreamSampler(measured, conditions, latency_model)


def test_streams(draws: StreamSampler | FleetSampler, each: int, seed: int) -> list[Any]:
    """So many streams of each kind."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    rng = np.random.default_rng([seed, 1])
    while min(map(len, found.values())) < each:
        drawn = draws.sample(rng)
        found[kind_of(drawn)].append(drawn)
    return [stream for streams in found.values() for stream in streams[:each]]


def kind_of(stream: Stream | Fleet) -> str:
    """The kind that a stream was drawn of."""
    return stream.name.partition(",")[0]


def ceiling(core: StreamCore | FleetCore) -> Array:
    """More than anybody can reach in each stream: the most accurate level for every picture, always in time."""
    return np.array([np.mean([max(level.accuracy for level in device.levels) for device in devices_of(stream)])
                     for stream in core.streams])


def devices_of(stream: Stream | Fleet) -> Sequence[Stream]:
    """The streams of a fleet's devices, or the one stream."""
    return stream.devices if isinstance(stream, Fleet) else (stream,)


def rules_of(devices: int) -> dict[str, Any]:
    """Families of rules; a fair share is for those who share."""
    return {name: rule for name, rule in RULES.items() if devices > 1 or rule is not FairShare}


def common_rule(streams: Sequence[Stream] | Sequence[Fleet], rules: dict[str, Any]) -> Controller:
    """Of all rules and settings the one with the highest mean reward over some streams."""
    core = core_of(streams, 2, 12)
    return best_for_all([each for rule in rules.values() for each in rule.all(core.levels)], core, 2, 0)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--tables", nargs="+", default=TABLES)
    options_parser.add_argument("--devices", type=int, default=1, help="of a fleet")
    options_parser.add_argument("--train-streams", type=int, default=200)
    options_parser.add_argument("--streams", type=int, default=20, help="of each kind, to measure in")
    options_parser.add_argument("--episodes", type=int, default=32)
    options_parser.add_argument("--steps", type=int, default=ControlPPO.steps)
    options_parser.add_argument("--seeds", type=int, default=5)
    options_parser.add_argument("--keep", choices=("rules", "networks"),
                                help="take these figures from --out, which holds those of the same streams")
    options_parser.add_argument("--networks", type=Path, help="folder of an earlier run whose networks are measured")
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    progress, draws = Progress(), sampler(tuple(options.tables), options.devices)
    with progress.phase("draw streams"):
        trained_in = draws.streams(options.train_streams, options.seed)
        streams = test_streams(draws, options.streams, options.seed)
    tuning, measuring = core_of(streams, 16, 10), core_of(streams, options.episodes, 11)
    everywhere = np.repeat(np.arange(len(streams)), options.episodes)
    rows, most, rules = [], ceiling(measuring), rules_of(options.devices)

    def measure(name: str, controllers: Sequence[Controller], seed: int | None = None) -> None:
        played = play(measuring, [controllers[index] for index in everywhere], everywhere, 7)
        for index, controller in enumerate(controllers):
            rows.append({"controller": name, "seed": seed, "stream": index, "kind": kind_of(streams[index]),
                         "name": streams[index].name, "ceiling": most[index],
                         "battery": any(np.isfinite(device.charge_mj) for device in devices_of(streams[index])),
                         "setting": "" if seed is not None else repr(controller), **_means(played, index)})

    if options.keep:
        kept = pd.read_csv(options.out / "streams.csv")
        rows += kept[(kept.controller == PPO) == (options.keep == "networks")].to_dict("records")
    if options.keep != "rules":
        measure("myopic", [Myopic()] * len(streams))
        chosen = []
        with progress.phase("tune the rules", total=len(rules)) as advance:
            for name, rule in rules.items():
                chosen.append(tuned_each(rule.all(tuning.levels), tuning, np.arange(len(streams)), _TUNED_BY, 0))
                measure(name, [controller for controller, _ in chosen[-1]])
                advance(1)
        measure(BEST, [max(found, key=lambda each: each[1])[0] for found in zip(*chosen, strict=True)])
        with progress.phase("tune one rule for all"):
            measure(COMMON, [common_rule(trained_in, rules)] * len(streams))
    settings, seconds = ControlPPO(steps=options.steps), []
    for seed in range(options.seed, options.seed + options.seeds * (options.keep != "networks")):
        start = time.perf_counter()
        name = f"network-{seed}.npz"
        if options.networks:
            network = NetworkController.load(options.networks / name)
        else:
            with progress.phase(f"train with seed {seed}", total=settings.steps) as advance:
                network = train_controller(trained_in, settings, seed, advance=advance)
            network.save(options.out / name)
        seconds.append(time.perf_counter() - start)
        measure(PPO, [network] * len(streams), seed)
        write(rows, options, seconds)
    print(write(rows, options, seconds).to_string(index=False))


def write(rows: list[dict[str, Any]], options: argparse.Namespace, seconds: list[float]) -> pd.DataFrame:
    """Write what is known so far; gives the summary."""
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "streams.csv", index=False, float_format="%.5f")
    summary = summarised(frame)
    summary.to_csv(options.out / "summary.csv", index=False, float_format="%.4f")
    name = "rules.json" if options.keep == "networks" else "streams.json"  # which also tells of those that are kept
    write_json(options.out / name, {"train_streams": options.train_streams, "steps": options.steps,
                                    "training_seconds": [round(s, 1) for s in seconds]})
    return summary


def _means(played: Played, stream: int) -> dict[str, float]:
    names = "reward", "accuracy", "energy_mj", "decisions"
    return {name: float(getattr(played, name)[played.stream == stream].mean()) for name in names}


def summarised(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each kind and controller the mean reward, and by how much the network is ahead of it, relative.

    The network's reward in a stream is the mean over its seeds; intervals (95 %, bootstrap) and Wilcoxon's test are
    over streams.
    """
    rewards = frame.groupby(["kind", "controller", "stream"]).reward.mean()
    most = frame.groupby("kind").ceiling.mean()
    spread = frame[frame.controller == PPO].groupby(["kind", "seed"]).reward.mean().groupby("kind").std(ddof=1)
    rows = []
    for kind in frame.kind.unique():
        network = rewards[kind][PPO].to_numpy()
        for controller in frame.controller.unique():
            other: Array = rewards[kind][controller].to_numpy()
            row = {"kind": kind, "controller": controller, "reward": other.mean(), "ceiling": most[kind]}
            if controller == PPO:
                row["over seeds"] = spread[kind]
            else:
                ahead = 100 * (network - other)
                interval = bootstrap((ahead,), np.mean, rng=np.random.default_rng(0)).confidence_interval
                row |= {"network ahead": network.mean() / other.mean() - 1, "points": ahead.mean(),
                        "low": interval.low, "high": interval.high, "p": wilcoxon(ahead).pvalue}
            rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
