"""Codec families side by side at equal training effort: accuracy against payload bytes at several split points.

    python -m benchmarks.codecs --scenario default --out results/benchmarks/codecs-digits-m

For each split point, family and setting a codec is trained alone: first the family's own phases with the backbone
frozen, then codec and tail together, always the same number of steps in all. A family with rates is trained once for
all of them, which is what it is made for, as a supernet is: two settings a step, with half as many passes in all as one
training for each setting would take. The head is the untouched backbone's, so
its features are computed once; images are not augmented. Statistics, frequency tables and payloads are made as for a
measurement (F1). Accuracies are on validation images (for choosing) and on test images (for the figures); JPEG's curve
stands beside them. Writes `codecs.csv`, `summary.json` and `codecs.png`; a run that was stopped goes on from the CSV.

`bd_rate` in the summary is Bjontegaard's difference (VCEG-M33, 2001): the mean, over the accuracies that both reach, of
how many per cent more or fewer bytes a family takes than `nested`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Codec, Offer, Phase
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.plan import CodecSetting
from autosplit.core.scenario import Scenario
from autosplit.data.base import ImageDataset, SplitName, in_batches
from autosplit.data.stored import StoredFormat
from autosplit.models.splitting import cut
from autosplit.report.progress import Progress
from autosplit.runtime.standalone.payload.coder import payload_bytes
from autosplit.training.codecs import pretrain_codec
from autosplit.training.loop import accuracy, distillation_loss, parameter_groups
from autosplit.training.precision import autocast
from autosplit.training.prepare import Networks, untrained
from autosplit.training.supernet_training import relative_loss
from benchmarks.common import command_line, parser, scenario_of, write_json

_FAMILIES = ("factorised", "nested", "aecnn", "bottlenet++", "jalad")
_TARGETS = (32, 64, 128, 256, 512, 1024)
_BATCH = 128
_RATED = ("factorised",)  # families that are trained for all of their rates at once
_GRIDS = 2
_LR, _CODEC_LR, _LIMIT_LR = 0.02, 4.0, 0.01  # of the tail, of codecs as a multiple of it, of clipping limits
_LIMITS = 2  # where `parameter_groups` has these
_PARTS: tuple[SplitName, ...] = ("validation", "test")


@dataclass
class Part:
    """Features of the untouched head and what they belong to."""

    features: Tensor
    labels: Tensor


class Bench:
    """One split point: features of all parts, and training and measuring of one codec on them."""

    def __init__(self, prepared: Networks, split: str, images: int, steps: int, codec_steps: int) -> None:
        self.networks, self.split = prepared, split
        self.steps, self.codec_steps = steps, codec_steps
        self.head, self.tail = cut(prepared.backbone, prepared.supernet.points[split])
        channels, height, width = prepared.supernet.points[split].shape
        self.shape = (channels, height, width)
        data = prepared.data
        self.train = self._features(data.train.images[:images], data.train.labels[:images])
        self.calibration = self._features(data.calibration.images[:512], data.calibration.labels[:512])
        self.validation = self._features(data.validation.images, data.validation.labels)
        self.test = self._features(data.test.images, data.test.labels)
        self.answers = self._logits(self.tail, self.train.features)
        self.nonnegative = bool(self.calibration.features.min() >= 0)

    def _features(self, images: Tensor, labels: Tensor) -> Part:
        with torch.inference_mode():
            parts = [self.head(self.networks.data.normalise(x)).to(torch.float16) for x in in_batches(images, 256)]
        return Part(torch.cat(parts).clone(), labels)

    @staticmethod
    def _logits(network: nn.Module, features: Tensor) -> Tensor:
        with torch.inference_mode():
            found = torch.cat([network(x.float()) for x in in_batches(features, 256)])
        return found.clone()

    def run(self, family: str, setting: CodecSetting, seed: int) -> dict[str, object]:
        """Train one codec and measure it."""
        torch.manual_seed(seed)
        codec = build_codec(family, self.shape, Offer((setting.width or 1,), (setting.bits or 1,)), self.nonnegative)
        codec.fit(self.train.features[:256].float())
        tail = copy.deepcopy(self.tail)
        phased = bool(codec.phases())
        if phased:
            steps = self.networks.scenario.training.model_copy(update={"codec_steps": self.codec_steps})
            only = _Only(codec, setting)
            pretrain_codec(only, self.tail, self.train.features[:2048].float(), self.train.labels[:2048], steps, seed)
        if any(True for _ in codec.parameters()):
            self._together(codec, tail, (setting,), self.steps - (self.codec_steps if phased else 0), seed)
        return self._row(codec, tail, setting, family, seed)

    def run_rates(self, family: str, seed: int) -> list[dict[str, object]]:
        """Train a codec for all of its rates on two grids, and measure each."""
        torch.manual_seed(seed)
        space = self.networks.scenario.space
        quarter = max(1, max(self.shape[1:]) // 4)
        offer = Offer(space.widths, space.bits, quarter, _GRIDS, space.rates)
        codec = build_codec(family, self.shape, offer, self.nonnegative)
        codec.fit(self.train.features[:256].float())
        tail, settings = copy.deepcopy(self.tail), codec.settings()
        self._together(codec, tail, settings, self.steps * len(settings) // 4, seed)
        codec.settle(self.train.features[:256].float())
        return [self._row(codec, tail, setting, family, seed) for setting in codec.settings()]

    def _row(self, codec: Codec, tail: nn.Module, setting: CodecSetting, family: str, seed: int) -> dict[str, object]:
        network = SplitNetwork(nn.Identity(), copy.deepcopy(tail), *codec.extract(setting)).eval()
        recalibrate(network, self.train.features[:2048].float())
        return self._measure(network, setting) | {"family": family, "seed": seed}

    def _together(self, codec: Codec, tail: nn.Module, settings: Sequence[CodecSetting], steps: int, seed: int) -> None:
        generator, draws = torch.Generator().manual_seed(seed), Random(seed)
        rates = parameter_groups(tail.parameters(), codec.named_parameters(), _LR, _CODEC_LR)
        groups = [{"params": list(g.parameters), "lr": _LIMIT_LR if i == _LIMITS else g.lr}
                  for i, g in enumerate(rates) if not g.adaptive]
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-4)]
        optimisers += [torch.optim.Adam(g.parameters, lr=g.lr) for g in rates if g.adaptive]
        schedules = [torch.optim.lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], total_steps=steps + 1, pct_start=0.25,
            cycle_momentum=isinstance(o, torch.optim.SGD)) for o in optimisers]
        codec.train()
        tail.train()
        for step in range(steps):
            pick = torch.randint(len(self.train.labels), (_BATCH,), generator=generator)
            picked = [draws.choice(settings) if step % 2 else codec.widest, draws.choice(settings)]
            losses = []
            with autocast():
                for setting in picked if len(settings) > 1 else settings:
                    logits = tail(codec(self.train.features[pick].float(), setting))
                    loss = distillation_loss(logits, self.train.labels[pick], self.answers[pick]) + codec.cost()
                    losses.append(relative_loss(loss) if len(settings) > 1 else loss)
            loss = torch.stack(losses).mean()
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 5.0)
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()

    def _measure(self, network: SplitNetwork, setting: CodecSetting) -> dict[str, object]:
        with torch.inference_mode():
            assert network.quantiser is not None
            tables = network.quantiser.tables(network.symbols(self.calibration.features.float()))
            found: dict[str, object] = {}
            for name in _PARTS:
                part: Part = getattr(self, name)
                hits, sizes = 0, []
                for x, y in zip(in_batches(part.features, 256), in_batches(part.labels, 256), strict=True):
                    symbols = network.symbols(x.float())
                    hits += int((network.finish(symbols).argmax(1) == y).sum())
                    sizes.append(payload_bytes(tables, symbols.numpy()))
                found |= {f"{name}_accuracy": hits / len(part.labels),
                          f"{name}_bytes": float(np.concatenate(sizes).mean())}
        ratio = 4 * float(np.prod(self.shape)) / float(found["test_bytes"])  # type: ignore[arg-type]
        return {"split": self.split, "setting": setting.label, "ratio_to_feature": ratio, **found}


def settings_for(prepared: Networks, split: str, family: str, targets: Sequence[int]) -> list[CodecSetting]:
    """For each target the setting whose code, before entropy coding, comes nearest to it from below; none twice.

    Where several do, that of the fewest bits; of the nested codec, whose grids differ most in worth, two grids near
    a quarter of the feature's side, of which validation images choose.
    """
    space = prepared.scenario.space
    channels, height, width = prepared.supernet.points[split].shape
    codec = build_codec(family, (channels, height, width), Offer(space.widths, space.bits), nonnegative=True)
    sizes = {s: float(np.prod(codec.code_shape(s))) * (s.bits or 0) / 8 for s in codec.settings()}
    found: list[CodecSetting] = []
    for target in targets:
        near = [s for s, size in sizes.items() if target / 1.5 <= size <= target * 1.01]
        full = [s for s in near if sizes[s] > 0.95 * max(sizes[n] for n in near)]
        if family == "nested":
            quarter = max(1, height // 4)
            full.sort(key=lambda s: (abs(np.log2((s.grid or 1) / quarter)), s.bits))
            seen: dict[int | None, CodecSetting] = {}
            for setting in full:
                seen.setdefault(setting.grid, setting)
            found += list(seen.values())[:2]
        else:
            found += sorted(full, key=lambda s: (s.bits, s.width))[:1]
    return list(dict.fromkeys(found))


class _Only(Codec):
    """A codec that offers one of its settings, so that its phases spend every step on it."""

    def __init__(self, inner: Codec, setting: CodecSetting) -> None:
        nn.Module.__init__(self)
        self.inner, self._one = inner, setting

    def settings(self) -> tuple[CodecSetting, ...]:
        return (self._one,)

    def phases(self) -> tuple[Phase, ...]:
        return self.inner.phases()

    def forward(self, feature: Tensor, setting: CodecSetting) -> Tensor:
        return self.inner(feature, setting)  # type: ignore[no-any-return]

    parts = structure = blank = None  # type: ignore[assignment]


def jpeg_curve(prepared: Networks) -> list[dict[str, object]]:
    """Accuracy of the whole network on the edge, on JPEG images of several qualities, with and without own tables."""
    data: ImageDataset = prepared.data
    rows: list[dict[str, object]] = []
    for quality in (5, 10, 20, 30, 50, 75, 90, 95):
        row: dict[str, object] = {"split": "input", "family": "jpeg", "setting": f"q{quality}", "seed": 0}
        bodies: dict[str, object] = {"family": "jpeg with shared tables"}
        whole, body = StoredFormat("jpeg", quality), StoredFormat("jpeg-shared", quality)
        for name in _PARTS:
            row[f"{name}_accuracy"] = accuracy(prepared.backbone, data, data.coded_images(name, whole))
            row[f"{name}_bytes"] = float(data.stored_bytes(name, whole).double().mean())
            bodies[f"{name}_bytes"] = float(data.stored_bytes(name, body).double().mean())
        rows += [row, row | bodies]
    return rows


def prepared_for(scenario: Scenario, progress: Progress) -> Networks:
    """Data and trained backbone; the supernet is not needed."""
    from autosplit.training.prepare import prepare

    short = scenario.replace(**{"space.sparsities": (0.0,), "space.widths": (1,), "space.bits": (2,),
                                "training.supernet_epochs": 1, "space.grid_levels": 1})
    found = untrained(short, progress) if scenario.weights else prepare(short, progress)
    return dataclasses.replace(found, scenario=scenario)


def _read(path: Path) -> list[dict[str, object]]:
    """Rows of an earlier run."""
    return list(pd.read_csv(path).to_dict("records")) if path.is_file() else []  # type: ignore[arg-type]


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--splits", nargs="+", default=["layer1", "layer2", "layer3"])
    options_parser.add_argument("--images", type=int, default=12_000, help="training images whose features are kept")
    options_parser.add_argument("--steps", type=int, default=400, help="of training in all, a codec")
    options_parser.add_argument("--codec-steps", type=int, default=150, help="of them in a family's own phases")
    options_parser.add_argument("--targets", nargs="+", type=int, default=_TARGETS, metavar="BYTES",
                                help="sizes before entropy coding for which each family gives a setting")
    options_parser.add_argument("--families", nargs="+", default=list(_FAMILIES))
    options = options_parser.parse_args()
    progress = Progress()
    prepared = prepared_for(scenario_of(options), progress)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = _read(options.out / "codecs.csv") or jpeg_curve(prepared)
    done = {(r["split"], r["family"], r["setting"], r["seed"]) for r in rows}
    rated = {(r["split"], r["family"], r["seed"]) for r in rows}
    whole = accuracy(prepared.backbone, prepared.data, prepared.data.test)
    for split in options.splits:
        jobs: list[tuple[str, CodecSetting | None]] = [
            (f, None) for f in options.families if f in _RATED and (split, f, options.seed) not in rated]
        jobs += [(f, s) for f in options.families if f not in _RATED
                 for s in settings_for(prepared, split, f, options.targets)
                 if (split, f, s.label, options.seed) not in done]
        if not jobs:
            continue
        bench = Bench(prepared, split, options.images, options.steps, options.codec_steps)
        with progress.phase(f"codecs at {split}", total=len(jobs)) as advance:
            for family, setting in jobs:
                rows += (bench.run_rates(family, options.seed) if setting is None
                         else [bench.run(family, setting, options.seed)])
                pd.DataFrame(rows).to_csv(options.out / "codecs.csv", index=False)
                advance(1, f"{family} {setting.label if setting else 'at all rates'}")
    frame = pd.DataFrame(rows)
    summary = {"backbone_test_accuracy": whole, "steps": options.steps, "images": options.images,
               "loss_at_256x_points": at_256x(frame, whole), "nested_ahead": ahead(frame),
               "fewer_bytes_than_jpeg": fewer_bytes(frame), "bd_rate": bd_rates(frame),
               "bd_rate_within_5_points": bd_rates(frame, least=whole - 0.05)}
    write_json(options.out / "summary.json", summary)
    splits = [p.name for p in prepared.points if p.name in set(frame["split"])]
    draw(frame, splits, whole, options.out / "codecs.png")


def at_256x(frame: pd.DataFrame, whole: float) -> dict[str, dict[str, float]]:
    """For each split and family: the least test loss, in points, among settings of a ratio of 256 or more."""
    strong = frame[frame["ratio_to_feature"] >= 256]
    best = strong.loc[strong.groupby(["split", "family"])["validation_accuracy"].idxmax()]
    found: dict[str, dict[str, float]] = {}
    for row in best.to_dict("records"):
        found.setdefault(row["split"], {})[row["family"]] = round(100 * (whole - row["test_accuracy"]), 2)
    return found


def ahead(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """For each peer's setting: points by which the best nested code of no more bytes is ahead on test; the least."""
    found: dict[str, dict[str, float]] = {}
    for split, part in frame[frame["split"] != "input"].groupby("split", sort=False):
        ours = part[part["family"] == "nested"]
        for family, peers in part[part["family"] != "nested"].groupby("family"):
            margins = []
            for _, peer in peers.iterrows():
                cheaper = ours[ours["test_bytes"] <= peer["test_bytes"] * 1.02]
                if len(cheaper):
                    chosen = cheaper.loc[cheaper["validation_accuracy"].idxmax()]
                    margins.append(100 * (chosen["test_accuracy"] - peer["test_accuracy"]))
            if margins:
                found.setdefault(str(split), {})[str(family)] = round(min(margins), 2)
    return found


