"""Controllers in streams that nothing was tuned on: rules, each tuned to every stream, and one network for all of them.

    python -m benchmarks.stream --out results/benchmarks/stream

Streams are drawn (`autosplit.envs.stream.sampler`) with levels from two tables of measured plans. The network is
trained in some, with several seeds, and met the others never. What it is compared with knows more: every rule has
its settings chosen stream by stream, on other draws of the same stream, and `best rule` is the rule that did best
there. `one rule for all` knows as much as the network: it is the rule and setting that did best in the streams that the
network was trained in. All see the same figures of the device, and all drop what is too old. Everything is measured on
draws of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, wilcoxon

from autosplit.agents.control.base import Controller, Played, play
from autosplit.agents.control.learned import ControlPPO, train_controller
from autosplit.agents.control.rules import RULES, Myopic, tuned
from autosplit.core.arrays import Array
from autosplit.envs.conditions import ProfilesSampler
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.sampler import KINDS, StreamSampler
from autosplit.envs.stream.stream import Stream
from autosplit.experiments.bench.table import load_table
from autosplit.latency import load_latency_model
from autosplit.latency.base import coarse_of
from autosplit.report.progress import Progress
from benchmarks.common import parser, write_json

TABLES = ("results/tables/digits-m.csv.gz", "results/tables/cifar10.csv.gz")
DEVICES = ("stm32l4r5", "stm32h7a3", "raspberry-pi-zero-2w")
CHANNELS = ("sub-ghz-fsk-50k", "ble-coded", "ble-1m", "lte-m", "nb-iot", "wifi-halow", "3g")
BEST, COMMON, PPO = "best rule", "one rule for all", "ppo"
_TUNED_BY = 8  # episodes with each setting


def sampler(tables: tuple[str, ...]) -> StreamSampler:
    """Draws streams of all kinds."""
    measured = tuple(tuple(load_table(table).evaluator.measurements) for table in tables)
    return StreamSampler(measured, ProfilesSampler.named(devices=DEVICES, channels=CHANNELS),
                         coarse_of(load_latency_model("analytic")))


def test_streams(draws: StreamSampler, each: int, seed: int) -> list[Stream]:
    """So many streams of each kind."""
    found: dict[str, list[Stream]] = {kind: [] for kind in KINDS}
    rng = np.random.default_rng([seed, 1])
    while min(map(len, found.values())) < each:
        drawn = draws.sample(rng)
        found[kind_of(drawn)].append(drawn)
    return [stream for streams in found.values() for stream in streams[:each]]


def kind_of(stream: Stream) -> str:
    """The kind that a stream was drawn of."""
    return stream.name.partition(",")[0]


def common_rule(streams: Sequence[Stream]) -> Controller:
    """Of all rules and settings the one with the highest mean reward over some streams."""
    core = StreamCore(streams, 2, 12)
    everywhere = np.repeat(np.arange(len(streams)), 2)
    candidates = [each for rule in RULES.values() for each in rule.all(core.levels)]
    return max(candidates, key=lambda each: float(play(core, each, everywhere, 0).reward.mean()))


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--tables", nargs="+", default=TABLES)
    options_parser.add_argument("--train-streams", type=int, default=200)
    options_parser.add_argument("--streams", type=int, default=20, help="of each kind, to measure in")
    options_parser.add_argument("--episodes", type=int, default=32)
    options_parser.add_argument("--steps", type=int, default=ControlPPO.steps)
    options_parser.add_argument("--seeds", type=int, default=5)
    options_parser.add_argument("--keep", action="store_true",
                                help="take the rules' figures from --out, if they are there from before")
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    progress, draws = Progress(), sampler(tuple(options.tables))
    with progress.phase("draw streams"):
        trained_in = draws.streams(options.train_streams, options.seed)
        streams = test_streams(draws, options.streams, options.seed)
    tuning, measuring = StreamCore(streams, 16, 10), StreamCore(streams, options.episodes, 11)
    everywhere = np.repeat(np.arange(len(streams)), options.episodes)
    rows = []

    def measure(name: str, controllers: list[Controller], seed: int | None = None) -> None:
        for index, controller in enumerate(controllers):
            played = play(measuring, controller, everywhere[everywhere == index], 7)
            rows.append({"controller": name, "seed": seed, "stream": index, "kind": kind_of(streams[index]),
                         "name": streams[index].name, "battery": bool(np.isfinite(streams[index].charge_mj)),
                         "setting": "" if seed is not None else repr(controller), **_means(played)})

    before = options.out / "streams.csv"
    if options.keep and before.exists():
        kept = pd.read_csv(before)
        rows += kept[~kept.controller.isin([COMMON, PPO])].to_dict("records")
    else:
        measure("myopic", [Myopic()] * len(streams))
        chosen: list[list[Controller]] = []
        with progress.phase("tune the rules", total=len(RULES) * len(streams)) as advance:
            for name, rule in RULES.items():
                chosen.append([])
                for index, stream in enumerate(streams):
                    chosen[-1].append(tuned(rule.all(len(stream.levels)), tuning, index, _TUNED_BY, 0))
                    advance(1)
                measure(name, chosen[-1])
        measure(BEST, [tuned(candidates, tuning, index, _TUNED_BY, 0)
                       for index, candidates in enumerate(zip(*chosen, strict=True))])
    with progress.phase("tune one rule for all"):
        measure(COMMON, [common_rule(trained_in)] * len(streams))
    settings, seconds = ControlPPO(steps=options.steps), []
    for seed in range(options.seed, options.seed + options.seeds):
        start = time.perf_counter()
        with progress.phase(f"train with seed {seed}", total=settings.steps) as advance:
            network = train_controller(trained_in, settings, seed, advance=advance)
        seconds.append(time.perf_counter() - start)
        measure(PPO, [network] * len(streams), seed)
        frame = pd.DataFrame(rows)
        frame.to_csv(options.out / "streams.csv", index=False, float_format="%.5f")
        summary = summarised(frame)
        summary.to_csv(options.out / "summary.csv", index=False, float_format="%.4f")
        write_json(options.out / "streams.json", {
            "train_streams": options.train_streams, "steps": settings.steps,
            "training_seconds": [round(s, 1) for s in seconds]})
    print(summary.to_string(index=False))


def _means(played: Played) -> dict[str, float]:
    return {name: float(getattr(played, name).mean()) for name in ("reward", "accuracy", "energy_mj", "decisions")}


def summarised(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each kind and controller the mean reward, and by how much the network is ahead of it, relative.

    The network's reward in a stream is the mean over its seeds; intervals (95 %, bootstrap) and Wilcoxon's test are
    over streams.
    """
    rewards = frame.groupby(["kind", "controller", "stream"]).reward.mean()
    spread = frame[frame.controller == PPO].groupby(["kind", "seed"]).reward.mean().groupby("kind").std(ddof=1)
    rows = []
    for kind in frame.kind.unique():
        network = rewards[kind][PPO].to_numpy()
        for controller in frame.controller.unique():
            other: Array = rewards[kind][controller].to_numpy()
            row = {"kind": kind, "controller": controller, "reward": other.mean()}
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
