"""How far the profile that one bundle makes of a machine predicts other plans on that machine.

    python -m benchmarks.bundle_profile --out results/benchmarks/bundle-profile

For each backbone one plan is exported as a bundle with its fallback: a 50 % pruned head up to the middle of the network
and the whole, unpruned network. `python -m coinference profile` times these few wholes on this machine, once in
onnxruntime and once as C. Then the device's side of plans at all other split points, at four sparsities, whole networks
pruned by three of them, and injected heads, are exported and timed as wholes. Beside what the latency models `profiled`
and `analytic` say with that profile are three simpler things that know as much: `one rate` divides multiply-accumulates
by the rate of the bundle's wholes together, `packaged` scales the packaged profile of a Raspberry Pi 4 to them, and
`float` is what `autosplit profile --engine onnxruntime` says, which times the backbone and seven pruned versions of it
layer by layer, but in floating point. Weights have hardly been trained; no time depends on them. The machine must be
quiet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from autosplit.core.measurement import StageCost
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan, split_of
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.profiled import ProfiledLatencyModel
from autosplit.latency.profiling.run import ProfileSettings, profile_machine
from autosplit.models.costs import stage_cost
from autosplit.pipeline.context import arithmetic_of, blueprint_of
from autosplit.report.progress import Progress
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_bundle
from autosplit.runtime.standalone.bundle.manifest import DEVICE
from autosplit.runtime.standalone.bundle.parts import Network
from autosplit.runtime.standalone.options import ProfileOptions
from autosplit.runtime.standalone.profiling.clock import WallClock, disturbance, steady_medians, undisturbed
from autosplit.runtime.standalone.profiling.run import profile_bundle
from autosplit.training.prepare import Networks, prepare
from benchmarks.common import parser, scenario_of, write_json
from benchmarks.profiled import predicted_ms

BACKBONES = ("resnet8", "resnet20", "torchvision:mobilenet_v2")
SPARSITIES = (0.0, 0.25, 0.5, 0.75)
PREDICTIONS = ("profiled", "analytic", "one rate", "packaged", "float")
_TIMED = 0.5  # sparsity of the head in the bundle
_PACKAGED = "raspberry-pi-4"
_PASSES, _DRAWS = 60, 20_000


def plans(networks: Networks) -> tuple[Plan, list[Plan]]:
    """The plan of the bundle; and others, none of them at its split point."""
    space = networks.supernet.plan_space
    places = [place for place in space.splits if place != INPUT]
    own = [place for place in places if place != OUTPUT and split_of(place) == place]
    middle = own[len(own) // 2]
    found = [Plan.at(place, sparsity, space.codecs[place][0]) for place in places if split_of(place) != middle
             for sparsity in space.sparsities[place] if (place, sparsity) != (OUTPUT, 0.0)]
    return Plan.at(middle, _TIMED, space.codecs[middle][0]), found


def deployed(networks: Networks, plan: Plan) -> Deployment:
    """A plan in int8, its weights as the supernet has them."""
    network = networks.supernet.extract(plan)
    return Deployment.fit(blueprint_of(networks, plan, arithmetic_of("int8"), "0" * 16), network, networks.data)


def cost_of(deployment: Deployment) -> StageCost:
    """Work of the device's networks."""
    network, blueprint = deployment.network, deployment.blueprint
    head = stage_cost(network.head, blueprint.image_shape)
    return head if network.encoder is None else head + stage_cost(network.encoder, blueprint.feature_shape)


def measured_ms(folder: Path, engine: str) -> float:
    """The device's networks of a bundle as a whole."""
    if engine == "c":
        return sum(profile_bundle(folder, folder / "timed.yaml", ProfileOptions(engine=engine)).wholes_ms.values())
    network, clock = Network(folder / DEVICE, 1), WallClock()
    (given,) = network.session.get_inputs()
    feed = {given.name: np.random.default_rng(0).integers(0, 256, (1, *given.shape[1:])).astype(np.uint8)}
    found = undisturbed([lambda most: steady_medians(lambda: [clock.call(lambda: network.session.run(None, feed))],
                                                     most)], _PASSES)
    return 1e3 * float(found[0][0])


