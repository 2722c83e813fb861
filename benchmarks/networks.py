"""Which networks go through all of it: traced, cut, pruned, counted, in int8, searched, replayed, exported.

    python -m benchmarks.networks --out results/benchmarks/networks

Each network is built with random weights, for images of its usual size, and goes through the stages in a process of its
own, on three classes of coloured pictures; `--only NAME` takes those whose names hold NAME. It continues where it was
stopped. A stage is `yes`, what was found, or the message it ended with:

- trace: points where one tensor crosses; those at the ends of blocks in brackets.
- split: head then tail against the network, at up to five points: equal bit for bit.
- prune: prunable groups of the whole network; half of their channels removed, against the network with these channels
  silenced.
- dry run: seconds, and the most memory of the process meanwhile.
- search, replay, export: a search that trains for an epoch and measures two plans with a code on a device that computes
  in int8, its replay, and its bundle whose labels are compared with the deployment's.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.common import parser, write_json

_ODD = Path(__file__).with_name("odd_networks.py")
_HF = {"resnet": ("ResNet", {}), "vit": ("ViT", {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 192,
                                                  "num_attention_heads": 3}),
       "convnext": ("ConvNext", {"depths": [2, 2, 2, 2], "hidden_sizes": [24, 48, 96, 192]}),
       "mobilenet-v2": ("MobileNetV2", {}), "mobilevit": ("MobileViT", {"image_size": 256}), "regnet": ("RegNet", {})}
NETWORKS = [
    *(f"torchvision:{n}" for n in (
        "resnet18", "resnet50", "vgg11_bn", "squeezenet1_1", "densenet121", "googlenet", "shufflenet_v2_x1_0",
        "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5", "regnet_y_400mf", "convnext_tiny",
        "swin_t")),
    *(f"timm:{n}" for n in (
        "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilevit_xxs", "levit_128s",
        "convnext_atto", "ghostnet_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "fastvit_t8",
        "edgenext_xx_small", "repvgg_a0", "efficientnet_lite0", "tf_efficientnet_b0", "regnetx_002",
        "efficientformerv2_s0", "poolformer_s12", "resnest14d")),
    *(f"hf:{n}" for n in _HF),
    *(f"odd:{n}" for n in ("attention", "channel_shuffle", "dictionary", "functional_tutorial", "in_place", "inception",
                           "multiplier", "shared_weights", "wrapped")),
]


def size_of(name: str) -> int:
    """Side of the images that a network is built for."""
    return 64 if name.startswith("odd:") else 256 if "mobilevit" in name or "fastvit" in name else 224


def backbone_of(name: str, folder: Path) -> str:
    """The name that autosplit takes; networks of transformers become folders with a configuration."""
    kind, _, short = name.partition(":")
    if kind == "odd":
        return f"{_ODD}:{short}"
    if kind != "hf":
        return name
    import transformers

    family, options = _HF[short]
    config = getattr(transformers, f"{family}Config")(num_labels=3, **options)
    config.architectures = [f"{family}ForImageClassification"]
    config.save_pretrained(folder / short)
    return f"hf:{folder / short}"


def pictures(folder: Path, side: int) -> Path:
    """Three classes of noisy colours: 10 pictures each for training, 4 for testing."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for label, colour in enumerate(("blue", "green", "red")):
            target = folder / part / colour
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = rng.integers(0, 120, (side, side, 3))
                image[..., 2 - label] += 100
                Image.fromarray(image.astype(np.uint8)).save(target / f"{number}.png")
    return folder


def stages(name: str, work: Path, short: bool = False) -> dict[str, Any]:
    """Take one network through everything, or only up to the dry run, in this process."""
    import torch

    import autosplit
    from autosplit.core.scenario import load_scenario
    from autosplit.pipeline.dry_run import preview

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    side, found = size_of(name), {"network": name}
    scenario = load_scenario("default").replace(
        name="matrix", backbone=backbone_of(name, work), dataset=f"image-folder:{pictures(work / 'pictures', side)}",
        image_size=side, conditions__device="stm32h7a3", conditions__budget_ms=60_000,
        conditions__channel="wifi4", **{
            "space.whole_on_edge": False, "space.whole_on_device": False, "space.sparsities": (0.0, 0.5),
            "space.widths": (2, 4), "space.bits": (4,), "space.max_grid": 8, "space.grid_levels": 1, "space.exits": (),
            "space.jpeg_qualities": (50,), "space.webp_qualities": (), "space.avif_qualities": (),
            "training.backbone_epochs": 1, "training.supernet_epochs": 1, "training.batch_size": 8,
            "training.backbone_lr": 0.001, "training.supernet_lr": 0.001, "training.finetune_lr": 0.001,
            "search.evaluations": 2, "search.finalists": 1, "search.recalibration_images": 8, "search.agent": "random"})
    tried: list[Any] = []

    def dry_run() -> str:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
        began = time.perf_counter()
        found = preview(scenario)
        tried.append(found)
        seconds = time.perf_counter() - began
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        return f"{seconds:.0f} s, {int(peak[1]) / 1e6:.1f} GB"

    steps: dict[str, Callable[[], str]] = {
        "trace": lambda: _traced(scenario, side), "split": lambda: _split(scenario, side),
        "prune": lambda: _pruned(scenario, side), "dry run": dry_run}
    for stage, run in steps.items():
        found[stage] = _attempt(run)
    if short or not tried:
        return found
    results: list[Any] = []

    def search() -> str:
        results.append(autosplit.search(scenario, work / "run", quiet=True))
        return "yes"

    found["search"] = _attempt(search)
    if results:
        found["replay"] = _attempt(lambda: _replayed(work))
        found["export"] = _attempt(lambda: _exported(work))
    return found