def fewer_bytes(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float | None]]]:
    """For each way of sending JPEG, split and quality: JPEG's bytes over those of the cheapest nested code as accurate.

    "As accurate" is decided on validation images; `None` where no code that was trained is.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    ours = frame[frame["family"] == "nested"]
    for peer, images in frame[frame["split"] == "input"].groupby("family", sort=False):
        for split, codes in [*ours.groupby("split", sort=False), ("any", ours)]:
            row = found.setdefault(str(peer), {}).setdefault(str(split), {})
            for image in frontier(images).to_dict("records"):
                enough = codes[codes["validation_accuracy"] >= image["validation_accuracy"]]["test_bytes"]
                row[str(image["setting"])] = round(image["test_bytes"] / enough.min(), 2) if len(enough) else None
    return found


def bd_rates(
    frame: pd.DataFrame, reference: str = "nested", least: float = 0.0
) -> dict[str, dict[str, float | None]]:
    """For each split and family: bytes against those of a reference at equal test accuracy, in per cent.

    Which settings count is chosen on validation images (`frontier`); `None` where two families have no accuracy in
    common. Only accuracies of at least `least` are compared.
    """
    found: dict[str, dict[str, float | None]] = {}
    for split, part in frame[frame["split"] != "input"].groupby("split", sort=False):
        curves = {str(f): frontier(rows) for f, rows in part.groupby("family")}
        for family in sorted(curves.keys() - {reference}) if reference in curves else ():
            found.setdefault(str(split), {})[family] = bd_rate(curves[reference], curves[family], least)
    return found


def bd_rate(reference: pd.DataFrame, other: pd.DataFrame, least: float = 0.0) -> float | None:
    """Mean of the difference in log bytes over the test accuracies that both curves reach, in per cent.

    Args:
        reference: `frontier` of one family.
        other: That of the other.
        least: Accuracies below it are left out.
    """
    curves = []
    for part in (reference, other):
        ordered = part.sort_values("test_accuracy")
        curves.append((ordered["test_accuracy"].to_numpy(float), np.log(ordered["test_bytes"].to_numpy(float))))
    low, high = max(least, *(a[0] for a, _ in curves)), min(a[-1] for a, _ in curves)
    if high <= low:
        return None
    at = np.linspace(low, high, 201)
    first, second = (np.interp(at, accuracies, sizes) for accuracies, sizes in curves)
    return round(100 * float(np.expm1((second - first).mean())), 1)


def frontier(part: pd.DataFrame) -> pd.DataFrame:
    """The rows that are more accurate on validation images than every cheaper one, cheapest first."""
    ordered = part.sort_values(["validation_bytes", "validation_accuracy"])
    before = ordered["validation_accuracy"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["validation_accuracy"] > before]


def draw(frame: pd.DataFrame, splits: Sequence[str], whole: float, path: Path) -> None:
    """A panel a split point: test accuracy against mean payload bytes; lines join what validation images choose."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(splits), figsize=(4.6 * len(splits), 4.4), dpi=130, sharey=True,
                                  layout="constrained", squeeze=False)
    looks = {"factorised": ("#e69f00", "*-"),
             "nested": ("#1f77b4", "o-"), "aecnn": ("#d62728", "s-"), "bottlenet++": ("#2ca02c", "^-"),
             "jalad": ("#9467bd", "D-"), "jpeg": ("#555555", "x--"), "jpeg with shared tables": ("#999999", "x:")}
    for axes, split in zip(panels[0], splits, strict=True):
        for family, (colour, style) in looks.items():
            part = frame[(frame["family"] == family) & frame["split"].isin([split, "input"])]
            best = frontier(part)
            if part.empty:
                continue
            axes.plot(part["test_bytes"], 100 * part["test_accuracy"], style[0], color=colour, markersize=4, alpha=0.3)
            axes.plot(best["test_bytes"], 100 * best["test_accuracy"], style, color=colour, label=family, markersize=5)
        axes.axhline(100 * whole, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xscale="log", title=f"cut after {split}", xlabel="mean payload, bytes (log)")
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("test accuracy, %")
    entries = {text: line for axes in panels[0] for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[0][-1].legend(entries.values(), entries.keys(), fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Software": None, "Description": command_line()})


if __name__ == "__main__":
    main()