def rows_of(backbone: str, networks: Networks, most: int, out: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    """A row for each plan and engine, of so many plans at most."""
    timed, others = plans(networks)
    others = others[::-(-len(others) // most)]
    whole = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
    images = networks.data.test.images[:8]
    name = backbone.rpartition(":")[2]
    settings = ProfileSettings((backbone,), networks.data.shape, 1, "onnxruntime", _PASSES)
    in_float = profile_machine(settings, out / f"{name}-float.yaml", progress=progress).device
    with tempfile.TemporaryDirectory() as root, progress.phase(f"plans of {backbone}", len(others)) as advance:
        bundle = Path(root) / "bundle"
        deployments = (deployed(networks, timed), deployed(networks, whole))
        export_bundle(deployments[0], bundle, images=images, fallback=deployments[1], target="c")
        known = [cost_of(deployment) for deployment in deployments]
        devices, wholes = {}, {}
        for engine in ("onnxruntime", "c"):
            path = out / f"{name}-{engine}.yaml"
            made = profile_bundle(bundle, path, ProfileOptions(engine=engine))
            print(made.machine.title, made.wholes_ms, disturbance(made.machine.processor_share) or "")
            devices[engine], wholes[engine] = load_profile(DeviceProfile, str(path)), sum(made.wholes_ms.values())
        packaged = load_profile(DeviceProfile, _PACKAGED).model_copy(update={"arithmetic": "int8"})
        said = sum(predicted_ms(AnalyticLatencyModel(), cost, packaged) for cost in known)
        macs = sum(cost.macs for cost in known)
        for number, plan in enumerate(others):
            deployment, folder = deployed(networks, plan), Path(root) / str(number)
            export_bundle(deployment, folder, images=images, target="c")
            cost = cost_of(deployment)
            for engine, device in devices.items():
                yield {
                    "backbone": backbone, "engine": engine, "plan": plan.label, "split": plan.split, "head": plan.head,
                    "macs": cost.macs, "measured_ms": measured_ms(folder, engine),
                    "profiled": predicted_ms(ProfiledLatencyModel(), cost, device),
                    "analytic": predicted_ms(AnalyticLatencyModel(), cost, device),
                    "one rate": cost.macs * wholes[engine] / macs,
                    "packaged": predicted_ms(AnalyticLatencyModel(), cost, packaged) * wholes[engine] / said,
                    "float": predicted_ms(ProfiledLatencyModel(), cost, in_float)}
            advance(note=plan.label)


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """One row of each network: injected heads of one size are alike at all split points."""
    found: pd.DataFrame = rows.drop_duplicates("macs")
    return found


def errors(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Relative errors of each prediction, per cent, and its rank correlation with what was measured.

    Of all but `profiled` also by how much the median error is larger than that of `profiled`, with its 95 % interval by
    the bootstrap over networks.
    """
    found: dict[str, dict[str, Any]] = {}
    off = {name: 100 * (rows[name] / rows["measured_ms"] - 1).to_numpy() for name in PREDICTIONS}
    drawn = np.random.default_rng(0).integers(0, len(rows), (_DRAWS, len(rows)))
    medians = {name: np.median(np.abs(values)[drawn], axis=1) for name, values in off.items()}
    for name, values in off.items():
        found[name] = {"median_percent": round(float(np.median(np.abs(values))), 1),
                       "p90_percent": round(float(np.quantile(np.abs(values), 0.9)), 1),
                       "bias_percent": round(float(np.median(values)), 1),
                       "rank": round(float(spearmanr(rows[name], rows["measured_ms"]).statistic), 3)}
        if name != "profiled":
            bounds = np.quantile(medians[name] - medians["profiled"], (0.025, 0.975))
            more = found[name]["median_percent"] - found["profiled"]["median_percent"]
            found[name]["more_than_profiled"] = [round(float(v), 1) for v in (more, *bounds)]
    return found


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--backbone", action="append", help="default: three of them")
    options_parser.add_argument("--plans", type=int, default=24, help="plans of each backbone at most")
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    progress, rows = Progress(), list[dict[str, Any]]()
    for backbone in options.backbone or BACKBONES:
        scenario = scenario_of(options).replace(
            backbone=backbone, training__backbone_epochs=0, training__supernet_epochs=1,
            space__sparsities=SPARSITIES, space__heads=("pruned", "injected"), space__exits=(),
            training__injected_steps=0)
        rows += rows_of(backbone, prepare(scenario, progress), options.plans, options.out, progress)
    frame = pd.DataFrame(rows)
    frame.round(4).to_csv(options.out / "plans.csv", index=False)
    groups = {f"{backbone}, {engine}": distinct(part)
              for (backbone, engine), part in frame.groupby(["backbone", "engine"], sort=False)}
    tables = {name: errors(part) for name, part in groups.items()}
    write_json(options.out / "summary.json", {"networks": {name: len(part) for name, part in groups.items()},
                                              "errors": tables})
    print(pd.DataFrame([{"of": of, "prediction": name, **figures} for of, each in tables.items()
                        for name, figures in each.items()]).to_string(index=False))


if __name__ == "__main__":
    main()
