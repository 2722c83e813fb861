"""Layer-wise against uniform pruning at equal latency; PPO against DDPG and random plans at equal measurements.

    python -m benchmarks.layerwise --scenario cifar10 --budgets 30 60 90 --out results/benchmarks/layerwise-cifar10

All methods choose among the same split points (`--splits`) and the same codecs (`--codecs` of each, evenly spread by
payload). At the default split point `output` there is none: pruning alone decides. For each budget every uniform
sparsity that gives another head is measured (F1, the proxy accuracy), and the best plan taken; each agent searches with
`--evaluations` measurements for each of `--seeds` seeds. The `--finalists` best heads of each search are fine-tuned
(F3, the fine-tuned accuracy), and the best of them counts; all F3 accuracies are on all validation images. Writes
`searches.csv` and `chosen.csv` as it goes on, then `summary.json` and `layerwise.png`. Measurements and fine-tuned
plans are kept in the cache, so a run that was stopped goes on where it was. With `--set training.layer_profiles=0` F1
comes from a supernet that was not trained with a sparsity for each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autosplit.agents import load_agent
from autosplit.agents.layerwise import LayerwiseProblem
from autosplit.agents.loop import run_search
from autosplit.core.measurement import Outcome
from autosplit.core.plan import Plan
from autosplit.core.scenario import Scenario
from autosplit.envs.layers import Choice, LayerwiseSpace
from autosplit.evaluation.base import layerwise
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import ranked_heads
from autosplit.report.progress import Progress
from autosplit.training.prepare import prepare
from benchmarks.common import command_line, parser, scenario_of, write_json

UNIFORM = "uniform"
_LEVELS = np.linspace(0.0, 1.0, 257)
_GAIN_POINTS = 0.5


def thinned(space: LayerwiseSpace, count: int) -> LayerwiseSpace:
    """The same split points with at most `count` codecs each, evenly spread by predicted payload."""
    splits = []
    for split in space.splits:
        picked = np.unique(np.linspace(0, len(split.codecs) - 1, count).round().astype(int)).tolist()
        splits.append(replace(split, codecs=tuple(split.codecs[i] for i in picked),
                              workloads=tuple(split.workloads[i] for i in picked)))
    return LayerwiseSpace(tuple(splits))


def uniform_plans(space: LayerwiseSpace) -> list[Plan]:
    """Every plan of a space with one sparsity for the whole head, up to the highest; no head twice."""
    found: dict[Choice, None] = {}
    for number, split in enumerate(space.splits):
        for level in _LEVELS * split.most:
            keep = space.uniform(number, float(level))
            found.update(dict.fromkeys(Choice(number, keep, codec) for codec in range(len(split.codecs))))
    return [space.plan(choice) for choice in found]


class Bench:
    """Searches and fine-tuning over one supernet.

    Args:
        scenario: What to search; its budget is replaced.
        options: Of the command line.
        progress: Shows the phases.
    """

    def __init__(self, scenario: Scenario, options: Any, progress: Progress) -> None:
        self.scenario, self.options, self.progress = scenario, options, progress
        self.context = SearchContext(prepare(scenario, progress), progress)
        with progress.phase("predict payloads"):
            space = LayerwiseSpace.of(layerwise(self.context.evaluator), splits=options.splits)
            self.space = thinned(space, options.codecs)

    def searches(self, budget_ms: float) -> list[tuple[str, int, list[Outcome]]]:
        """What each method measured, by name and seed; the uniform plans first."""
        scorer = Scorer.of(self.scenario.replace(**{"conditions.budget_ms": budget_ms}))
        found = [(UNIFORM, 0, self._uniform(scorer))]
        for name in self.options.agents:
            found += [(name, seed, self._searched(scorer, name, seed))
                      for seed in range(self.options.seed, self.options.seed + self.options.seeds)]
        return found

    def _uniform(self, scorer: Scorer) -> list[Outcome]:
        plans = uniform_plans(self.space)
        plans = [plans[i] for i in scorer.affordable(self.context.evaluator.workloads(plans))]
        found = []
        title = f"{scorer.conditions.budget_ms:g} ms: uniform sparsities"
        with self.progress.phase(title, total=len(plans)) as advance:
            for plan in plans:
                found += scorer.outcomes(self.context.evaluator.measure([plan]))
                advance(1)
        return found

    def _searched(self, scorer: Scorer, name: str, seed: int) -> list[Outcome]:
        conditions, evaluations = scorer.conditions, self.options.evaluations
        problem = LayerwiseProblem(self.space, scorer.latency_model, scorer.objective, conditions, seed, evaluations)
        title = f"{conditions.budget_ms:g} ms: {name}, seed {seed}"
        with self.progress.phase(title, total=evaluations) as advance:
            return run_search(load_agent(name, "layer")(problem), self.context.evaluator, scorer,
                              evaluations=evaluations, on_outcome=lambda _: advance(1))

    def fine_tuned(self, budget_ms: float, method: str, outcomes: Sequence[Outcome]) -> Outcome:
        """The best of a search's finalists on all validation images."""
        scorer = Scorer.of(self.scenario.replace(**{"conditions.budget_ms": budget_ms}))
        plans = ranked_heads(outcomes)[:self.options.finalists]
        return best_outcome(scorer.outcomes(
            self.context.measure(p, scorer.conditions.device.arithmetic, title=f"{budget_ms:g} ms: {method}")
            for p in plans))


