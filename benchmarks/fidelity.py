"""How far a cheap measurement (F1) can be trusted: rank correlation with full fine-tuning (F3).

    python -m benchmarks.fidelity --scenario default --plans 60 --out results/benchmarks/fidelity-digits-m

Draws plans evenly over split points, sparsities and codec settings; measures each by the supernet with recalibrated
batch norm (F1), by the supernet without recalibration, by the squared error of the feature, and by fine-tuning it to
F3; writes `plans.csv` as it goes on, `summary.json` and `scatter.png`. Fine-tuned plans are kept in the cache, so a run
that was stopped goes on where it was. All accuracies are on the same validation images.
"""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.core.space import PlanSpace
from autosplit.evaluation.live import LiveEvaluator
from autosplit.pipeline.context import SearchContext
from autosplit.report.progress import Progress
from autosplit.training.loop import accuracy, logits_of
from autosplit.training.prepare import Networks, prepare
from benchmarks.common import command_line, parser, scenario_of, write_json

_PROXIES = {"f1": 1, "no_recalibration": 1, "feature_error": -1}


def draw_plans(space: PlanSpace, count: int, seed: int) -> list[Plan]:
    """Plans spread evenly: places in turn, then sparsities in turn, codec settings by chance without repetition."""
    rng = Random(seed)
    splits = [s for s in space.splits if s != INPUT]
    decks: dict[str, list[Plan]] = {}
    for split in splits:
        by_sparsity = []
        for sparsity in space.sparsities[split]:
            settings = list(space.codecs[split])
            rng.shuffle(settings)
            by_sparsity.append([Plan.at(split, sparsity, c) for c in settings])
        rng.shuffle(by_sparsity)
        longest = max(map(len, by_sparsity))
        decks[split] = [deck[i] for i in range(longest) for deck in by_sparsity if i < len(deck)]
    found: list[Plan] = []
    while len(found) < count and any(decks.values()):
        for split in splits:
            if decks[split] and len(found) < count:
                found.append(decks[split].pop(0))
    return found


class Proxies:
    """What can be said of a plan without training it."""

    def __init__(self, prepared: Networks) -> None:
        self._prepared = prepared
        self._evaluator = LiveEvaluator(prepared)
        settings, data = prepared.scenario.search, prepared.data
        self._statistics = data.normalise(data.train.images[: settings.recalibration_images])
        self._images = data.validation.first(settings.validation_images)

    def of(self, plan: Plan) -> dict[str, float]:
        """F1 and its time, F1 without recalibration, and the relative squared error of the feature."""
        measured = next(iter(self._evaluator.measure([plan])))
        network = self._prepared.supernet.extract(plan)
        kept = {part: copy.deepcopy(getattr(network, part).state_dict()) for part in ("head", "tail")}
        recalibrate(network, self._statistics)
        error = self._feature_error(network, plan)
        for part, state in kept.items():  # the codec's statistics define the code; those of the network go back
            getattr(network, part).load_state_dict(state)
        plain = accuracy(network, self._prepared.data, self._images)
        return {"f1": measured.accuracy, "f1_seconds": measured.seconds, "no_recalibration": plain,
                "feature_error": error, "payload_bytes": measured.workload.payload_bytes_mean}

    def _feature_error(self, network: SplitNetwork, plan: Plan) -> float:
        data, images = self._prepared.data, self._images.images[:256]
        whole = plan.split == OUTPUT
        untouched = self._prepared.backbone if whole else self._untouched_head(plan.split)
        true = logits_of(untouched, data, images)

        def restored(x: torch.Tensor) -> torch.Tensor:
            feature = network.head(x)
            if network.encoder is None or network.quantiser is None or network.decoder is None:
                return feature  # type: ignore[no-any-return]
            feature = network.decoder(network.quantiser(network.encoder(feature)))
            # what the tail of an injected head begins with
            return network.tail[0](feature) if plan.head == "injected" else feature  # type: ignore[no-any-return]

        found = logits_of(restored, data, images)
        return float(F.mse_loss(found, true) / true.var())

    def _untouched_head(self, split: str) -> torch.nn.Module:
        from autosplit.models.splitting import cut

        return cut(self._prepared.backbone, self._prepared.supernet.points[split])[0]


def correlations(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of each proxy with F3: over all plans, in the better half, and for each split."""
    better = frame[frame["f3"] >= frame["f3"].median()]
    parts = {"all": frame, "top half": better, **{f"split {s}": g for s, g in frame.groupby("split", sort=False)}}
    return {name: {"plans": len(part), **{p: round(float(spearmanr(sign * part[p], part["f3"])[0]), 4)
                                          for p, sign in _PROXIES.items()}}
            for name, part in parts.items() if len(part) > 2}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", type=int, default=60)
    options = options_parser.parse_args()
    progress, scenario = Progress(), scenario_of(options)
    prepared = prepare(scenario, progress)
    proxies, context = Proxies(prepared), SearchContext(prepared, progress)
    backbone = accuracy(prepared.backbone, prepared.data, prepared.data.validation)
    widest = {s: proxies.of(prepared.supernet.widest(s))["f1"] for s in prepared.supernet.places}
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for number, plan in enumerate(draw_plans(prepared.supernet.plan_space, options.plans, options.seed), start=1):
        found = proxies.of(plan)
        truth = context.measure(plan, "fp32", title=f"plan {number} of {options.plans}")
        rows.append({"plan": plan.label, "split": plan.place, "sparsity": plan.sparsity, **found,
                     "f3": truth.accuracy, "f3_payload_bytes": truth.workload.payload_bytes_mean})
        pd.DataFrame(rows).to_csv(options.out / "plans.csv", index=False)
    frame = pd.DataFrame(rows)
    write_json(options.out / "summary.json", {
        "scenario": scenario.name, "backbone": backbone, "widest_f1": widest, "plans": len(frame),
        "spearman_with_f3": correlations(frame), "f1_seconds_median": float(frame["f1_seconds"].median()),
        "supernet_epochs": scenario.training.supernet_epochs, "finetune_epochs": scenario.training.finetune_epochs,
    })
    draw(frame, options.out / "scatter.png")


def draw(frame: pd.DataFrame, path: Path) -> None:
    """F3 against each proxy, a colour a split point."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    titles = {"f1": "F1: supernet, recalibrated", "no_recalibration": "supernet, not recalibrated",
              "feature_error": "feature error (relative MSE)"}
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.3), dpi=130, sharey=True, layout="constrained")
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for split, part in frame.groupby("split", sort=False):
            axes.scatter(part[column], part["f3"], s=22, label=split, alpha=0.85)
        rho = correlations(frame)["all"][column]
        axes.set(title=f"{title}\nSpearman {rho:.2f}", xlabel=title.split(":")[0])
        axes.grid(alpha=0.25)
    panels[2].set_xscale("log")
    panels[0].plot([0, 1], [0, 1], color="#999999", linewidth=1, zorder=0)
    panels[0].set_ylabel("F3: fine-tuned, validation accuracy")
    panels[0].legend(fontsize=8, title="split point")
    figure.savefig(path, metadata={"Software": None, "Description": command_line()})


if __name__ == "__main__":
    main()
