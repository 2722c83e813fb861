"""What two processes bring against one: a table of plans, and what a search fine-tunes, side by side.

    python -m benchmarks.workers --out results/benchmarks/workers
    python -m benchmarks.workers --what finalists --out results/benchmarks/workers

Three ways: one process with one thread, one with the threads that PyTorch takes by itself, which is what `autosplit`
does without `--jobs`, and the workers with a thread each. Networks are prepared first (or come from the cache): that is
not timed; starting the processes and shipping the networks to them is. The ways are taken in turn, `--repeats` times;
those with a thread each must agree to the last bit. With `--cluster ADDRESS` the workers are those of a Ray cluster.
Fine-tuned are the first three plans that the search in `--run` fine-tuned, then all of them, its baselines included.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autosplit.core.cache import Cache
from autosplit.core.hiring import workers_of
from autosplit.core.plan import Plan
from autosplit.core.space import PlanSpace
from autosplit.core.workers import Here, Workers
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.spread import SpreadEvaluator
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import uncut
from autosplit.pipeline.ledger import load_run
from autosplit.report.progress import Progress
from autosplit.training.prepare import Networks, prepare
from benchmarks.common import parser, scenario_of, write_json

_THREADS = torch.get_num_threads()


def table(networks: Networks, plans: list[Plan], workers: Workers) -> list[Any]:
    """Measure plans at F1."""
    evaluator = LiveEvaluator(networks) if isinstance(workers, Here) else SpreadEvaluator(networks, workers)
    return [m.model_copy(update={"seconds": 0.0}) for m in evaluator.measure(plans)]


def finalists(networks: Networks, plans: list[Plan], workers: Workers, arithmetic: str) -> list[Any]:
    """Fine-tune plans and measure their deployments, on a cache that holds nothing of it."""
    with tempfile.TemporaryDirectory() as folder:
        own = dataclasses.replace(networks, cache=Cache(Path(folder)))
        context = SearchContext(own, workers=workers)
        context.begin(plans, arithmetic)
        return [context.measure(plan, arithmetic).model_copy(update={"seconds": 0.0}) for plan in plans]


def in_turn(work: Callable[[Workers], Any], others: Callable[[], Workers], repeats: int) -> dict[str, Any]:
    """Seconds of the three ways, taken in turn, and whether those with one thread each agree."""
    seconds: dict[str, list[float]] = {"one": [], "one_all_threads": [], "workers": []}
    equal = True
    for _ in range(repeats):
        found = {}
        for name, make in (("one", Here), ("one_all_threads", Here), ("workers", others)):
            start = time.perf_counter()
            with make() as workers:
                torch.set_num_threads(_THREADS if name == "one_all_threads" else 1)
                found[name] = work(workers)
            seconds[name].append(round(time.perf_counter() - start, 2))
        equal &= found["one"] == found["workers"]
    quicker = {f"times_quicker_than_{name}": [round(one / other, 2) for one, other in zip(
        seconds[name], seconds["workers"], strict=True)] for name in ("one", "one_all_threads")}
    return {"seconds": seconds, **quicker, "equal": equal}


def fine_tuned(run: Path, space: PlanSpace) -> list[Plan]:
    """What a search fine-tuned: its finalists first, then its baselines."""
    result, outcomes = load_run(run)
    finalists = [o.plan.without_exit for o in outcomes if o.measurement.fidelity == "F3" and not uncut(o.plan)]
    by_label = {plan.label: plan for plan in space.plans()}
    others = [by_label[row.plan] for row in result.comparison if row.plan in by_label]
    return list(dict.fromkeys([*finalists, *(plan for plan in others if not uncut(plan) and plan.codec.kind != "raw")]))


def main() -> None:
    """Run the benchmark that the options ask for."""
    options = parser(__doc__)
    options.add_argument("--what", choices=["table", "finalists"], default="table")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--cluster", help="address of a Ray cluster, in place of processes")
    options.add_argument("--plans", type=int, default=300, help="of the table")
    options.add_argument("--run", type=Path, default=Path("results/reference"))
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    scenario = scenario_of(chosen)
    networks = prepare(scenario, Progress())
    space = networks.supernet.plan_space

    def others() -> Workers:
        return workers_of(1 if chosen.cluster else chosen.jobs, chosen.cluster, threads=1)

    found: dict[str, Any] = {"workers": chosen.cluster or chosen.jobs, "threads_each": 1}
    if chosen.what == "table":
        every = space.plans()
        plans = [every[i * len(every) // chosen.plans] for i in range(min(chosen.plans, len(every)))]
        found |= {"plans": len(plans), **in_turn(lambda w: table(networks, plans, w), others, chosen.repeats)}
    else:
        tuned, arithmetic = fine_tuned(chosen.run, space), scenario.conditions.device.arithmetic
        for name, plans in (("three", tuned[:3]), ("all", tuned)):
            found[name] = {"plans": [plan.label for plan in plans], **in_turn(
                lambda w, plans=plans: finalists(networks, plans, w, arithmetic), others, chosen.repeats)}
    write_json(chosen.out / f"{chosen.what}{'-cluster' if chosen.cluster else ''}.json", found)


if __name__ == "__main__":
    main()
