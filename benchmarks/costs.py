"""Counted work against torch's own counter, and predicted payloads against measured ones.

    python -m benchmarks.costs --only work --out results/benchmarks/costs
    python -m benchmarks.costs --only payloads --out results/benchmarks/costs

**Work.** For each network of torchvision and timm (`pip install timm`; its networks are left out where it is absent)
the multiply-accumulates that `autosplit.models.costs` counts, and half of what torch's `FlopCounterMode` counts for
the same inference of one image. The networks are on torch's device `meta`, which computes nothing.

**Payloads.** For `--plans` plans with a code and an unpruned head, drawn at random: mean and 95th percentile of the
payload as a search predicts them before it measures anything (tables of calibration images, sizes of validation
images), as it measures them on the same images (F1), and as they are on test images, which nothing was fitted or chosen
on. The last comparison holds the chance of 2,000 other images as well. `--set` shortens the training, `--untrained`
leaves it out: codecs are then principal components of an untrained network's features.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autosplit.core.measurement import Measurement
from autosplit.evaluation.live import LiveEvaluator
from autosplit.models.costs import not_counted, stage_cost
from autosplit.report.progress import Progress
from autosplit.training.prepare import Networks, prepare, untrained
from benchmarks.common import parser, scenario_of, write_json

__all__ = ["TIMM", "TORCHVISION", "payload_rows", "work_row"]

TORCHVISION = (
    "resnet18", "resnext50_32x4d", "vgg11", "squeezenet1_1", "densenet121", "googlenet", "mobilenet_v2",
    "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny",
    "vit_b_16", "swin_t", "swin_v2_t",
)
TIMM = ("vit_tiny_patch16_224", "levit_128s", "mobilevit_xxs", "mixer_s32_224", "poolformer_s12", "edgenext_xx_small")


def _torchvision(name: str) -> tuple[nn.Module, int]:
    from torchvision import models

    auxiliary = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return models.get_model(name, weights=None, **auxiliary), 224


def _timm(name: str) -> tuple[nn.Module, int]:
    import timm

    network: Any = timm.create_model(name)
    return network, int(network.default_cfg["input_size"][-1])


def work_row(library: str, name: str, build: Callable[[str], tuple[nn.Module, int]]) -> dict[str, object]:
    """One network, counted in both ways.

    Args:
        library: For the table.
        name: The network's.
        build: Gives it with the side of its images.
    """
    network, side = build(name)
    network.eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side, device="meta"))
    theirs, ours = counter.get_total_flops() / 2, stage_cost(network, (3, side, side))
    reasons = not_counted(network, (3, side, side))
    return {"library": library, "network": name, "side": side, "conv_mmacs": ours.conv_macs / 1e6,
            "depthwise_mmacs": ours.depthwise_macs / 1e6, "linear_mmacs": ours.linear_macs / 1e6,
            "counted_mmacs": ours.macs / 1e6, "torch_mmacs": theirs / 1e6,
            "difference_percent": 100 * (ours.macs / theirs - 1),
            "not_counted": "; ".join(sorted(reasons))}


def payload_rows(networks: Networks, plans: int, seed: int) -> list[dict[str, object]]:
    """Predicted and measured payloads of plans with an unpruned head, bytes.

    Args:
        networks: Of a scenario.
        plans: How many.
        seed: Which.
    """
    live = LiveEvaluator(networks)
    coded = [p for p in live.space.plans() if p.codec.kind == "code" and p.sparsity == 0.0]
    drawn = np.random.default_rng(seed).permutation(len(coded))[:plans]
    chosen = [coded[i] for i in drawn]
    on_test = replace(networks, data=replace(networks.data, validation=networks.data.test))

    def sizes(found: Measurement) -> tuple[float, float]:
        return found.workload.payload_bytes_mean, found.workload.payload_bytes_p95

    rows = []
    for plan, work, measured, tested in zip(
            chosen, live.workloads(chosen), live.measure(chosen), LiveEvaluator(on_test).measure(chosen), strict=True):
        values = (work.payload_bytes_mean, work.payload_bytes_p95, *sizes(measured), *sizes(tested))
        names = [f"{part}_{what}_bytes" for part in ("predicted", "measured", "test") for what in ("mean", "p95")]
        rows.append({"plan": plan.label, **dict(zip(names, values, strict=True))})
    return rows


def main() -> None:
    """Run the benchmark that the options ask for."""
    found = parser(__doc__)
    found.add_argument("--plans", type=int, default=24)
    found.add_argument("--untrained", action="store_true", help="with networks as they are before any training")
    found.add_argument("--only", choices=("work", "payloads"), help="one of the two parts")
    options = found.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only != "payloads":
        compare_work(options.out, Progress())
    if options.only != "work":
        networks = (untrained if options.untrained else prepare)(scenario_of(options), Progress())
        compare_payloads(options.out, networks, options.plans, options.seed, trained=not options.untrained)


def compare_work(out: Path, progress: Progress) -> None:
    """Write the table of networks and its summary."""
    timm = importlib.util.find_spec("timm") is not None
    wanted = [("torchvision", name, _torchvision) for name in TORCHVISION]
    wanted += [("timm", name, _timm) for name in TIMM] if timm else []
    rows = []
    with progress.phase("count work", len(wanted)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library, name, build in wanted:
            rows.append(work_row(library, name, build))
            advance(note=name)
    work = pd.DataFrame(rows)
    work.to_csv(out / "work.csv", index=False, float_format="%.6g")
    write_json(out / "work.json", {"torch": torch.__version__, "networks": len(work), "timm": timm,
                                   "largest_difference_percent": float(work["difference_percent"].abs().max())})


def compare_payloads(out: Path, networks: Networks, plans: int, seed: int, *, trained: bool) -> None:
    """Write the table of plans and its summary."""
    payloads = pd.DataFrame(payload_rows(networks, plans, seed))
    payloads.to_csv(out / "payloads.csv", index=False, float_format="%.6g")
    summary: dict[str, object] = {"trained": trained, "plans": len(payloads)}
    for part in ("measured", "test"):
        for what in ("mean", "p95"):
            bias = 100 * (payloads[f"predicted_{what}_bytes"] / payloads[f"{part}_{what}_bytes"] - 1)
            summary[f"bias_against_{part}_{what}_percent"] = round(float(bias.mean()), 3)
            summary[f"worst_against_{part}_{what}_percent"] = round(float(bias.abs().max()), 3)
    write_json(out / "payloads.json", summary)


if __name__ == "__main__":
    main()
