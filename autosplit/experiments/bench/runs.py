"""Search methods on tables: every method in every scenario with every seed, kept as they finish."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from autosplit.agents import load_agent
from autosplit.agents.base import SearchProblem
from autosplit.agents.loop import run_search
from autosplit.agents.policy import CoInferencePolicy
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError, unwritable
from autosplit.core.files import write_whole
from autosplit.core.hashing import content_hash
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.records import append_record, drop_incomplete_line, writing
from autosplit.core.workers import Here, Workers
from autosplit.envs.tree import BoolArray
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import Scorer
from autosplit.evaluation.table import TableEvaluator
from autosplit.experiments.bench.conditions import draw_conditions
from autosplit.experiments.bench.table import load_table, table_name
from autosplit.latency import load_latency_model

__all__ = ["Grid", "Run", "Setting", "agent_names", "read_runs", "run_grid", "settings_of"]

_RUNS = "runs.jsonl"
_BATCH = 10  # measurements a round
_LEAST_PLANS = 2  # plans in time, in multiples of the measurements

_table = cache(load_table)  # a process reads a table once, not for each of its searches


@dataclass(frozen=True)
class Grid:
    """The searches to run: every method in every scenario of every table with every seed.

    Attributes:
        tables: Files of tables; the stem is a table's name.
        methods: Names of agents, as `load_agent` takes them.
        scenarios: Conditions drawn for each table.
        scenario_seed: Seed of that draw; 0 to 9 are for development.
        seeds: Searches a method, table and scenario; seeds 0, 1, 2, ...
        evaluations: Measurements a search.
        latency_model: As in a scenario.
        objective: As in a scenario.
        policy: Folder of a trained policy that every method may start from.
    """

    tables: tuple[Path, ...]
    methods: tuple[str, ...]
    scenarios: int = 30
    scenario_seed: int = 0
    seeds: int = 5
    evaluations: int = 100
    latency_model: str = "analytic"
    objective: str = "in-time-accuracy"
    policy: Path | None = None


@dataclass(frozen=True)
class Setting:
    """One scenario of one table.

    Attributes:
        table: Name.
        number: Of the scenario.
        conditions: Where the plan is to run.
        rewards: Of every plan of the table, shape (P,).
        in_time: Plans whose p95 is within the budget, shape (P,).
    """

    table: str
    number: int
    conditions: Conditions
    rewards: Array
    in_time: BoolArray

    @property
    def optimum(self) -> float:
        """Reward of the best plan in time."""
        return float(self.rewards[self.in_time].max())


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        table: Name.
        scenario: Number.
        method: Name of the agent, as it gives it itself (`Agent.name`).
        seed: Of the agent.
        regret: After each measurement: 1 - reward of the best plan in time so far / reward of the best there is. A
            search ends with the batch that holds the best there is, since its regret stays 0 whatever follows.
        seconds: Wall time of the agent, the table's lookups included.
    """

    table: str
    scenario: int
    method: str
    seed: int
    regret: tuple[float, ...]
    seconds: float

    def curve(self, evaluations: int) -> Array:
        """Regret after each of so many measurements; a search that ended earlier keeps what it found."""
        return np.array([*self.regret, *[self.regret[-1]] * (evaluations - len(self.regret))])

    @property
    def key(self) -> tuple[str, int, str, int]:
        """Identifies a run within its grid."""
        return self.table, self.scenario, self.method, self.seed


def run_grid(
    grid: Grid, out: Path, *, workers: Workers | None = None, progress: PhaseReporter | None = None
) -> list[Run]:
    """Run the searches of a grid that are not done yet.

    Args:
        grid: What to run.
        out: Folder; `runs.jsonl` in it holds each search as soon as it is done, and `grid.json` what was asked for.
        workers: Who searches, each with one thread; this process by default.
        progress: Shows the searches.

    Raises:
        ConfigError: A name is unknown, two agents have one name, the folder holds another grid or cannot be written.
    """
    agents = agent_names(grid.methods)
    settings_of(grid)  # a table that cannot be read should not cost a search
    done = _begin(grid, out)
    names = [table_name(path) for path in grid.tables]
    # scenarios last, so that every method is seen early
    wanted = [(t, s, m, seed) for s in range(grid.scenarios) for seed in range(grid.seeds) for t in names
              for m in agents]
    left = [key for key in wanted if key not in done]
    progress = progress or NullProgress()
    with progress.phase("search the tables", total=len(left)) as advance:
        def keep(run: Run) -> None:
            done[run.key] = run
            with writing(out / _RUNS):
                append_record(out / _RUNS, json.dumps(asdict(run)))  # a grid that is stopped goes on from here
            advance(1, f"{run.method}, scenario {run.scenario} of {run.table}")

        shared = _Shared(grid, settings_of(grid), {table_name(path): _table(path).evaluator for path in grid.tables})
        pieces = [(key, agents[key[2]]) for key in left]
        for run in (workers or Here()).map(_search, shared, pieces, lambda piece: f"search {piece[0]}"):
            keep(run)
    return [done[key] for key in wanted]


