"""What an exit on the device brings: the same deployment with and without it, over link rates.

    autosplit search --budget-ms 100 --set "space.exits=[0.5, 0.7, 0.8, 0.9, 0.95]" --out results/exits
    python -m benchmarks.exits results/exits --out results/benchmarks/exits-digits-m

The run must have chosen a plan with an exit. Threshold and all else were chosen on validation images; both deployments
are run on the test images, through real payloads, and joined with the latencies of links from 1/64 to 16 times the
run's rate. Differences of accuracy are paired and have 95 % intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

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
    blueprint = deployment.blueprint.model_copy(update={"plan": plan, "exit": {}})
    network = SplitNetwork(net.head, net.tail, net.encoder, net.quantiser, net.decoder)
    return Deployment(blueprint, network, deployment.mean, deployment.std, deployment.tables, deployment.class_names)


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
    both = [leaving, without_exit(leaving)]
    evaluations = [deployment.evaluate(data, "test") for deployment in both]
    measured = [d.measurement(e) for d, e in zip(both, evaluations, strict=True)]
    sources = data.test.sources
    hits = [e.answers.hits for e in evaluations]
    gap = difference_interval(hits[0], hits[1], None if sources is None else sources.numpy())

    here = scorer.conditions
    conditions = [here.model_copy(update={"channel": here.channel.scaled(float(rate), 1.0)}) for rate in _RATES]
    found = scorer.latency_model.latency([m.workload for m in measured], conditions)
    in_time = in_time_accuracy(measured, found.in_time)
    frame = pd.DataFrame({
        "uplink_kbps": [c.channel.uplink_kbps.value for c in conditions],
        "p95_ms_with": found.p95_ms[0], "p95_ms_without": found.p95_ms[1],
        "in_time_accuracy_with": in_time[0], "in_time_accuracy_without": in_time[1],
        "gain_points": 100 * (in_time[0] - in_time[1]),
        "energy_mj_with": found.energy_mj[0], "energy_mj_without": found.energy_mj[1],
        "energy_saved_percent": 100 * (1 - found.energy_mj[0] / found.energy_mj[1])})
    options.out.mkdir(parents=True, exist_ok=True)
    frame.round(4).to_csv(options.out / "exits.csv", index=False)
    point = measured[0].exits[0]
    write_json(options.out / "summary.json", {
        "plan": result.plan.label, "test_images": evaluations[0].images, "sent": point.sent,
        "exit_accuracy": point.exit_accuracy, "sent_accuracy": point.sent_accuracy,
        "accuracy_with": measured[0].accuracy, "accuracy_without": measured[1].accuracy,
        "difference_points": 100 * (measured[0].accuracy - measured[1].accuracy),
        "difference_low_points": 100 * gap.low, "difference_high_points": 100 * gap.high,
        "payload_bytes_with": measured[0].workload.payload_bytes_mean,
        "payload_bytes_without": measured[1].workload.payload_bytes_mean})
    print(frame.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
