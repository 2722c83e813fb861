"""Predicted against measured milliseconds of cuts that were never timed: `analytic` and `profiled` on this machine.

    python -m benchmarks.profiled --out results/benchmarks/profiled

Each backbone is profiled as `autosplit profile` does, layer by layer. Then heads and tails are timed as wholes, at
split points and sparsities that the profile does not hold, and compared with what the two models say of their work:
`analytic` with the rates that the profile solved, `profiled` with its regression by operator type. Beside them is what
was not built: `boosting` and `ridge` are other regressions by operator type, gradient boosting and quadratic ridge of
logarithms, on every operator of a cut; `wholes` are prices of the counts of whole heads and tails, solved from those at
all other split points. `--clock cpu` counts the processor's time of one thread in place of time as it passes, where
others use the machine too; it does not help against a neighbour in the cache, so quiet machines alone tell.
`--engine onnxruntime` profiles and times what bundles run on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import fx

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import OperatorWork
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.profiles import DeviceProfile
from autosplit.core.regression import least_relative_squares
from autosplit.core.scenario import load_scenario
from autosplit.core.timings import Timing
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.base import LatencyModel
from autosplit.latency.profiled import ProfiledLatencyModel
from autosplit.latency.profiling.run import ProfileSettings, engine_of, profile_machine
from autosplit.latency.profiling.stopwatch import WallClock
from autosplit.latency.profiling.units import folded
from autosplit.models.costs import operators, stage_cost
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.report.progress import Progress
from autosplit.runtime.standalone.profiling.clock import ROUNDS, undisturbed
from benchmarks.common import command_line, parser, write_json

BACKBONES = {"resnet20": (3, 32, 32), "torchvision:mobilenet_v2": (3, 224, 224)}
HELD_OUT = (0.0, 0.375, 0.625)
"""Sparsities of heads; but for the first the profile has none of them."""

PREDICTIONS = ("analytic", "profiled", "boosting", "ridge", "wholes")
_COUNTS = ("conv_macs", "depthwise_macs", "linear_macs", "weight_elements", "activation_elements", "operators")


@dataclass(frozen=True)
class Cut:
    """One head or tail."""

    split: str
    part: str
    sparsity: float
    network: fx.GraphModule
    shape: tuple[int, ...]


def cuts_of(backbone: str, shape: tuple[int, int, int], splits: int) -> Iterator[Cut]:
    """Heads, whole and pruned, and tails at some split points, spread over the network."""
    torch.manual_seed(0)
    network = trace(build_backbone(backbone, 10, shape[0], shape[1:]).eval(), shape)
    points = [p for p in block_ends(find_split_points(network, shape)) if p.name != "stem"]
    for i in sorted({round(i) for i in np.linspace(0, len(points) - 1, min(splits, len(points)))}):
        head, tail = cut(network, points[i])
        pruner = HeadPruner(head, shape)
        for sparsity in HELD_OUT if pruner.groups else HELD_OUT[:1]:
            pruned = pruner.sub_network(pruner.keep_counts(sparsity)).materialise(head).eval()
            yield Cut(points[i].name, "head", sparsity, pruned, shape)
        yield Cut(points[i].name, "tail", 0.0, tail, points[i].shape)


def predicted_ms(model: LatencyModel, cost: StageCost, device: DeviceProfile) -> float:
    """What a latency model says of a stage on a machine."""
    conditions: Conditions = load_scenario("default").conditions.model_copy(update={"device": device, "edge": device})
    work = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), device=cost)
    return float(model.latency([work], [conditions]).device_ms[0, 0])


def _shape_of(work: OperatorWork) -> list[float]:
    channels = (work.rows, work.columns, work.kernel, work.positions)
    return [float(np.log1p(n)) for n in (work.macs, work.reads, work.outputs, work.weights, *channels)]


def summed_ms(make: Callable[[], Any], timings: Sequence[Timing], cuts: Sequence[Cut]) -> list[float]:
    """Each cut as the sum of its operators, by a regression on logarithms for each operator type."""
    fitted = {}
    for kind in {t.work.kind for t in timings}:
        timed = [t for t in timings if t.work.kind == kind]
        fitted[kind] = make().fit([_shape_of(t.work) for t in timed], np.log([t.time_ms for t in timed]))
    return [float(sum(np.exp(fitted[w.kind].predict([_shape_of(w)])[0]) for w in operators(c.network, c.shape)))
            for c in cuts]


def boosting() -> Any:
    """Gradient boosting."""
    return GradientBoostingRegressor(n_estimators=150, learning_rate=0.08, random_state=0)


def ridge() -> Any:
    """Quadratic ridge, its penalty chosen by leaving one out."""
    return make_pipeline(StandardScaler(), PolynomialFeatures(2), RidgeCV(np.logspace(-3, 2, 11)))


def wholes_ms(rows: pd.DataFrame, costs: list[StageCost]) -> list[float]:
    """Each cut by prices of counts, solved from the cuts at all other split points."""
    counts = np.array([[getattr(c, name) for name in _COUNTS] for c in costs], dtype=np.float64)
    found = np.zeros(len(rows))
    for split in rows["split"].unique():
        out = (rows["split"] == split).to_numpy()
        found[out] = counts[out] @ least_relative_squares(counts[~out], rows["measured_ms"].to_numpy()[~out])
    return found.tolist()


def compare(backbone: str, options: Any, progress: Progress) -> pd.DataFrame:
    """One row a cut."""
    shape = BACKBONES[backbone]
    clock = WallClock(time.thread_time if options.clock == "cpu" else time.perf_counter)
    settings = ProfileSettings((backbone,), shape, options.threads, options.engine, options.repeats)
    engine = engine_of(settings, clock)
    out = options.out / f"{backbone.rpartition(':')[2]}.yaml"
    made = profile_machine(settings, out, progress=progress, stopwatch=clock)
    device = made.device
    cuts = list(cuts_of(backbone, shape, options.splits))
    costs = [stage_cost(c.network, c.shape) for c in cuts]
    timers = [engine.whole(folded(one.network), torch.randn(1, *one.shape)) for one in cuts]
    with progress.phase(f"time cuts of {backbone}", ROUNDS * len(cuts)) as advance:
        seconds = undisturbed(timers, options.repeats, advance)
    frame = pd.DataFrame([
        {"backbone": backbone, "split": one.split, "part": one.part, "sparsity": one.sparsity,
         "measured_ms": 1e3 * float(measured_s[0]),
         "analytic_ms": predicted_ms(AnalyticLatencyModel(), cost, device),
         "profiled_ms": predicted_ms(ProfiledLatencyModel(), cost, device)}
        for one, cost, measured_s in zip(cuts, costs, seconds, strict=True)])
    peers = {f"{make.__name__}_ms": summed_ms(make, made.timings, cuts) for make in (boosting, ridge)}
    return frame.assign(**peers, wholes_ms=wholes_ms(frame, costs))


def errors(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Median and 90th percentile of the relative error of each prediction, per cent."""
    found = {}
    for name in PREDICTIONS:
        off = 100 * (frame[f"{name}_ms"] / frame["measured_ms"] - 1).abs()
        found[name] = {"median_percent": round(float(off.median()), 1),
                       "p90_percent": round(float(off.quantile(0.9)), 1)}
    return found


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Predicted over measured, a panel a backbone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(frame["backbone"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(5 * len(names), 4.6), squeeze=False, layout="constrained")
    for panel, name in zip(panels[0], names, strict=True):
        rows = frame[frame["backbone"] == name]
        for model, marker in (("analytic", "x"), ("profiled", "o")):
            panel.scatter(rows["measured_ms"], rows[f"{model}_ms"], marker=marker, label=model, alpha=0.8)
        ends = [rows["measured_ms"].min(), rows["measured_ms"].max()]
        panel.plot(ends, ends, color="grey", linewidth=0.8)
        panel.set(title=name, xlabel="measured, ms", ylabel="predicted, ms", xscale="log", yscale="log")
        panel.legend()
    figure.savefig(path, metadata={"Software": None, "Description": command_line()})
    plt.close(figure)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--backbone", action="append", choices=list(BACKBONES), help="default: all")
    options_parser.add_argument("--splits", type=int, default=8, help="split points of each backbone")
    options_parser.add_argument("--engine", choices=("torch", "onnxruntime"), default="torch")
    options_parser.add_argument("--threads", type=int, default=1)
    options_parser.add_argument("--repeats", type=int, default=60, help="passes at most")
    options_parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = options_parser.parse_args()
    torch.set_num_threads(options.threads)
    progress = Progress()
    frame = pd.concat([compare(name, options, progress) for name in options.backbone or BACKBONES])
    frame.round(4).to_csv(options.out / "cuts.csv", index=False)
    found = {str(name): {"cuts": len(rows), **errors(rows)} for name, rows in frame.groupby("backbone", sort=False)}
    draw(frame, options.out / "cuts.png")
    write_json(options.out / "summary.json", {
        "engine": options.engine, "clock": options.clock, "threads": options.threads, "backbones": found})
    for name, row in found.items():
        print(name, *(f"{model} {row[model]['median_percent']} % (p90 {row[model]['p90_percent']} %)"
                      for model in PREDICTIONS), sep="  ")


if __name__ == "__main__":
    main()
