"""The folder that the pages' commands and Python are run in: it holds what they name, made so that all of it is quick.

| name | what it is |
| --- | --- |
| `tiny.yaml`, `my-scenario.yaml`, `my.yaml` | a scenario of seconds: the tiny world's with few plans, agent `random` |
| `photos/`, `photo.png`, `a.png`, `b.npy` | pictures of that world; images for the bundle |
| `my-weights.safetensors` | weights of `examples/backbone.py` for three classes |
| `results/best.json`, `results/reference`, `results/split` | as they are in the repository |
| `results/benchmarks/search-digits-m` | the repository's searches of one scenario |
| `results/tables/digits-m.csv.gz` | plans of the repository's table: sparsities 0, .25, .5 and .75, codes of 4 bits |
| `examples/`, `benchmarks/` | as they are in the repository |
| `policies/digits-m`, `bundle`, `keys`, `my-machine.yaml`, `results/digits-m-resnet8-100ms` | made by `MAKERS` |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.torch import save_file

from autosplit.models.loading import build_backbone
from tests.docs.pages import ROOT

MAKERS = (
    "autosplit train-policy results/tables/digits-m.csv.gz --out policies/digits-m",
    "autosplit export results/split --out bundle",
    "autosplit adapt RUN --out DIR",
    "autosplit serve --make-keys keys --device porch",
    "autosplit profile --backbone resnet20 --image-shape 3x32x32 --threads 1 --engine onnxruntime "
    "--out my-machine.yaml",
    "autosplit search --budget-ms 100",
)
"""Commands of the pages whose files others need."""

_SMALL = {"name": "digits-m-resnet8", "space__sparsities": (0.0,), "space__widths": (2,), "space__bits": (8,),
          "space__grid_levels": 1, "space__jpeg_qualities": (50,), "space__webp_qualities": (),
          "space__avif_qualities": (), "space__image_downscales": (1,), "training__codec_steps": 1,
          "search__agent": "random"}


def furnish(folder: Path, world) -> None:
    """Everything that is there without running a command.

    Args:
        folder: Where to.
        world: The tiny world of `tests/runs.py`.
    """
    scenario = world.scenario(**_SMALL).to_yaml()
    for name in ("tiny.yaml", "my-scenario.yaml", "my.yaml"):
        (folder / name).write_text(scenario)
    for name in ("examples", "benchmarks", "results/reference", "results/split"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(world.run, folder / "results" / "tiny")
    searches = folder / "results" / "benchmarks" / "search-digits-m"
    searches.mkdir(parents=True)
    lines = (ROOT / searches.relative_to(folder) / "runs.jsonl").read_text().splitlines()
    (searches / "runs.jsonl").write_text("\n".join(line for line in lines if json.loads(line)["scenario"] == 0) + "\n")
    shutil.copy(ROOT / "results" / "best.json", folder / "results")
    shutil.copytree(world.pictures, folder / "photos")
    one, other = [Image.open(p).resize((32, 32)) for p in sorted(world.pictures.rglob("*.png"))[:2]]
    one.save(folder / "photo.png")
    one.save(folder / "a.png")
    np.save(folder / "b.npy", np.asarray(other).transpose(2, 0, 1))
    network = build_backbone(f"{ROOT}/examples/backbone.py:small_cnn", 3, 3)
    save_file(network.state_dict(), folder / "my-weights.safetensors")
    _thin_table(ROOT / "results" / "tables" / "digits-m.csv.gz", folder / "results" / "tables")


def _thin_table(table: Path, folder: Path) -> None:
    from autosplit.experiments.bench import load_table

    folder.mkdir(parents=True)
    path = folder / table.name
    rows = pd.read_csv(table)
    chosen = rows.sparsity.isin((0.0, 0.25, 0.5, 0.75)) & ((rows.codec_bits == 4) | rows.codec_bits.isna())
    rows[chosen].to_csv(path, index=False)
    record = load_table(table).record.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    (folder / table.name.replace(".csv.gz", ".json")).write_text(record.model_dump_json())


def copied(master: Path, to: Path) -> Path:
    """A copy of the folder for one command, so that no command sees what another did."""
    shutil.copytree(master, to)
    os.environ.setdefault("MPLBACKEND", "agg")
    return to
