"""From a scenario to a trained supernet: load the data, get the backbone, cut it, train what is not in the cache."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import fx, nn

from autosplit.compression import codec_key
from autosplit.core.accelerator import CPU, Accelerator, find_accelerator
from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, DataError
from autosplit.core.hashing import content_hash
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.scenario import ADDED_KEYS, IMAGE_KEYS, Scenario
from autosplit.data import ImageDataset, load_dataset
from autosplit.models.identity import graph_hash, settled_tensors, tensors_hash
from autosplit.models.loading import build_backbone
from autosplit.models.splitting import SplitPoint, find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.models.weights import load_weights
from autosplit.training.backbone import train_backbone
from autosplit.training.codecs import pretraining_steps
from autosplit.training.coded_images import lossy_formats, train_on_coded_images
from autosplit.training.finetune import Finetuning
from autosplit.training.injected import injected_steps
from autosplit.training.loop import Teacher, steps_per_epoch
from autosplit.training.supernet import Supernet
from autosplit.training.supernet_training import train_supernet

__all__ = ["Networks", "prepare", "untrained"]

_log = logging.getLogger(__name__)

_RECIPE = 4  # raised when training changes, so that older cached weights are not taken for new ones
_SAMPLE_IMAGES = 256
_STRUCTURE_IMAGES = 4  # for networks that mean nothing
_REASONS = 4  # that a note names
_USUAL_RATES = ADDED_KEYS["space.rates"]


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Networks:
    """The networks of a scenario with their data: all that measuring a plan needs.

    Attributes:
        scenario: What was asked for.
        data: The data set, whose accelerator all networks here are on.
        backbone: Traced and trained, in evaluation mode.
        points: The split points of the search space.
        teacher: The backbone's answers, for distillation.
        supernet: Trained, in evaluation mode.
        coded_backbone: The backbone, trained on images as lossy formats leave them, in evaluation mode; `None` where
            no such format is on offer.
        backbone_key: Content hash of whatever determines the backbone's weights.
        supernet_key: Content hash of whatever determines the supernet's weights.
        coded_key: Content hash of whatever determines those of `coded_backbone`; empty where there is none.
        cache: Where weights are kept.
    """

    scenario: Scenario
    data: ImageDataset
    backbone: fx.GraphModule
    points: tuple[SplitPoint, ...]
    teacher: Teacher
    supernet: Supernet
    coded_backbone: nn.Module | None
    backbone_key: str
    supernet_key: str
    coded_key: str
    cache: Cache


def untrained(scenario: Scenario, progress: PhaseReporter | None = None, *, data_root: Path | None = None) -> Networks:
    """As `prepare` without training: structures and plan space are right, weights mean nothing."""
    return prepare(scenario, progress, data_root=data_root, trains=False)


def prepare(
    scenario: Scenario,
    progress: PhaseReporter | None = None,
    *,
    cache: Cache | None = None,
    data_root: Path | None = None,
    trains: bool = True,
    require: Callable[[str], None] | None = None,
) -> Networks:
    """Load, cut and train whatever a scenario needs.

    Args:
        scenario: What to prepare.
        progress: Shows the phases.
        cache: Where trained weights are looked up and kept; the user's cache folder by default.
        data_root: Where data sets lie.
        trains: Whether backbone and supernet are trained, or taken from the cache; see `untrained`.
        require: Called with the supernet's key before anything is trained; raises where these are not the networks
            that the caller wants to go on with.

    Raises:
        AutosplitError: Data, backbone, weights or split points of the scenario cannot be loaded or found.
    """
    progress, cache = progress or NullProgress(), cache or Cache()
    accelerator = find_accelerator(scenario.training.accelerator) if trains else CPU
    with progress.phase("load data"):  # which warns of what it left out
        data = load_dataset(scenario.dataset, seed=scenario.search.seed, image_size=scenario.image_size, root=data_root)
    if len(data.train) < 2:
        raise DataError(f"data set {data.name!r} has {len(data.train)} training images; training needs at least 2")
    with progress.phase("look into the network"):
        data = _with_its_channels(scenario, data)
        model = _built(scenario, data, scenario.search.seed)
        data = _as_expected(model, data)
        backbone = trace(model, data.shape)
        # a wrong name, or a network that cannot be cut, should not cost a training
        points = _split_points(backbone, data, scenario)
        backbone_key = _backbone_key(scenario, data, model, backbone)
        supernet_key = _supernet_key(scenario, backbone_key, points)
        del model  # a large network is in memory often enough
    if require is not None:
        require(supernet_key)
    elsewhere = data.on(accelerator)
    if scenario.weights is None and trains and scenario.training.backbone_epochs:
        _train_backbone(scenario, backbone, elsewhere, backbone_key, progress, cache)
    backbone = backbone.to(memory_format=torch.channels_last).eval()
    supernet = _supernet(scenario, data, backbone, points, progress, trains)
    data, backbone = elsewhere, backbone.to(elsewhere.accelerator.device)
    teacher = Teacher(backbone, data)
    supernet.to(data.accelerator.device)
    if trains:
        _train_supernet(scenario, data, supernet, supernet_key, teacher, progress, cache)
    supernet = supernet.to(memory_format=torch.channels_last).eval()
    coded_key = _coded_key(scenario, backbone_key)
    coded = (_coded_backbone(scenario, data, backbone, coded_key, teacher, progress, cache, trains) if coded_key
             else None)
    return Networks(scenario, data, backbone, points, teacher, supernet, coded, backbone_key, supernet_key, coded_key,
                    cache)


def _split_points(backbone: fx.GraphModule, data: ImageDataset, scenario: Scenario) -> tuple[SplitPoint, ...]:
    """The split points of the search space; `all` means those that a codec can take, feature maps."""
    wanted = scenario.space.splits
    points = select_split_points(find_split_points(backbone, data.shape), wanted)
    return tuple(p for p in points if wanted != "all" or len(p.shape) == 3)


def _with_its_channels(scenario: Scenario, data: ImageDataset) -> ImageDataset:
    """The data; grey images in three channels where the network, or weights for it, take nothing else."""
    if data.shape[0] != 1 or _takes(scenario, data):
        return data
    colour = data.in_colour()
    return colour if _takes(scenario, colour) else data  # of what fits neither, the images as they are are spoken of


def _takes(scenario: Scenario, data: ImageDataset) -> bool:
    """Whether a backbone can be built and run on images of these channels."""
    try:
        model = _built(scenario, data, scenario.search.seed)
        _as_expected(model, data)
        with torch.inference_mode():
            model(torch.zeros(2, *data.shape))
    except Exception:  # of many types; whatever else is wrong is said where the network is traced
        return False
    return True


def _as_expected(model: nn.Module, data: ImageDataset) -> ImageDataset:
    """The data set, its images normalised as pretrained weights expect them where a backbone says how.

    A backbone says so by attributes `input_mean` and `input_std`: one value a channel, for images in [0, 1].
    """
    mean, std = getattr(model, "input_mean", None), getattr(model, "input_std", None)
    if mean is None or std is None:
        return data
    found = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    if any(t.shape != (data.shape[0],) for t in found) or not bool((found[1] > 0).all()):
        raise ConfigError(f"backbone {type(model).__name__}: input_mean and input_std must hold one value for each of "
                          f"{data.shape[0]} channels, the latter above 0; got {mean} and {std}")
    return replace(data, mean=found[0], std=found[1])


def _built(scenario: Scenario, data: ImageDataset, seed: int) -> nn.Module:
    """The backbone from a seed, with its weights where there are some, in evaluation mode."""
    torch.manual_seed(seed)
    model = build_backbone(scenario.backbone, data.num_classes, data.shape[0], data.shape[1:])
    if scenario.weights is not None:
        load_weights(model, scenario.weights)
    return model.eval()


def _backbone_key(scenario: Scenario, data: ImageDataset, model: nn.Module, graph: fx.GraphModule) -> str:
    """Hash of what determines the backbone's weights once it is trained."""
    settings = scenario.training
    other = _built(scenario, data, scenario.search.seed + 1)
    return content_hash({
        "recipe": _RECIPE, "network": graph_hash(graph), "tensors": tensors_hash(settled_tensors(model, other)),
        "data": data.fingerprint, "weights": scenario.weights is not None,
        "epochs": settings.backbone_epochs, "lr": settings.backbone_lr,
        "batch": settings.batch_size, "seed": scenario.search.seed,
    })


