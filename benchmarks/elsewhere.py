"""Regret of a search's policy under other conditions than the search's: `ppo`, and without conditions or relabelling.

    python -m benchmarks.elsewhere results/tables/digits-m.csv.gz --out results/benchmarks/elsewhere

Each agent searches the table under each scenario of `autosplit bench search`. Then conditions are drawn around that
scenario (factors of up to 4 on every rate, a budget of a fourth to four times), of which those count in which a plan
is in time, and its policy is asked for a plan without a further measurement: as it decides (`decision`: its likeliest
plans, checked by the latency model) and by its network alone (`likeliest`). They are
compared with keeping the plan that the search found (`kept`). Regret is against the best plan of the table; a plan over
the deadline has a regret of 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autosplit.agents import load_agent
from autosplit.agents.base import SearchProblem
from autosplit.agents.loop import run_search
from autosplit.agents.ppo import PPOAgent
from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ConditionsSampler
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import Scorer
from autosplit.evaluation.table import TableEvaluator
from autosplit.experiments.bench.runs import Grid, Setting, settings_of
from autosplit.experiments.bench.table import load_table, table_name
from autosplit.latency import load_latency_model
from autosplit.report.progress import Progress
from benchmarks.amortised import spread
from benchmarks.common import parser, write_json

__all__ = ["regrets", "summary"]

_AGENTS = ("ppo", "benchmarks/ablations.py:NoConditions", "benchmarks/ablations.py:NoRelabelling")
_UNSEEN = 0xE15E  # beside the seed: an agent draws its own conditions from other seeds


def regrets(table: TableEvaluator, setting: Setting, agent: str, *, evaluations: int, draws: int, seed: int
            ) -> list[dict[str, Any]]:
    """Search under one scenario and decide under others.

    Args:
        table: What is searched.
        setting: The scenario.
        agent: Name of an agent with a policy.
        evaluations: Measurements of the search.
        draws: Conditions to decide under, those without a plan in time left out.
        seed: Of the search and of the draw.

    Returns:
        A row for each of the conditions: the regret of `decision`, `likeliest` and `kept`.

    Raises:
        ConfigError: The agent has no policy.
    """
    model, objective = load_latency_model("analytic"), load_objective("in-time-accuracy")
    problem = SearchProblem.of(table, model, objective, setting.conditions, seed)
    searcher = load_agent(agent)(problem)
    if not isinstance(searcher, PPOAgent):
        raise ConfigError(f"agent {agent!r} has no policy to ask; name 'ppo' or a subclass of it")
    run_search(searcher, table, Scorer(model, objective, setting.conditions), evaluations=evaluations)
    assert searcher.best is not None
    drawn = ConditionsSampler(setting.conditions).pool(draws, [seed, _UNSEEN])
    accuracy = np.array([m.accuracy for m in table.measurements])
    breakdown = model.latency([m.workload for m in table.measurements], drawn)
    in_time = breakdown.p95_ms <= np.array([c.budget_ms for c in drawn])
    worth = np.where(in_time, objective.reward(accuracy, breakdown, drawn), 0.0)
    found = []
    for i, conditions in enumerate(drawn):
        if not in_time[:, i].any():
            continue
        chosen = {"decision": problem.number[searcher.policy.decide(conditions).plan],
                  "likeliest": int(searcher.policy.ranked(conditions)[0]),
                  "kept": problem.number[searcher.best.plan]}
        best = worth[:, i].max()
        found.append({"agent": agent, "scenario": setting.number, "conditions": i,
                      **{name: 1.0 - worth[plan, i] / best for name, plan in chosen.items()}})
    return found


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """By agent and way to choose: the spread of the regret over conditions and scenarios, the share of late plans."""
    return {str(agent): {way: {**spread(part[way].to_numpy()), "late": float((part[way] >= 1.0).mean())}
                         for way in ("decision", "likeliest", "kept")}
            for agent, part in rows.groupby("agent", sort=False)}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("table", type=Path)
    options_parser.add_argument("--agents", nargs="+", default=list(_AGENTS))
    options_parser.add_argument("--scenarios", type=int, default=10)
    options_parser.add_argument("--scenario-seed", type=int, default=10)
    options_parser.add_argument("--evaluations", type=int, default=100)
    options_parser.add_argument("--draws", type=int, default=100)
    options = options_parser.parse_args()
    table, name = load_table(options.table).evaluator, table_name(options.table)
    settings = settings_of(Grid((options.table,), ("ppo",), options.scenarios, options.scenario_seed,
                                evaluations=options.evaluations))
    rows: list[dict[str, Any]] = []
    title = "search, then decide under other conditions"
    with Progress().phase(title, total=len(settings) * len(options.agents)) as advance:
        for setting in settings.values():
            for agent in options.agents:
                rows += regrets(table, setting, agent, evaluations=options.evaluations, draws=options.draws,
                                seed=options.seed)
                advance(1, f"{agent}, scenario {setting.number}")
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.round(5).to_csv(options.out / f"{name}.csv", index=False)
    write_json(options.out / f"{name}.json", {"table": name, "scenarios": options.scenarios,
                                              "conditions": int(len(frame) / len(options.agents)),
                                              "regret": summary(frame)})


if __name__ == "__main__":
    main()
