"""Regret of a trained policy under conditions that it was not trained for, compared with searches that measure.

    python -m benchmarks.amortised TABLE --policy P --searches results/benchmarks/search --out OUT

For the scenarios of `autosplit bench search` (the same table, seed and number), and for conditions drawn as in the
policy's training but with another seed: the regret of its decisions, for several numbers of plans that the latency
model is asked about, and the time of a decision. And for each method searched: how many measurements it needs until its
regret is no more than the policy's in the same scenario, and until its median regret is no more than the policy's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autosplit.agents.policy import CoInferencePolicy
from autosplit.agents.trainer import isolated
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.evaluation.objective import load_objective
from autosplit.experiments.bench import load_table
from autosplit.experiments.bench.conditions import published_profiles
from autosplit.experiments.bench.runs import Grid, Run, read_runs, settings_of
from autosplit.experiments.bench.table import table_name
from autosplit.latency import load_latency_model
from benchmarks.common import parser, write_json

__all__ = ["measurements_needed", "spread"]

_UNSEEN = 0x5EE  # beside the seed: training draws with [seed, 0] and [seed, 1]


def spread(values: Array) -> dict[str, float]:
    """Median, 95th percentile, mean."""
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95)), "mean": float(values.mean())}


def decision_ms(policy: CoInferencePolicy, conditions: Sequence[Conditions], among: int) -> dict[str, float]:
    """Processor time of decisions on one thread, milliseconds, the first left out."""
    times = []
    with isolated(0):
        for c in conditions:
            start = time.process_time()
            policy.decide(c, among)
            times.append(1e3 * (time.process_time() - start))
    return spread(np.array(times[1:]))


def measurements_needed(runs: Sequence[Run], policy_regret: Array) -> dict[str, dict[str, float | None]]:
    """Measurements until each method is as good as a policy that takes none.

    Args:
        runs: Searches of one table.
        policy_regret: Of the policy in each scenario.

    Returns:
        By method: `in_each_scenario`, the median over searches of the measurements until the regret is at most the
        policy's there; `by_the_median`, the measurements until the median regret over searches is at most the median of
        the policy; `None` where it never is.
    """
    found: dict[str, dict[str, float | None]] = {}
    for method in dict.fromkeys(r.method for r in runs):
        part = [r for r in runs if r.method == method]
        reached = [_first(np.array(r.regret) <= policy_regret[r.scenario] + 1e-6) for r in part]
        longest = max(len(r.regret) for r in part)
        curves = np.array([r.curve(longest) for r in part])
        by_median = _first(np.median(curves, axis=0) <= np.median(policy_regret) + 1e-6)
        found[method] = {"in_each_scenario": _finite(float(np.median(reached))), "by_the_median": _finite(by_median)}
    return found


def _finite(count: float) -> float | None:
    return count if np.isfinite(count) else None


def _first(good: np.typing.NDArray[np.bool_]) -> float:
    return float(good.argmax()) + 1 if good.any() else np.inf


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("table", type=Path)
    options_parser.add_argument("--policy", type=Path, required=True)
    options_parser.add_argument("--searches", type=Path, help="folder of `autosplit bench search`")
    options_parser.add_argument("--scenarios", type=int, default=30)
    options_parser.add_argument("--scenario-seed", type=int, default=10)
    options_parser.add_argument("--draws", type=int, default=1000)
    options_parser.add_argument("--among", type=int, nargs="+", default=[32, 64, 256])
    options = options_parser.parse_args()
    runs = [r for r in read_runs(options.searches) if r.table == table_name(options.table)] if options.searches else []
    if options.searches and not runs:
        options_parser.error(f"--searches {options.searches}: no searches of {table_name(options.table)} there; make "
                             "them with autosplit bench search")
    table = load_table(options.table)
    model, objective = load_latency_model("analytic"), load_objective("in-time-accuracy")
    policy = CoInferencePolicy.load(options.policy, model, objective)
    settings = settings_of(Grid((options.table,), ("random",), options.scenarios, options.scenario_seed))
    scenarios = [s.conditions for s in settings.values()]
    drawn = published_profiles().pool(options.draws, [options.seed, _UNSEEN])
    reachable = [c for c in drawn if policy.decide(c, among=len(table.evaluator.measurements)).feasible]
    results: dict[str, Any] = {
        "table": table_name(options.table), "plans": len(table.evaluator.measurements),
        "origin": policy.origin.model_dump(), "conditions_drawn": len(drawn), "with_a_plan_in_time": len(reachable),
        "by_plans_looked_at": {}}
    for among in options.among:
        results["by_plans_looked_at"][among] = {
            "regret_in_search_scenarios": spread(policy.regret(scenarios, among)),
            "regret_under_drawn_conditions": spread(policy.regret(reachable, among)),
            "decision_ms": decision_ms(policy, drawn[:201], among)}
    if runs:
        results["measurements_needed"] = measurements_needed(runs, policy.regret(scenarios))
    write_json(options.out / f"{results['table']}.json", results)


if __name__ == "__main__":
    main()
