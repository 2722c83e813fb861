"""Controllers made for eight devices in cells of a hundred, by simulation: does what they bring hold without a centre?

    python -m benchmarks.fleet_scale --trained results/benchmarks/fleet --out results/benchmarks/fleet-scale

Takes the networks of a run of `benchmarks.stream --devices 8` and the rule that was the best of all there, neither of
them made for cells of this size, and today's switching. Each of some large fleets is drawn several times, so that there
are a hundred cells of a hundred devices; loads are those of `autosplit.envs.fleet.sampler`, whatever the size. Every
device decides by what it knows itself, and nothing is sent for that. Writes `scale.csv`, a row a fleet and controller,
and `scale.json` with the paired differences and the time of a decision of one device on one core.
"""

from __future__ import annotations

import ast
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, wilcoxon

from autosplit.agents.control import rules
from autosplit.agents.control.base import Controller, play
from autosplit.agents.control.learned import LearnedController
from autosplit.envs.fleet.core import FleetCore
from autosplit.report.progress import Progress
from benchmarks.common import parser, write_json
from benchmarks.stream import COMMON, PPO, TABLES, kind_of, sampler


def rule_of(trained: Path) -> Controller:
    """The rule and setting that were the best on average where the networks were trained."""
    frame = pd.read_csv(trained / "streams.csv")
    call = ast.parse(frame[frame.controller == COMMON].setting.iloc[0], mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    found: Controller = getattr(rules, call.func.id)(**settings)
    return found


def seconds_of(controller: Controller, core: FleetCore) -> float:
    """What a decision of one device takes, in the mean of a thousand."""
    view = core.view(core.begin(np.array([0]), np.random.default_rng(0)))
    start = time.perf_counter()
    for _ in range(1000):
        controller.decide(view)
    return (time.perf_counter() - start) / 1000


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--trained", type=Path, required=True)
    options_parser.add_argument("--devices", type=int, default=100)
    options_parser.add_argument("--fleets", type=int, default=20)
    options_parser.add_argument("--draws", type=int, default=5)
    options = options_parser.parse_args()
    progress = Progress()
    with progress.phase("draw fleets"):
        fleets = sampler(TABLES, options.devices).streams(options.fleets, options.seed + 1000)
        core = FleetCore(fleets, options.draws, options.seed)
    networks = sorted(options.trained.glob("network-*.safetensors"))
    controllers: list[tuple[str, Controller]] = [("myopic", rules.Myopic()), (COMMON, rule_of(options.trained))]
    controllers += [(PPO, LearnedController.load(path)) for path in networks]
    rows, everywhere = [], np.repeat(np.arange(len(fleets)), options.draws)
    for name, controller in controllers:
        with progress.phase(name):
            reward = play(core, controller, everywhere, options.seed).reward.reshape(-1, options.draws).mean(axis=1)
        rows += [{"controller": name, "fleet": index, "kind": kind_of(fleets[index]), "name": fleets[index].name,
                  "reward": value} for index, value in enumerate(reward)]
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "scale.csv", index=False, float_format="%.5f")
    means = frame.groupby(["controller", "fleet"]).reward.mean()
    told: dict[str, object] = {"devices": options.devices, "cells": len(everywhere),
                               "ms_a_decision": round(1e3 * seconds_of(controllers[-1][1], core), 3)}
    for name in ("myopic", COMMON):
        ahead = 100 * (means[PPO] - means[name]).to_numpy()
        interval = bootstrap((ahead,), np.mean, rng=np.random.default_rng(0)).confidence_interval
        told[f"ahead of {name}, points"] = [round(float(x), 2) for x in (ahead.mean(), interval.low, interval.high)]
        told[f"ahead of {name}, p"] = float(wilcoxon(ahead).pvalue)
    told["right in time"] = {name: round(float(means[name].mean()), 4) for name in ("myopic", COMMON, PPO)}
    write_json(options.out / "scale.json", told)
    print(told)


if __name__ == "__main__":
    main()
