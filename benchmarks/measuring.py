"""How much faster the supernet measures a plan (F1) than training that plan to the quality of F3, side by side.

    python -m benchmarks.measuring --scenario default --plans 5 --out results/benchmarks/measuring-digits-m

For each plan, in one process: the time of an F1 measurement with nothing cached; the time of F3 fine-tuning from the
supernet's weights; and the time of training the plan without a supernet, from the backbone's weights and a fresh codec,
with one-cycle schedules of 1, 2, 4 ... epochs until one reaches the accuracy of F3 (within `--slack` points on
validation images) or `--most` epochs are not enough. Only the schedule that succeeded is counted, as if its length had
been known. Seconds are the processor's, of all threads, so that others who use the machine do not count.
"""

from __future__ import annotations

import copy
import statistics
import time

import pandas as pd
import torch

from autosplit.core.plan import Plan
from autosplit.evaluation.live import LiveEvaluator
from autosplit.report.progress import Progress
from autosplit.training.finetune import Finetuning, finetune
from autosplit.training.loop import accuracy
from autosplit.training.prepare import Networks, prepare
from autosplit.training.supernet import Supernet
from benchmarks.common import parser, scenario_of, write_json
from benchmarks.fidelity import draw_plans


def timed_measurement(prepared: Networks, plan: Plan) -> tuple[float, float]:
    """Seconds and accuracy of an F1 measurement by an evaluator that knows nothing yet but its images."""
    evaluator = LiveEvaluator(prepared)
    evaluator.workloads([plan])  # latency comes before accuracy, for any method
    start = time.process_time()
    found = next(iter(evaluator.measure([plan]))).accuracy
    return time.process_time() - start, found


def timed_training(prepared: Networks, supernet: Supernet, plan: Plan, epochs: int, lr: float) -> tuple[float, float]:
    """Seconds and accuracy of training a plan with the weights that it has in a supernet."""
    settings = prepared.scenario.training.model_copy(update={
        "finetune_epochs": epochs, "finetune_patience": epochs, "finetune_lr": lr})
    network = supernet.extract(plan)
    start = time.process_time()
    finetune(network, prepared.teacher, Finetuning(prepared.data, settings, prepared.scenario.search.seed))
    seconds = time.process_time() - start
    return seconds, accuracy(network, prepared.data, prepared.data.validation)


def without_supernet(prepared: Networks) -> Supernet:
    """The supernet as it is before training: the backbone's weights, codecs of principal components."""
    scenario, data = prepared.scenario, prepared.data
    sample = data.normalise(data.train.images[:256])
    torch.manual_seed(scenario.search.seed)
    return Supernet(copy.deepcopy(prepared.backbone), prepared.points, scenario.space, sample, scenario.codecs)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", type=int, default=5)
    options_parser.add_argument("--slack", type=float, default=0.5, help="points below F3 that count as its quality")
    options_parser.add_argument("--most", type=int, default=16, help="epochs of the longest schedule")
    options = options_parser.parse_args()
    scenario = scenario_of(options)
    prepared = prepare(scenario, Progress())
    fresh, rows = without_supernet(prepared), []
    options.out.mkdir(parents=True, exist_ok=True)
    settings = scenario.training
    for plan in draw_plans(prepared.supernet.plan_space, options.plans, options.seed):
        f1_seconds, f1 = timed_measurement(prepared, plan)
        f3_seconds, f3 = timed_training(prepared, prepared.supernet, plan, settings.finetune_epochs,
                                        settings.finetune_lr)
        epochs, seconds, reached = 1, 0.0, 0.0
        while epochs <= options.most:
            seconds, reached = timed_training(prepared, fresh, plan, epochs, settings.supernet_lr)
            if reached >= f3 - options.slack / 100:
                break
            epochs *= 2
        rows.append({"plan": plan.label, "f1": f1, "f1_seconds": f1_seconds, "f3": f3, "f3_seconds": f3_seconds,
                     "alone": reached, "alone_epochs": epochs, "alone_seconds": seconds,
                     "alone_reached_f3": reached >= f3 - options.slack / 100,
                     "f3_over_f1": f3_seconds / f1_seconds, "alone_over_f1": seconds / f1_seconds})
        pd.DataFrame(rows).to_csv(options.out / "measuring.csv", index=False)
    write_json(options.out / "summary.json", {
        "scenario": scenario.name, "threads": torch.get_num_threads(),
        **{f"{name}_median": statistics.median(float(r[name]) for r in rows)
           for name in ("f1_seconds", "f3_seconds", "alone_seconds", "f3_over_f1", "alone_over_f1")}})


if __name__ == "__main__":
    main()