def _attempt(run: Callable[[], str]) -> str:
    try:
        return run()
    except Exception as e:
        return f"{type(e).__name__}: {' '.join(str(e).split())[:400]}"


def _graph(scenario: Any, side: int) -> Any:
    import torch

    from autosplit.models.loading import build_backbone
    from autosplit.models.tracing import trace

    torch.manual_seed(0)
    return trace(build_backbone(scenario.backbone, 3, 3, (side, side)).eval(), (3, side, side))


def _traced(scenario: Any, side: int) -> str:
    from autosplit.models.splitting import block_ends, find_split_points

    points = find_split_points(_graph(scenario, side), (3, side, side))
    return f"{len(points)} ({len(block_ends(points))})"


def _split(scenario: Any, side: int) -> str:
    import torch

    from autosplit.models.splitting import cut, find_split_points

    graph = _graph(scenario, side)
    points = find_split_points(graph, (3, side, side))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = graph(images)
        for point in points[:: max(1, len(points) // 4)][:5]:
            head, tail = cut(graph, point)
            if not torch.equal(tail(head(images)), expected):
                return f"differs at {point.name}"
    return "yes"


def _pruned(scenario: Any, side: int) -> str:
    import torch

    from autosplit.models.pruning import HeadPruner

    graph = _graph(scenario, side)
    pruner = HeadPruner(graph, (3, side, side))
    keep = pruner.keep_counts(0.5)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = pruner.masked(keep).eval()(images)
        found = pruner.sub_network(keep).materialise(graph).eval()(images)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        return "differs"
    return f"{len(pruner.groups)}"


def _replayed(work: Path) -> str:
    from autosplit.pipeline.replay import replay

    found = replay(work / "run")
    found.check()
    return "yes" if found.exact else f"within tolerance: {found.differences[0]}"


def _exported(work: Path) -> str:
    from autosplit.runtime.export import export_result

    export_result(work / "run" / "best.json", work / "bundle")  # which compares labels and refuses what differs
    return "yes"


def main() -> None:
    """Run the matrix, one process a network, and write a table."""
    options = parser(__doc__, scenario=False)
    options.add_argument("--only", default="", help="networks whose names hold this")
    options.add_argument("--one", help="take this one through all stages in this process")
    options.add_argument("--short", action="store_true", help="only up to the dry run; of networks in the table, what "
                                                              "follows stays as it is")
    chosen = options.parse_args()
    if chosen.one:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AUTOSPLIT_CACHE"] = str(Path(folder) / "cache")
            print(json.dumps(stages(chosen.one, Path(folder), chosen.short)))
        return
    table = chosen.out / "networks.csv"
    rows = pd.read_csv(table, dtype=str, keep_default_na=False).to_dict("records") if table.is_file() else []
    known = {row["network"]: row for row in rows}
    for name in (n for n in NETWORKS if chosen.only in n and (chosen.short or n not in known)):
        began = time.perf_counter()
        ended = subprocess.run([sys.executable, "-m", "benchmarks.networks", "--out", str(chosen.out), "--one", name,
                               *(["--short"] if chosen.short else [])], capture_output=True, text=True, check=False)
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        row = json.loads(lines[-1]) if lines else {"network": name, "trace": ended.stderr.strip()[-300:]}
        seconds = {} if chosen.short else {"seconds": round(time.perf_counter() - began)}
        known[name] = {**known.get(name, {}), **row, **seconds}
        print(json.dumps(known[name]), file=sys.stderr, flush=True)
        chosen.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(known.values()).to_csv(table, index=False)
    rows = list(known.values())
    passed = {stage: sum(_good(row.get(stage)) for row in rows)
              for stage in ("trace", "split", "prune", "dry run", "search", "replay", "export")}
    write_json(chosen.out / "networks.json", {"networks": len(rows), "passed": passed})


def _good(cell: str | None) -> bool:
    return cell is not None and cell != "0" and "Error" not in cell and not cell.startswith("differs")


if __name__ == "__main__":
    main()