def _train_backbone(
    scenario: Scenario, backbone: fx.GraphModule, data: ImageDataset, key: str, progress: PhaseReporter, cache: Cache
) -> None:
    settings = scenario.training

    def fit(on_step: Callable[[], None]) -> None:
        train_backbone(backbone.to(data.accelerator.device), data, settings, scenario.search.seed, on_step)
        backbone.cpu()

    steps = settings.backbone_epochs * steps_per_epoch(data, settings.batch_size)
    _cached(backbone, "backbone", key, fit, steps, progress, cache, data.accelerator)


def _profiles(scenario: Scenario) -> int:
    """Heads pruned layer by layer that the supernet is trained with at each split point."""
    return scenario.training.layer_profiles if scenario.search.granularity == "layer" else 0


def _supernet_key(scenario: Scenario, backbone_key: str, points: tuple[SplitPoint, ...]) -> str:
    """Hash of what determines the supernet's weights."""
    settings, profiles, rates = scenario.training, _profiles(scenario), scenario.space.rates
    encoder = scenario.space.injected_encoder
    # what is not trained does not change the supernet; its split points are named below
    space = scenario.space.model_dump(mode="json", exclude={
        *IMAGE_KEYS, "whole_on_edge", "splits", "rates", "heads", "injected_encoder", "exits", "exit_by", "keep",
        "round_to"})
    rules = {name: value for name in ("keep", "round_to")
             if (value := getattr(scenario.space, name)) != ADDED_KEYS[f"space.{name}"] and value != ()}
    return content_hash({
        # so that supernets without them keep their keys
        **({"profiles": profiles} if profiles else {}), **({"rates": rates} if rates != _USUAL_RATES else {}),
        **({"heads": scenario.space.heads} if scenario.space.heads != ("pruned",) else {}),
        **({"injected_steps": settings.injected_steps} if "injected" in scenario.space.heads else {}),
        **({"injected_encoder": encoder} if encoder != "strided" else {}), **({"rules": rules} if rules else {}),
        "recipe": _RECIPE, "backbone": backbone_key, "space": space, "points": [p.name for p in points],
        "codecs": [codec_key(name) for name in scenario.codecs], "codec_steps": settings.codec_steps,
        "epochs": settings.supernet_epochs, "lr": settings.supernet_lr, "batch": settings.batch_size,
        "seed": scenario.search.seed,
    })


