"""What longer fine-tuning brings: some plans of a scenario, each fine-tuned for several numbers of epochs.

    python -m benchmarks.tuning_epochs --scenario camera --epochs 10 --out results/benchmarks/tuning-camera
        --plans "stage2 | factorised 32ch 14x14 rate 5" "input | WebP q0 at 1/2 with shared tables"

Plans are named by their labels, as `autosplit show` prints them, with `*` for what is not known before the supernet
is trained, the channels that a rate keeps: "stage2 | injected | factorised *ch 14x14 rate 5". They are fine-tuned as
the finalists of a search are, splits from the supernet and pictures from the network that was trained on all formats;
both of these are trained as the scenario says. Epochs are for comparing here, so none is chosen: the figures on test
images are of all of them, with the paired differences of the plan named first and of the uncut network from each.
Writes `epochs.csv` as it goes on; what was fine-tuned is in the cache, so that a run that was stopped goes on.
`rates.csv` has the latency and energy of each over links of the same kind with other rates; `map.csv` and `map.png` say
where which of them is best, over the link's rate and the deadline, by validation images. Plans after `--beside` take
part in the map as they are: lossless ones, and pictures with the one network that was trained on all formats.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

import pandas as pd

from autosplit.core.errors import ConfigError
from autosplit.core.intervals import accuracy_interval
from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.space import PlanSpace
from autosplit.evaluation.scorer import Scorer
from autosplit.experiments.compare.curves import scaled_rate
from autosplit.pipeline.choice import accuracy_difference
from autosplit.pipeline.context import SearchContext
from autosplit.report.deployment_map import DeploymentMap
from autosplit.report.draw_matplotlib import write_figure
from autosplit.report.map_figure import map_figure
from autosplit.report.progress import Progress
from autosplit.training.prepare import prepare
from benchmarks.common import parser, scenario_of

FACTORS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 4.0)
"""Of the link's rate."""


def plan_of(space: PlanSpace, label: str) -> Plan:
    """The plan of a space that has a label, in which `*` stands for any text.

    Raises:
        ConfigError: None has it, or several have.
    """
    found = [plan for plan in space.plans() if fnmatchcase(plan.label, label)]
    if len(found) != 1:
        raise ConfigError(f"{len(found) or 'no'} plans of this scenario are called {label!r}; `autosplit show` prints "
                          "the names")
    return found[0]


def over_rates(scorer: Scorer, found: Outcome) -> list[dict[str, object]]:
    """Latency and energy of a deployment over links that are so many times quicker or slower."""
    rows: list[dict[str, object]] = []
    for factor in FACTORS:
        conditions = scaled_rate(scorer.conditions, factor)
        there = dataclasses.replace(scorer, conditions=conditions).outcome(found.measurement).latency
        rows.append({"kbps": conditions.channel.uplink_kbps.value, "p50_ms": there.p50_ms, "p95_ms": there.p95_ms,
                     "in time": there.in_time, "energy_mj": there.energy_mj})
    return rows


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", nargs="+", required=True, metavar="LABEL")
    options_parser.add_argument("--epochs", nargs="+", type=int, required=True)
    options_parser.add_argument("--beside", nargs="*", default=[], metavar="LABEL")
    options = options_parser.parse_args()
    progress, scenario = Progress(), scenario_of(options)
    networks, scorer, rows = prepare(scenario, progress), Scorer.of(scenario), []
    plans, beside_plans = ([plan_of(networks.supernet.plan_space, label) for label in labels]
                           for labels in (options.plans, options.beside))
    arithmetic = scenario.conditions.device.arithmetic
    options.out.mkdir(parents=True, exist_ok=True)
    whole, as_it_is = Plan(split=OUTPUT, codec=CodecSetting(kind="none")), SearchContext(networks, progress)
    uncut = as_it_is.measure(whole, arithmetic, "test")
    mapped = [as_it_is.measure(plan, arithmetic, tuned=plan.lossless) for plan in (whole, *beside_plans)]
    first: dict[int, Measurement] = {}
    elsewhere: list[dict[str, object]] = []
    for plan in plans:
        for epochs in options.epochs:
            longer = scenario.replace(training__finetune_epochs=epochs, training__finetune_patience=epochs)
            context = SearchContext(dataclasses.replace(networks, scenario=longer), progress)
            row: dict[str, object] = {"plan": plan.label, "epochs": epochs, "uncut test accuracy": uncut.accuracy}
            for part in ("validation", "test"):
                found = scorer.outcome(context.measure(plan, arithmetic, part, f"{plan.label}, {epochs} epochs"))
                work, answers = found.measurement.workload, found.measurement.answers
                row |= {f"{part} accuracy": found.measurement.accuracy, f"{part} bytes": work.payload_bytes_mean,
                        "p95_ms": found.latency.p95_ms, "energy_mj": found.latency.energy_mj}
                assert answers is not None
                interval = accuracy_interval(answers.hits, context.sources(part))
                row |= {f"{part} low": interval.low, f"{part} high": interval.high}
                if part == "validation":
                    mapped.append(found.measurement)
            for name, other in (("first", first.setdefault(epochs, found.measurement)), ("uncut", uncut)):
                difference = accuracy_difference(other, found.measurement, context.sources("test"))
                assert difference is not None
                row |= {f"{name} is ahead by": other.accuracy - found.measurement.accuracy,
                        f"{name} ahead low": difference.low, f"{name} ahead high": difference.high}
            rows.append(row)
            elsewhere += [{"plan": plan.label, "epochs": epochs} | other for other in over_rates(scorer, found)]
            pd.DataFrame(elsewhere).to_csv(options.out / "rates.csv", index=False, float_format="%.4f")
            pd.DataFrame(rows).to_csv(options.out / "epochs.csv", index=False, float_format="%.4f")
    found_map = DeploymentMap.of(mapped, scorer, "budget")
    found_map.to_frame().to_csv(options.out / "map.csv", index=False, float_format="%.4f")
    write_figure(map_figure(found_map), options.out / "map.png")
    print(found_map.summary)


if __name__ == "__main__":
    main()
