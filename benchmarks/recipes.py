"""Training settings side by side: what they cost, and how good plans become by them.

    python -m benchmarks.recipes digits-m default --out results/benchmarks/recipes

For each seed, and for each scenario named: backbone and supernet are trained from nothing; then the accuracy on all
validation images of the backbone, of the widest plan at each split point, of some plans spread evenly over the space
(F1), and of a few of these fine-tuned (F3). Seconds are the processor's, of all threads, so that others who use the
machine do not count.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from autosplit.core.cache import Cache
from autosplit.core.plan import Plan
from autosplit.core.progress import Advance, NullProgress
from autosplit.core.scenario import Scenario, load_scenario
from autosplit.evaluation.live import LiveEvaluator
from autosplit.training.loop import accuracy
from autosplit.training.prepare import Networks, prepare
from benchmarks.common import parser, write_json
from benchmarks.fidelity import draw_plans
from benchmarks.measuring import timed_training

__all__ = ["figures", "spreads"]

_SEED_OF_PLANS = 0  # one for all, so that every recipe and seed is asked about the same plans


class _Clock(NullProgress):
    """Processor time of each phase, seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Advance]:
        start = time.process_time()
        with super().phase(title, total) as advance:
            yield advance
        self.seconds[title] = time.process_time() - start


def figures(scenario: Scenario, plans: int, finalists: int) -> dict[str, float]:
    """Train, measure and fine-tune once.

    Args:
        scenario: Backbone, data, training settings, seed.
        plans: Number of plans measured.
        finalists: How many of them are fine-tuned.

    Returns:
        Accuracies in [0, 1] and processor seconds, by name.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(scenario, clock, cache=Cache(Path(folder)))
    settings, drawn = scenario.training, draw_plans(prepared.supernet.plan_space, plans, _SEED_OF_PLANS)
    widest = _f1(prepared, [prepared.supernet.widest(split) for split in prepared.supernet.places])
    found = _f1(prepared, drawn)
    start = time.process_time()
    tuned = [timed_training(prepared, prepared.supernet, plan, settings.finetune_epochs, settings.finetune_lr)[1]
             for plan in drawn[:finalists]]
    return {
        **{f"{name}_seconds": clock.seconds.get(f"train the {name}", 0.0) for name in ("backbone", "supernet")},
        "finetune_seconds": (time.process_time() - start) / len(tuned),
        "backbone": accuracy(prepared.backbone, prepared.data, prepared.data.validation),
        "widest_least": min(widest), "widest_mean": float(np.mean(widest)), "f1_mean": float(np.mean(found)),
        "f1_median": float(np.median(found)), "f1_upper_quartile": float(np.quantile(found, 0.75)),
        "f3_mean": float(np.mean(tuned)),
    }


def _f1(prepared: Networks, plans: Sequence[Plan]) -> list[float]:
    """Accuracies on all validation images."""
    every = prepared.scenario.replace(**{"search.validation_images": len(prepared.data.validation)})
    evaluator = LiveEvaluator(replace(prepared, scenario=every))
    return [m.accuracy for m in evaluator.measure(plans)]


def spreads(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation over seeds of each figure, by recipe.

    Args:
        frame: One row a recipe and seed.
    """
    grouped = frame.groupby("recipe", sort=False)
    names = [n for n in frame.columns if n not in {"recipe", "seed"}]
    return {str(recipe): {n: {"mean": float(part[n].mean()), "std": float(part[n].std(ddof=0))} for n in names}
            for recipe, part in grouped}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("recipes", nargs="*", default=["digits-m", "default"],
                                help="packaged scenarios, or YAML files")
    options_parser.add_argument("--seeds", type=int, default=5, help="from --seed on")
    options_parser.add_argument("--plans", type=int, default=60)
    options_parser.add_argument("--finalists", type=int, default=4)
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seed, options.seed + options.seeds):
        for name in options.recipes:
            scenario = load_scenario(name).replace(**{"search.seed": seed})
            rows.append({"recipe": name, "seed": seed, **figures(scenario, options.plans, options.finalists)})
            frame = pd.DataFrame(rows)
            frame.to_csv(options.out / "recipes.csv", index=False)
            write_json(options.out / "summary.json", {"seeds": sorted(set(frame["seed"].tolist())), **spreads(frame)})


if __name__ == "__main__":
    main()