def _supernet(
    scenario: Scenario, data: ImageDataset, backbone: fx.GraphModule, points: tuple[SplitPoint, ...],
    progress: PhaseReporter, trains: bool,
) -> Supernet:
    """The supernet before it is trained; backbone and data are on the processor."""
    with progress.phase("find prunable channels"):
        torch.manual_seed(scenario.search.seed)
        sample = data.normalise(data.train.images[:_SAMPLE_IMAGES if trains else _STRUCTURE_IMAGES])
        # the caller keeps the backbone as the teacher
        supernet = Supernet(copy.deepcopy(backbone) if trains else backbone, points, scenario.space, sample,
                            scenario.codecs)
    _say_what_stays(supernet)
    return supernet


def _train_supernet(
    scenario: Scenario, data: ImageDataset, supernet: Supernet, key: str, teacher: Teacher, progress: PhaseReporter,
    cache: Cache,
) -> None:
    settings = scenario.training

    def fit(on_step: Callable[[], None]) -> None:
        train_supernet(supernet, teacher, data, settings, scenario.search.seed, on_step, _profiles(scenario))

    steps = settings.supernet_epochs * steps_per_epoch(data, settings.batch_size)
    steps += injected_steps(supernet, settings) + pretraining_steps(supernet, settings)
    _cached(supernet, "supernet", key, fit, steps, progress, cache, data.accelerator)


def _say_what_stays(supernet: Supernet) -> None:
    """One note of the layers that keep all their channels because of what their network does."""
    unpruned = {path: why for pruner in supernet.pruners.values() for path, why in pruner.unpruned.items()}
    if unpruned:
        reasons = Counter(unpruned.values())
        layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in supernet.backbone.modules())
        _log.warning("%d of %d layers keep all their channels, because of %s", len(unpruned), layers,
                     ", ".join(f"{why} ({count})" for why, count in reasons.most_common(_REASONS)))


def _coded_key(scenario: Scenario, backbone_key: str) -> str:
    """Hash of what determines the network for coded pictures; empty where no lossy format is on offer.

    Whether a picture is a candidate of the search makes no difference: it is a baseline in any case.
    """
    settings, formats = scenario.training, lossy_formats(scenario.space)
    if not formats:
        return ""
    return content_hash({
        "recipe": _RECIPE, "backbone": backbone_key, "formats": [dataclasses.asdict(f) for f in formats],
        "epochs": settings.finetune_epochs, "lr": settings.finetune_lr, "batch": settings.batch_size,
        "seed": scenario.search.seed})


def _coded_backbone(
    scenario: Scenario, data: ImageDataset, backbone: fx.GraphModule, key: str, teacher: Teacher,
    progress: PhaseReporter, cache: Cache, trains: bool,
) -> nn.Module:
    """One network for pictures of all formats: to them what the supernet is to splits."""
    if not trains:
        return backbone
    settings, formats = scenario.training, lossy_formats(scenario.space)
    network = copy.deepcopy(backbone)

    def fit(on_step: Callable[[], None]) -> None:
        train_on_coded_images(network, teacher, formats, Finetuning(data, settings, scenario.search.seed, on_step))

    steps = settings.finetune_epochs * steps_per_epoch(data, settings.batch_size)
    _cached(network, "coded-backbone", key, fit, steps, progress, cache, data.accelerator)
    return network.to(memory_format=torch.channels_last).eval()


def _cached(
    model: nn.Module,
    kind: str,
    key: str,
    fit: Callable[[Callable[[], None]], None],
    steps: int,
    progress: PhaseReporter,
    cache: Cache,
    accelerator: Accelerator,
) -> None:
    """Fill a model's weights from the cache, or train it and put them there."""
    tensors = cache.load(kind, key)
    if tensors is not None:
        with progress.phase(f"{kind}: from the cache"):
            model.load_state_dict(tensors)
        return
    with progress.phase(f"train the {kind}", total=steps) as advance:
        fit(advance)
    cache.save(kind, key, model.state_dict(), {"kind": kind, "computed on": accelerator.name})
