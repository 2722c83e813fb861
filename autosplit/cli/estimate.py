"""About how long a command will take, said before it begins.

Everything that takes minutes passes images through the backbone or a part of it, forwards or backwards. So the passes
are counted, and divided by how many the backbone makes in a second here and now, which is measured for under a second.
Data are not loaded for that, and what the cache holds already is not looked up: estimates are for work that is done
for the first time. One rate serves for all phases: `results/best.json` records 4,500 to 5,200 passes a second for each.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from autosplit.core.scenario import Scenario

__all__ = ["Images", "count_images", "duration", "estimate_adapt", "estimate_comparison", "estimate_search",
           "estimate_table", "passes_per_second", "training_passes"]

P = ParamSpec("P")

_TRAINED = 3  # passes of a training step for each image: the backward one costs about two forward ones
_SUPERNET = 2 * _TRAINED + 1  # two plans a step, and the teacher
_FINE_TUNED = _TRAINED + 1
_RATES_A_STEP = 3  # that `adapt` trains
_COMPARED = 7  # the search and six baselines from the literature, each with finalists of its own
_SUPERNETS = 2  # that `compare` trains beside the search's own
_CALIBRATION_S = 0.4
_CALIBRATION_PIXELS = 32 * 64 * 64


@dataclass(frozen=True)
class Images:
    """What is known of a data set without loading it.

    Attributes:
        train: Training images, about.
        validation: Validation images, about.
        side: Height and width, pixels.
        channels: Of an image.
        classes: Number of classes.
    """

    train: int
    validation: int
    side: int
    channels: int = 3
    classes: int = 10


_KNOWN = {
    "digits-m": Images(12_000, 2_000, 32), "fashion-mnist": Images(54_000, 5_000, 28, channels=1),
    "cifar10": Images(44_000, 5_000, 32), "cifar100": Images(44_000, 5_000, 32, classes=100),
    "caltech101": Images(5_900, 690, 224, classes=101),
}


def or_nothing(estimate: Callable[P, str]) -> Callable[P, str | None]:
    """Give `None` where an estimate fails: what is wrong is for the command itself to report."""

    @functools.wraps(estimate)
    def run(*args: P.args, **kwargs: P.kwargs) -> str | None:
        try:
            return estimate(*args, **kwargs)
        except Exception:  # a network of the user's may raise anything
            return None

    return run


@or_nothing
def estimate_search(scenario: Scenario, data_root: Path | None) -> str:
    """What a search does, and about how long it takes.

    Args:
        scenario: What is to be searched.
        data_root: Folder that data sets lie in.
    """
    images = count_images(scenario, data_root)
    passes = training_passes(scenario, images) + search_passes(scenario, images)
    return (f"{training_words(scenario)}, measure {scenario.search.evaluations} plans, fine-tune "
            f"{scenario.search.finalists} of them: {spoken(scenario, images, passes)}")


@or_nothing
def estimate_comparison(scenarios: Sequence[Scenario], data_root: Path | None) -> str:
    """The same for searches and baselines in several scenarios, which share networks where only conditions differ."""
    from autosplit.pipeline.context import networks_key

    shared = {networks_key(scenario): scenario for scenario in scenarios}
    seconds = 0.0
    for key, scenario in shared.items():
        images = count_images(scenario, data_root)
        # the baselines have a supernet of their own; codecs with phases of their own are trained in it
        passes = training_passes(scenario, images)
        passes += _SUPERNETS * scenario.training.supernet_epochs * images.train * _SUPERNET
        here = sum(networks_key(other) == key for other in scenarios)
        passes += here * (search_passes(scenario, images) + _COMPARED * fine_tuning_passes(scenario, images))
        seconds += passes / passes_per_second(scenario, images)
    many = f"{len(scenarios)} scenarios" if len(scenarios) > 1 else "a search"
    return (f"{many} with {_COMPARED - 1} baselines from the literature, networks trained for {len(shared)} of them: "
            f"{duration(seconds)} at the present speed of this machine, less where the cache holds parts of it")


@or_nothing
def estimate_table(scenario: Scenario, data_root: Path | None) -> str:
    """The same for measuring all plans of a scenario's space."""
    from autosplit.compression import build_codec
    from autosplit.compression.codecs.base import Offer
    from autosplit.models.loading import build_backbone
    from autosplit.models.splitting import find_split_points, select_split_points
    from autosplit.models.tracing import trace

    images, space = count_images(scenario, data_root), scenario.space
    shape = (images.channels, images.side, images.side)
    model = build_backbone(scenario.backbone, images.classes, images.channels, shape[1:], pretrained=False).eval()
    offer = Offer(space.widths, space.bits, space.max_grid, space.grid_levels, space.rates)
    settings = sum(
        len(build_codec(family, (p.shape[0], p.shape[1], p.shape[2]), offer, True).settings())
        for p in select_split_points(find_split_points(trace(model, shape), shape), space.splits) if len(p.shape) == 3
        for family in scenario.codecs)
    plans = settings * len(space.sparsities)
    passes = training_passes(scenario, images) + plans * measuring_passes(scenario, images)
    return f"{training_words(scenario)}, measure about {plans:,} plans: {spoken(scenario, images, passes)}"