def search_rows(budget_ms: float, method: str, seed: int, outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """One row a measurement, with the accuracy of the best plan so far."""
    rows: list[dict[str, object]] = []
    for number in range(1, len(outcomes) + 1):
        best, latest = best_outcome(outcomes[:number]), outcomes[number - 1]
        rows.append({"budget_ms": budget_ms, "method": method, "seed": seed, "measurements": number,
                     "plan": latest.plan.label, "f1": latest.measurement.accuracy, "p95_ms": latest.latency.p95_ms,
                     "feasible": latest.feasible, "best_f1": best.measurement.accuracy if best.feasible else np.nan})
    return rows


def chosen_row(budget_ms: float, method: str, seed: int, outcomes: Sequence[Outcome], tuned: Outcome,
               ) -> dict[str, object]:
    """The result of one search: its best F1, and the F3 of its finalist."""
    best = best_outcome(outcomes)
    sparsity = tuned.plan.sparsity
    return {"budget_ms": budget_ms, "method": method, "seed": seed, "measurements": len(outcomes),
            "f1": best.measurement.accuracy, "f1_p95_ms": best.latency.p95_ms, "plan": tuned.plan.label,
            "sparsity": " ".join(map(str, sparsity)) if isinstance(sparsity, tuple) else sparsity,
            "f3": tuned.measurement.accuracy, "f3_p95_ms": tuned.latency.p95_ms, "feasible": tuned.feasible}


def gains(chosen: pd.DataFrame) -> dict[str, dict[str, dict[str, object]]]:
    """For each budget and agent: points by which it is ahead of the best uniform plan, at F1 and F3, seed by seed."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for budget_ms, part in chosen.groupby("budget_ms"):
        uniform = part[part["method"] == UNIFORM].iloc[0]
        for method, seeds in part[part["method"] != UNIFORM].groupby("method"):
            ahead = {fidelity: (100 * (seeds[fidelity] - uniform[fidelity])).round(2) for fidelity in ("f1", "f3")}
            found.setdefault(f"{budget_ms:g}", {})[str(method)] = {
                **{f"{fidelity}_points": list(points) for fidelity, points in ahead.items()},
                "f3_points_mean": round(float(ahead["f3"].mean()), 2),
                "enough": bool(ahead["f3"].mean() >= _GAIN_POINTS)}
    return found


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--budgets", nargs="+", type=float, default=[30.0, 60.0, 90.0], metavar="MS")
    options_parser.add_argument("--splits", nargs="+", default=["output"])
    options_parser.add_argument("--codecs", type=int, default=3, help="on offer at each split point")
    options_parser.add_argument("--agents", nargs="+", default=["ppo", "ddpg", "random"])
    options_parser.add_argument("--seeds", type=int, default=3)
    options_parser.add_argument("--evaluations", type=int, default=60, help="measurements of a search")
    options_parser.add_argument("--finalists", type=int, default=1, help="heads of a search that are fine-tuned")
    options = options_parser.parse_args()
    scenario = scenario_of(options).replace(**{"search.granularity": "layer"})
    bench = Bench(scenario, options, Progress())
    options.out.mkdir(parents=True, exist_ok=True)
    searches: list[dict[str, object]] = []
    chosen: list[dict[str, object]] = []
    for budget_ms in options.budgets:
        found = bench.searches(budget_ms)
        for search in found:
            searches += search_rows(budget_ms, *search)
        pd.DataFrame(searches).to_csv(options.out / "searches.csv", index=False)
        for method, seed, outcomes in found:
            tuned = bench.fine_tuned(budget_ms, method, outcomes)
            chosen.append(chosen_row(budget_ms, method, seed, outcomes, tuned))
            pd.DataFrame(chosen).to_csv(options.out / "chosen.csv", index=False)
    frame = pd.DataFrame(chosen)
    write_json(options.out / "summary.json", {
        "scenario": scenario.name, "splits": options.splits, "codecs": options.codecs, "seeds": options.seeds,
        "evaluations": options.evaluations, "layer_profiles": scenario.training.layer_profiles,
        "f1_f3_spearman": round(float(frame["f1"].corr(frame["f3"], method="spearman")), 3), "ahead": gains(frame)})
    draw(pd.DataFrame(searches), frame, options.out / "layerwise.png")


def draw(searches: pd.DataFrame, chosen: pd.DataFrame, path: Path) -> None:
    """A panel for each budget, with the best F1 so far against measurements, and one for the F3 of the finalists."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    budgets = list(dict.fromkeys(searches["budget_ms"]))
    agents = [m for m in dict.fromkeys(searches["method"]) if m != UNIFORM]
    colours = dict(zip([UNIFORM, *agents], plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    figure, panels = plt.subplots(1, len(budgets) + 1, figsize=(4.3 * (len(budgets) + 1), 4.0), dpi=130,
                                  layout="constrained")
    for axes, budget_ms in zip(panels, budgets, strict=False):
        part = searches[searches["budget_ms"] == budget_ms]
        for agent in agents:
            curves = part[part["method"] == agent].pivot_table(index="measurements", columns="seed", values="best_f1")
            axes.plot(curves.index, 100 * curves.mean(axis=1), color=colours[agent], label=agent)
            axes.fill_between(curves.index, 100 * curves.min(axis=1), 100 * curves.max(axis=1), alpha=0.15,
                              color=colours[agent])
        best = part.loc[part["method"] == UNIFORM, "best_f1"].max()
        axes.axhline(100 * best, color=colours[UNIFORM], linestyle="--", label="best uniform sparsity")
        axes.set(title=f"{budget_ms:g} ms", xlabel="measurements")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("proxy accuracy of the best plan so far, %")
    panels[0].legend(fontsize=8)
    for method, part in chosen.groupby("method", sort=False):
        places = part["budget_ms"].map(budgets.index) + 0.15 * (list(colours).index(str(method)) - len(agents) / 2)
        panels[-1].scatter(places, 100 * part["f3"], color=colours[str(method)], label=method, s=26)
    panels[-1].set(title="after fine-tuning", xlabel="budget, ms", ylabel="validation accuracy, %",
                   xticks=range(len(budgets)), xticklabels=[f"{b:g}" for b in budgets])
    panels[-1].grid(alpha=0.25)
    panels[-1].legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None, "Description": command_line()})


if __name__ == "__main__":
    main()
