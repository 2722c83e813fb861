"""What the analytic latency model costs on each packaged channel: milliseconds of the processor for many plans.

    python -m benchmarks.latency --out results/benchmarks/latency

Plans send payloads drawn uniformly up to `--bytes`. Channels take turns, and the least of all repetitions counts, as
the machine may be busy. The first call on a channel, which makes its draws, is not counted.
"""

from __future__ import annotations

import time

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.plan import Workload
from autosplit.core.profiles import ChannelProfile, list_profiles, load_profile
from autosplit.latency.analytic import AnalyticLatencyModel
from benchmarks.common import parser, scenario_of, write_json


def processor_ms(workloads: list[Workload], conditions: list[Conditions]) -> float:
    """Time of one call, milliseconds of the processor."""
    begun = time.process_time()
    AnalyticLatencyModel().latency(workloads, conditions)
    return (time.process_time() - begun) * 1000


def main() -> None:
    """Run the benchmark that the options ask for."""
    from autosplit.testing import make_workload

    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", type=int, default=2000)
    options_parser.add_argument("--bytes", type=int, default=2000)
    options_parser.add_argument("--repetitions", type=int, default=15)
    options = options_parser.parse_args()
    payloads = np.random.default_rng(options.seed).integers(1, options.bytes, options.plans)
    workloads = [make_workload("layer1", float(b)) for b in payloads]
    base = scenario_of(options).conditions
    asked = {name: [base.model_copy(update={"channel": load_profile(ChannelProfile, name)})]
             for name in list_profiles(ChannelProfile)}
    for conditions in asked.values():
        processor_ms(workloads, conditions)
    rounds = [{name: processor_ms(workloads, c) for name, c in asked.items()} for _ in range(options.repetitions)]
    least = {name: round(min(r[name] for r in rounds), 2) for name in asked}
    print("\n".join(f"{name:20s}{ms:8.1f} ms" for name, ms in least.items()))
    write_json(options.out / "latency.json", {"plans": options.plans, "processor_ms": least})


if __name__ == "__main__":
    main()