@or_nothing
def estimate_adapt(
    run: Path, rates: int, epochs: int | None, data_root: Path | None, trust_code: bool = False
) -> str:
    """The same for the rates of a bundle.

    Args:
        run: Directory of a finished run.
        rates: Most settings of the codec.
        epochs: Of the fine-tuning at most; `None` = four times those of a finalist.
        data_root: Folder that data sets lie in.
        trust_code: Whether code may run that the run names and that never ran here.
    """
    from autosplit.core.result import Result

    scenario = Result.load(run / "best.json", trust_code=trust_code).scenario
    images = count_images(scenario, data_root)
    epochs = epochs or 4 * scenario.training.finetune_epochs
    passes = epochs * images.train * (1 + _TRAINED * min(rates, _RATES_A_STEP))
    return (f"fine-tune up to {rates} rates for {epochs} epochs, if the networks of {run} are in the cache: "
            f"{spoken(scenario, images, passes)}")


# --- passes of images -----------------------------------------------------------------------------------------------


def training_passes(scenario: Scenario, images: Images) -> int:
    """Of the training of backbone and supernet."""
    settings = scenario.training
    backbone = 0 if scenario.weights else settings.backbone_epochs * _TRAINED
    return images.train * (backbone + settings.supernet_epochs * _SUPERNET)


def measuring_passes(scenario: Scenario, images: Images) -> int:
    """Of one measurement of a plan."""
    return min(images.validation, scenario.search.validation_images) + scenario.search.recalibration_images


def fine_tuning_passes(scenario: Scenario, images: Images) -> int:
    """Of the finalists' fine-tuning."""
    return scenario.search.finalists * scenario.training.finetune_epochs * images.train * _FINE_TUNED


def search_passes(scenario: Scenario, images: Images) -> int:
    """Of everything after the training."""
    return (scenario.search.evaluations * measuring_passes(scenario, images)) + fine_tuning_passes(scenario, images)


def passes_per_second(scenario: Scenario, images: Images) -> float:
    """Images that the backbone takes forward in a second, from one step of training as the real ones are.

    Raises:
        AutosplitError: The backbone cannot be built.
    """
    import torch

    from autosplit.core.accelerator import find_accelerator
    from autosplit.models.loading import build_backbone
    from autosplit.training.precision import autocast

    shape, accelerator = (images.channels, images.side, images.side), find_accelerator(scenario.training.accelerator)
    with torch.random.fork_rng(devices=[]), autocast(accelerator):
        model = build_backbone(scenario.backbone, images.classes, images.channels, shape[1:], pretrained=False)
        model.to(accelerator.device).to(memory_format=torch.channels_last).train()

        # A step has costs of its own, which count where images are small: those go in batches as in the training.
        full = max(2, min(scenario.training.batch_size, _CALIBRATION_PIXELS // images.side**2))
        best, spent, count = 0.0, 0.0, 2  # kernels are chosen and memory is allocated in a first, small step
        while spent < _CALIBRATION_S:
            batch = torch.rand(count, *shape).to(accelerator.device, memory_format=torch.channels_last)
            start = time.perf_counter()
            model(batch).float().square().mean().backward()
            accelerator.wait()
            took = time.perf_counter() - start
            best = max(best, count / took)
            spent += took if count == full or took > 2 * _CALIBRATION_S else 0.0
            count = full
    return _TRAINED * best


def count_images(scenario: Scenario, data_root: Path | None) -> Images:
    """The images of a scenario; those of a folder are counted, not opened.

    Raises:
        OSError: There is no such folder.
        KeyError: There is no such data set.
    """
    prefix, _, path = scenario.dataset.partition(":")
    if prefix != "image-folder":
        return _KNOWN[scenario.dataset]
    root = (data_root or Path()) / Path(path).expanduser()
    apart = (root / "train").is_dir()  # else a fifth of each class becomes the test part
    top = root / "train" if apart else root
    files = sum(len(names) for _, _, names in os.walk(top)) * (1.0 if apart else 0.8)
    classes = [folder for folder in top.iterdir() if folder.is_dir()]
    side = scenario.image_size or side_of(next(f for f in classes[0].iterdir() if f.is_file()))
    return Images(int(0.85 * files), int(0.1 * files), side, classes=len(classes))


def side_of(file: Path) -> int:
    """Height that an image of a folder is brought to: its own where it is small, as `autosplit.data` has it."""
    from PIL import Image

    with Image.open(file) as image:
        return image.height if max(image.size) <= 64 else 224


# --- words ----------------------------------------------------------------------------------------------------------


def training_words(scenario: Scenario) -> str:
    """What is trained, and for how long."""
    settings = scenario.training
    trained = not scenario.weights and settings.backbone_epochs
    backbone = f"the backbone for {settings.backbone_epochs} epochs and " if trained else ""
    return f"train {backbone}the supernet for {settings.supernet_epochs}{' epochs' if scenario.weights else ''}"


def spoken(scenario: Scenario, images: Images, passes: float) -> str:
    """Passes of a scenario's backbone as time."""
    from autosplit.core.accelerator import CPU, find_accelerator

    accelerator = find_accelerator(scenario.training.accelerator)
    seconds = passes / passes_per_second(scenario, images)
    where = "this machine" if accelerator == CPU else accelerator.name
    return f"{duration(seconds)} at the present speed of {where}, less where the cache holds parts of it"


def duration(seconds: float) -> str:
    """A time as a person would say it, such as "about 3 minutes"."""
    for unit, length in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit}s"
    return f"about {max(1, seconds):.0f} second{'s' if seconds >= 1.5 else ''}"
