"""What fine-tuning does to the bytes of a code with a rate in its loss: held, and at a fixed price of a bit.

    python -m benchmarks.rate_control --set codecs=[factorised] --out results/benchmarks/rate-control-digits-m

Draws plans as `benchmarks.fidelity` does, leaves out those without such a code, and fine-tunes each twice from the same
supernet with the same seed: once as a search does, which holds the bytes that the plan had there, and once at the price
that its rate had in the supernet. Writes `plans.csv` as it goes on; accuracies, and bytes by tables from calibration
images, are those of all validation images.
"""

from __future__ import annotations

from unittest import mock

import pandas as pd

from autosplit.compression.entropy_model import RateQuantiser
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.data.base import ImageDataset
from autosplit.report.progress import Progress
from autosplit.training import finetune as fine_tuning
from autosplit.training.finetune import Finetuning, finetune, statistics_images
from autosplit.training.loop import accuracy, logits_of, steps_per_epoch
from autosplit.training.prepare import prepare
from benchmarks.common import parser, scenario_of
from benchmarks.fidelity import draw_plans

_BATCH = 128


def figures(network: SplitNetwork, data: ImageDataset) -> tuple[float, float]:
    """Accuracy on validation images, and the mean bytes that the coder spends on one."""
    assert network.quantiser is not None
    found = [logits_of(network.symbols, data, part.images, _BATCH) for part in (data.calibration, data.validation)]
    tables = network.quantiser.tables(found[0])
    return accuracy(network, data, data.validation), float(tables.entropy_bits(found[1].numpy()).mean()) / 8


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", type=int, default=8)
    options = options_parser.parse_args()
    progress, scenario = Progress(), scenario_of(options)
    prepared = prepare(scenario, progress)
    data, settings = prepared.data, scenario.training
    drawn = [plan for plan in draw_plans(prepared.supernet.plan_space, 20 * options.plans, options.seed)
             if isinstance(prepared.supernet.extract(plan).quantiser, RateQuantiser)][: options.plans]
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, plan in enumerate(drawn, start=1):
        row: dict[str, object] = {"plan": plan.label}
        for how in ("held", "fixed price"):
            network = prepared.supernet.extract(plan)
            recalibrate(network, statistics_images(data), settings.batch_size)
            row["F1 accuracy"], row["F1 bytes"] = figures(network, data)
            steps = settings.finetune_epochs * steps_per_epoch(data, settings.batch_size)
            with progress.phase(f"fine-tune plan {number} of {len(drawn)}, {how}", total=steps) as advance:
                run = Finetuning(data, settings, scenario.search.seed, advance)
                if how == "held":
                    finetune(network, prepared.teacher, run)
                else:
                    with mock.patch.object(fine_tuning, "hold_rate"):
                        finetune(network, prepared.teacher, run)
            row[f"{how}: accuracy"], row[f"{how}: bytes"] = figures(network, data)
        rows.append(row)
        pd.DataFrame(rows).to_csv(options.out / "plans.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
