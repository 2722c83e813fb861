"""Steps a second of the environments over a table, and the time that the training of a policy takes in them.

    python -m benchmarks.envs --out results/benchmarks/envs

Plans and their workloads are those of a policy folder, by default the reference result's; accuracies are a formula,
since speed does not depend on them (`--table` takes a table of measurements instead). Every repetition runs each
environment in turn: the single one, `gymnasium.make_vec`'s with several numbers of copies, and the adapter to
stable-baselines3, with actions drawn uniformly from the whole action space, illegal ones included, and resets counted
in. The single environment calls the latency model for each plan that it completes. To show how much of a ratio is due
to a slow model, the environments are timed with the scenario's latency model and with one that takes no time. Processor
seconds are given beside wall-clock seconds, as the machine may be busy.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from autosplit.agents.network import rollout
from autosplit.agents.policy import CoInferencePolicy
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters, training_rewards
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Measurement, Workload
from autosplit.core.scenario import Scenario
from autosplit.envs import COINFERENCE
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.tree import STEPS
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency import load_latency_model
from autosplit.latency.base import LatencyBreakdown, LatencyModel
from benchmarks.common import parser, scenario_of, write_json


class InstantLatency:
    """Bytes over the rate of the uplink, and nothing else: a latency model that costs next to no time."""

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`."""
        payload = np.array([[w.payload_bytes_mean] for w in workloads])
        uplink = payload * 8 / np.array([c.channel.uplink_kbps.value for c in conditions])
        none = np.zeros_like(uplink)
        return LatencyBreakdown.deterministic(conditions, device_ms=none, encode_ms=none, uplink_ms=uplink,
                                              edge_ms=none, downlink_ms=none)


def made_up_table(workloads: Sequence[Workload], seed: int) -> TableEvaluator:
    """Accuracies that saturate in payload and fall with sparsity, with noise of 0.4 points."""
    rng = np.random.default_rng(seed)
    rows = []
    for work in workloads:
        sparsity = float(np.mean(work.plan.sparsity))
        coded = 1 - 0.9 * math.exp(-2 * math.sqrt(work.payload_bytes_mean / 200)) if work.payload_bytes_mean else 1.0
        accuracy = 0.1 + 0.86 * coded * (1 - 0.5 * sparsity**3) + rng.normal(0, 0.004)
        rows.append(Measurement(plan=work.plan, accuracy=min(max(accuracy, 0.0), 1.0), workload=work))
    return TableEvaluator(rows)


def stepper(env: Any, copies: int, actions: int, rng: np.random.Generator) -> Callable[[int], None]:
    """A function that takes so many steps of every copy."""
    single = isinstance(env, gymnasium.Env)

    def run(steps: int) -> None:
        for chosen in rng.integers(actions, size=(steps, copies)):
            if not single:
                env.step(chosen)
            elif env.step(chosen[0])[2]:
                env.reset()

    return run


