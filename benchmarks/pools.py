"""Whether a policy gains from conditions drawn anew during its training, instead of one pool drawn once.

    python -m benchmarks.pools --out results/benchmarks/pools

Trains with the same number of steps under pools of several sizes drawn once, and under one pool after another, and
gives the regret of each policy on conditions that it never saw, beside the processor time that a pool costs. Plans,
workloads and accuracies are those of `benchmarks.envs`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from autosplit.agents.network import rollout
from autosplit.agents.policy import CoInferencePolicy
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters, training_rewards
from autosplit.core.arrays import Array
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.evaluation.objective import Objective, load_objective
from autosplit.latency import load_latency_model
from benchmarks.common import parser, scenario_of, write_json
from benchmarks.envs import made_up_table


def trained_regret(
    pools: Sequence[CoInferenceCore], unseen: CoInferenceCore, accuracy: Array, objective: Objective, updates: int,
    seed: int,
) -> Array:
    """Regret under every unseen conditions of a policy trained under one pool after another."""
    trainer = PolicyTrainer(pools[0], PPOHyperparameters(), seed)
    for number, pool in enumerate(pools):
        rewards = training_rewards(pool, pool.rewards(objective, accuracy))
        trainer.train(pool, rewards, updates // len(pools), seed * len(pools) + number, target_share=0.1)
    rewards, numbers = unseen.rewards(objective, accuracy), np.arange(len(unseen.conditions))
    regret: Array = unseen.best(rewards) - rewards[rollout(trainer.network, unseen, numbers), numbers]
    return regret


def summary(regrets: Sequence[Array]) -> dict[str, Any]:
    """Means over seeds, with the standard deviation of the mean regret from seed to seed."""
    means = [float(r.mean()) for r in regrets]
    return {"regret_mean": float(np.mean(means)), "regret_mean_deviation": float(np.std(means, ddof=1)),
            "regret_median": float(np.mean([np.median(r) for r in regrets])),
            "regret_p95": float(np.mean([np.quantile(r, 0.95) for r in regrets]))}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--policy", default="results/reference/policy", help="policy folder with the plans")
    options_parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512], help="of pools drawn once")
    options_parser.add_argument("--renewals", type=int, default=6, help="pools of the largest size, one after another")
    options_parser.add_argument("--updates", type=int, default=66, help="PPO updates of a training")
    options_parser.add_argument("--trainings", type=int, default=5)
    options = options_parser.parse_args()
    scenario = scenario_of(options)
    model, objective = load_latency_model(scenario.latency_model), load_objective(scenario.objective)
    table = made_up_table(CoInferencePolicy.load(options.policy, model).knowledge.workloads, options.seed)
    plans, sampler = table.space.plans(), ConditionsSampler(scenario.conditions)
    workloads, accuracy = table.workloads(plans), np.array([m.accuracy for m in table.measurements])
    drawn = [[scenario.conditions, *sampler.pool(max(options.sizes) - 1, [options.seed, i])]
             for i in range(options.renewals)]
    first = CoInferenceCore.build(table.space, workloads, model, drawn[0])
    start = time.process_time()
    renewed = [first, *(first.under(conditions, workloads, model) for conditions in drawn[1:])]
    seconds = (time.process_time() - start) / sum(len(conditions) for conditions in drawn[1:])
    unseen = first.under(sampler.pool(256, [options.seed, options.renewals]), workloads, model)
    cases = {f"one pool of {size}": [first.under(drawn[0][:size], workloads, model)] for size in options.sizes}
    cases[f"{options.renewals} pools of {max(options.sizes)}"] = renewed
    write_json(options.out / "summary.json", {
        "scenario": scenario.name, "plans": len(plans), "updates": options.updates, "trainings": options.trainings,
        "processor_ms_per_conditions": 1e3 * seconds,
        "pools": {name: summary([trained_regret(pools, unseen, accuracy, objective, options.updates, seed)
                                 for seed in range(options.trainings)]) for name, pools in cases.items()}})


if __name__ == "__main__":
    main()