def agent_names(methods: Sequence[str]) -> dict[str, str]:
    """What is asked for, by the name that each agent gives itself, in order.

    Raises:
        ConfigError: A name is unknown, or two agents have one name, so that their searches could not be told apart.
    """
    found: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        name = load_agent(method).name
        if name in found:
            raise ConfigError(f"agents {found[name]!r} and {method!r} are both named {name!r}; change one's `name`")
        found[name] = method
    return found


@cache
def settings_of(grid: Grid) -> dict[tuple[str, int], Setting]:
    """The scenarios of every table, by table and number."""
    model, objective = load_latency_model(grid.latency_model), load_objective(grid.objective)
    found = {}
    for path in grid.tables:
        evaluator, name = _table(path).evaluator, table_name(path)
        measured = evaluator.measurements
        accuracy = np.array([m.accuracy for m in measured])
        drawn = draw_conditions(evaluator, model, grid.scenarios, grid.scenario_seed,
                                _LEAST_PLANS * grid.evaluations)
        for number, conditions in enumerate(drawn):
            breakdown = model.latency([m.workload for m in measured], [conditions])
            rewards = objective.reward(accuracy, breakdown, [conditions])[:, 0]
            found[name, number] = Setting(name, number, conditions, rewards,
                                          breakdown.p95_ms[:, 0] <= conditions.budget_ms)
    return found


@cache
def _policy(path: Path, latency_model: str, objective: str) -> CoInferencePolicy:
    return CoInferencePolicy.load(path, load_latency_model(latency_model), load_objective(objective))


@dataclass(frozen=True)
class _Shared:
    """What all searches of a grid need, wherever they run.

    Attributes:
        grid: What is run.
        settings: Conditions, by table and number.
        tables: By name.
    """

    grid: Grid
    settings: dict[tuple[str, int], Setting]
    tables: dict[str, TableEvaluator]


def _search(shared: _Shared, piece: tuple[tuple[str, int, str, int], str]) -> Run:
    """One search of a grid, in whatever process: its `Run.key`, and the agent's name as `load_agent` takes it."""
    (table, number, method, seed), agent_name = piece
    grid, evaluator, setting = shared.grid, shared.tables[table], shared.settings[table, number]
    model, objective = load_latency_model(grid.latency_model), load_objective(grid.objective)
    policy = None if grid.policy is None else _policy(grid.policy, grid.latency_model, grid.objective)
    problem = SearchProblem.of(evaluator, model, objective, setting.conditions, seed, policy)
    # batch by batch, so that the search can end as soon as it has found the best plan of the table
    best, regret = 0.0, [1.0]
    start = time.perf_counter()
    agent = load_agent(agent_name)(problem)
    while regret[-1] > 0.0 and len(agent.outcomes) < grid.evaluations and not agent.exhausted:
        seen = len(agent.outcomes)
        outcomes = run_search(agent, evaluator, Scorer(model, objective, setting.conditions),
                              evaluations=min(seen + _BATCH, grid.evaluations), batch=_BATCH)
        for outcome in outcomes[seen:]:
            best = max(best, outcome.reward) if outcome.feasible else best
            regret.append(round(1.0 - best / setting.optimum, 6))
    return Run(table, number, method, seed, tuple(regret[1:]), round(time.perf_counter() - start, 3))


def _begin(grid: Grid, out: Path) -> dict[tuple[str, int, str, int], Run]:
    """The searches of this grid that are done already; methods and seeds may have been added."""
    asked = json.loads(json.dumps(asdict(grid), default=str))
    same = {name: asked[name] for name in ("scenarios", "scenario_seed", "evaluations", "latency_model", "objective")}
    same["policy"] = None if grid.policy is None else _policy(grid.policy, grid.latency_model, grid.objective).sha256
    same["tables"] = {p.name: _table(p).record.sha256 for p in grid.tables}
    # what every plan is worth in every scenario, so that searches under two versions of a latency model are not mixed
    rewards = {f"{table} {number}": s.rewards.round(6).tolist() for (table, number), s in settings_of(grid).items()}
    same["rewards"] = content_hash(rewards)
    path = out / "grid.json"
    try:
        if (out / _RUNS).is_file():
            drop_incomplete_line(out / _RUNS)
        out.mkdir(parents=True, exist_ok=True)
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != same:
            raise ConfigError(f"{out} holds searches of another grid ({path} differs); choose another --out")
        write_whole(path, json.dumps(same, indent=1) + "\n")
    except OSError as e:
        raise unwritable(out, e) from e
    return {run.key: run for run in read_runs(out)}


def read_runs(folder: Path) -> list[Run]:
    """The searches that a folder of `autosplit bench search` holds; none where it is not one."""
    path = folder / _RUNS
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # half a line of a process that was killed
            continue
        found.append(Run(**{**row, "regret": tuple(row["regret"])}))
    return found