def rate(run: Callable[[int], None], copies: int, seconds: float) -> dict[str, float]:
    """Steps a second on the clock and of the processor, over about so many seconds of the processor."""
    run(STEPS)
    steps, taken = STEPS * max(1, 96 // copies), 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < seconds:
        run(steps)
        taken += steps * copies
    return {"clock": taken / (time.perf_counter() - wall), "processor": taken / (time.process_time() - cpu)}


def environments(scenario: Scenario, table: TableEvaluator, model: LatencyModel, copies: Sequence[int]
                 ) -> dict[str, tuple[Any, int]]:
    """The environments by name, reset, and their numbers of copies."""
    arguments = {"scenario": scenario, "evaluator": table, "latency_model": model,
                 "sampler": ConditionsSampler(scenario.conditions)}
    single = gymnasium.make(COINFERENCE, **arguments).unwrapped
    single.reset(seed=0)
    found: dict[str, tuple[Any, int]] = {"single": (single, 1)}
    for count in copies:
        vector = gymnasium.make_vec(COINFERENCE, num_envs=count, **arguments)
        vector.reset(seed=0)
        found[f"vector {count}"] = vector, count
    adapter = StableBaselinesVecEnv(gymnasium.make_vec(COINFERENCE, num_envs=512, **arguments))
    adapter.seed(0)
    adapter.reset()
    return found | {"stable-baselines3 512": (adapter, 512)}


def steps_a_second(scenario: Scenario, table: TableEvaluator, model: LatencyModel, options: Any) -> dict[str, Any]:
    """Medians over the repetitions, and the median ratio to the single environment of the same repetition."""
    found = environments(scenario, table, model, options.copies)
    actions = int(found["single"][0].action_space.n)
    runs = {name: (stepper(env, count, actions, np.random.default_rng(options.seed)), count)
            for name, (env, count) in found.items()}
    for name, (run, count) in runs.items():
        if name != "single":
            run(STEPS * math.ceil(20 * len(table.space) / count))  # until nearly every plan is known
    rows = [{name: rate(run, count, options.seconds) for name, (run, count) in runs.items()}
            for _ in range(options.repetitions)]
    return {name: {
        "steps_per_second": statistics.median(r[name]["clock"] for r in rows),
        "steps_per_processor_second": statistics.median(r[name]["processor"] for r in rows),
        "times_single": statistics.median(r[name]["clock"] / r["single"]["clock"] for r in rows),
        "times_single_least": min(r[name]["clock"] / r["single"]["clock"] for r in rows),
        "times_single_processor": statistics.median(r[name]["processor"] / r["single"]["processor"] for r in rows),
    } for name in runs}


def training(scenario: Scenario, table: TableEvaluator, model: LatencyModel, options: Any) -> dict[str, Any]:
    """Time of pools and of trainings, and the regret of the trained policies on conditions they never saw."""
    plans, sampler = table.space.plans(), ConditionsSampler(scenario.conditions)
    workloads, accuracy = table.workloads(plans), np.array([m.accuracy for m in table.measurements])
    objective, start = load_objective(scenario.objective), time.process_time()
    core = CoInferenceCore.build(table.space, workloads, model, [scenario.conditions, *sampler.pool(511, options.seed)])
    pool_seconds = time.process_time() - start
    unseen = core.under(sampler.pool(256, [options.seed, 1]), workloads, model)
    seen_rewards, unseen_rewards = (c.rewards(objective, accuracy) for c in (core, unseen))
    rewards, settings = training_rewards(core, seen_rewards), PPOHyperparameters()
    updates = math.ceil(options.steps / (settings.episodes * STEPS))
    rows = []
    for seed in range(options.seed, options.seed + options.trainings):
        trainer = PolicyTrainer(core, settings, seed)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train(core, rewards, updates, seed, target_share=0.1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        numbers = np.arange(len(unseen.conditions))
        chosen = rollout(trainer.network, unseen, numbers)
        regret = unseen.best(unseen_rewards) - unseen_rewards[chosen, numbers]
        rows.append({"seed": seed, "seconds": wall, "processor_seconds": cpu,
                     "regret_median": float(np.median(regret)), "regret_p95": float(np.quantile(regret, 0.95))})
    return {"steps": updates * settings.episodes * STEPS, "conditions": len(core.conditions),
            "pool_processor_seconds": pool_seconds,
            "seconds_median": statistics.median(r["seconds"] for r in rows),
            "processor_seconds_median": statistics.median(r["processor_seconds"] for r in rows), "trainings": rows}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--policy", default="results/reference/policy", help="policy folder with the plans")
    options_parser.add_argument("--table", help="CSV of a `TableEvaluator`, instead of --policy")
    options_parser.add_argument("--copies", type=int, nargs="+", default=[16, 128, 512, 4096])
    options_parser.add_argument("--repetitions", type=int, default=7)
    options_parser.add_argument("--seconds", type=float, default=0.5, help="of the processor, each time")
    options_parser.add_argument("--steps", type=int, default=200_000, help="of a training")
    options_parser.add_argument("--trainings", type=int, default=3)
    options = options_parser.parse_args()
    scenario = scenario_of(options)
    model = load_latency_model(scenario.latency_model)
    table = (TableEvaluator.from_csv(options.table) if options.table
             else made_up_table(CoInferencePolicy.load(options.policy, model).knowledge.workloads, options.seed))
    write_json(options.out / "summary.json", {
        "scenario": scenario.name, "plans": len(table.space), "threads": 1, "copies": options.copies,
        "repetitions": options.repetitions, "processor_seconds": options.seconds,
        "steps": {name: steps_a_second(scenario, table, chosen, options)
                  for name, chosen in ((scenario.latency_model, model), ("instant", InstantLatency()))},
        "training": training(scenario, table, model, options)})


if __name__ == "__main__":
    main()
