"""What an exit on the device brings: a deployment with and without it, over link rates.

    python -m benchmarks.exits results/reference --out results/benchmarks/exits-digits-m

The run must have chosen a plan with an exit. Threshold and all else were chosen on validation images. Three deployments
are run on the test images, through real payloads: the chosen one, the same where everything is sent, and in a cascade
the network on the device alone. They are joined with the latencies of links from 1/64 to 16 times the run's rate.
Differences of accuracy are paired and have 95 % intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from autosplit.compression.network import SplitNetwork
from autosplit.core.intervals import difference_interval
from autosplit.core.result import Result
from autosplit.data.recorded import recorded_data
from autosplit.evaluation.scorer import Scorer
from autosplit.latency.exits import in_time_accuracy
from autosplit.runtime.deployment import Deployment
from benchmarks.common import write_json

_RATES = 2.0 ** (np.arange(-12, 9) / 2)


def without_exit(deployment: Deployment) -> Deployment:
    """The same deployment without its exit: head, codec and tail are the very same."""
    net, plan = deployment.network, deployment.plan.without_exit
    blueprint = deployment.blueprint.model_copy(update={"plan": plan, "exit": {}, "exit_keep": ()})
    network = SplitNetwork(net.head, net.tail, net.encoder, net.quantiser, net.decoder)
    return Deployment(blueprint, network, deployment.mean, deployment.std, deployment.tables, deployment.class_names)


def alone(deployment: Deployment) -> Deployment | None:
    """The network of a cascade that answers on the device, on its own; `None` where a classifier answers."""
    found, blueprint = deployment.network.exit, deployment.blueprint
    plan = None if deployment.plan.exit is None else deployment.plan.exit.network
    if found is None or plan is None:
        return None
    blueprint = blueprint.model_copy(update={
        "plan": plan, "keep": blueprint.exit_keep, "exit_keep": (), "feature_shape": (), "code_shape": (), "codec": {}})
    network = SplitNetwork(found.network, nn.Identity())
    return Deployment(blueprint, network, deployment.mean, deployment.std, None, deployment.class_names)


def main() -> None:
    """Run the benchmark that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    path = options.run / "best.json"
    result = Result.load(path, trust_code=True)
    if result.plan.exit is None:
        raise SystemExit(f"{options.run}: the chosen plan {result.plan.label!r} has no exit")
    data, scorer = recorded_data(result, path, options.data_root), Scorer.of(result.scenario)
    leaving = Deployment.from_result(result)
    device = alone(leaving)
    entrants = {"with": leaving, "without": without_exit(leaving), **({} if device is None else {"device": device})}
    evaluations = {name: deployment.evaluate(data, "test") for name, deployment in entrants.items()}
    measured = [deployment.measurement(evaluations[name]) for name, deployment in entrants.items()]
    sources = None if data.test.sources is None else data.test.sources.numpy()

    here = scorer.conditions
    conditions = [here.model_copy(update={"channel": here.channel.scaled(float(rate), 1.0)}) for rate in _RATES]
    found = scorer.latency_model.latency([m.workload for m in measured], conditions)
    in_time = in_time_accuracy(measured, found.in_time)
    columns = {"uplink_kbps": [c.channel.uplink_kbps.value for c in conditions]}
    for title, values in (("p95_ms", found.p95_ms), ("in_time_accuracy", in_time), ("energy_mj", found.energy_mj)):
        columns |= {f"{title}_{name}": values[i].tolist() for i, name in enumerate(entrants)}
    frame = pd.DataFrame(columns)
    frame["energy_saved_percent"] = 100 * (1 - frame["energy_mj_with"] / frame["energy_mj_without"])
    options.out.mkdir(parents=True, exist_ok=True)
    frame.round(4).to_csv(options.out / "exits.csv", index=False)
    summary: dict[str, Any] = {"plan": result.plan.label, "test_images": len(data.test),
                                  "exit": measured[0].exits[0].model_dump(mode="json", exclude={"device"})}
    hits = {name: e.answers.hits for name, e in evaluations.items()}
    for m, name in zip(measured, entrants, strict=True):
        summary[name] = {"plan": m.plan.label, "accuracy": m.accuracy, "payload_bytes": m.workload.payload_bytes_mean}
        if name != "with":
            gap = difference_interval(hits["with"], hits[name], sources)
            ahead = measured[0].accuracy - m.accuracy, gap.low, gap.high
            summary[name] |= {"with_is_ahead_points": [round(100 * points, 3) for points in ahead]}
    write_json(options.out / "summary.json", summary)
    print(frame.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
