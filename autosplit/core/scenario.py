"""Scenario and SearchSpace: all that a search needs, frozen, validated and serialisable."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from autosplit.core.accelerator import AcceleratorName
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.hashing import content_hash
from autosplit.core.plan import DEFAULT_CODEC, CodecSetting, HeadKind
from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile
from autosplit.core.trust import absolute_code, code_sha256, named_in_file
from autosplit.core.validation import Frozen, first_error, parse_yaml
from autosplit.runtime.standalone.files import read_text
from autosplit.runtime.standalone.payload.image_codecs import ImageKind, missing

__all__ = ["ADDED_KEYS", "IMAGE_KEYS", "OPTIONS", "Granularity", "Scenario", "SearchSettings", "SearchSpace",
           "TrainingSettings", "for_machine", "list_scenarios", "load_scenario", "name_for", "path_in"]


_log = logging.getLogger(__name__)

Granularity = Literal["uniform", "layer"]
"""How heads are pruned: one sparsity for the whole head, or one for each prunable group."""

ADDED_KEYS: dict[str, Any] = {
    "search.granularity": "uniform", "search.policy": None, "search.target": "onnx", "search.max_ram_kb": None,
    "search.max_flash_kb": None, "space.keep": [], "space.round_to": 1,
    "space.rates": 8, "space.heads": ["pruned"],
    "space.injected_encoder": "strided", "space.exits": [], "space.exit_by": ["network"],
    "training.layer_profiles": 32, "training.injected_steps": 400, "training.accelerator": "auto"}
"""Keys that came after the first recorded runs, with their defaults, at which they are as good as absent."""


OPTIONS = {
    "weights": "weights", "image_size": "image_size", "codecs": "codecs", "device": "conditions.device", "edge":
    "conditions.edge", "channel": "conditions.channel", "budget_ms": "conditions.budget_ms", "latency_model":
    "latency_model", "objective": "objective", "agent": "search.agent", "granularity": "search.granularity", "policy":
    "search.policy", "evaluations": "search.evaluations", "finalists": "search.finalists", "target": "search.target",
    "seed": "search.seed", "accelerator": "training.accelerator", "dataset": "dataset", "backbone": "backbone"}
"""What a search takes by a short name, on the command line and in Python, and the key that it sets."""


# parts of the conditions that may be given by name
_PROFILES: dict[str, type[Any]] = {"device": DeviceProfile, "edge": DeviceProfile, "channel": ChannelProfile}


IMAGE_KEYS = ("jpeg_qualities", "webp_qualities", "avif_qualities", "image_downscales")
"""Keys of the search space that are about split point `input` alone."""


_MAY_BE_EMPTY = ("webp_qualities", "avif_qualities", "exits")


class SearchSpace(Frozen):
    """The plans that a search may propose.

    Attributes:
        splits: `blocks` = ends of blocks, `all` = every single-tensor cut, or the names themselves; the two
            ends below come on top.
        whole_on_edge: Whether sending the image (split point `input`) is a candidate.
        whole_on_device: Whether running everything on the device (split point `output`) is a candidate.
        sparsities: Levels of structured pruning of the head.
        keep: Modules of the backbone, by path (`layer1.0`), whose channels are never pruned.
        round_to: Prunable groups keep the nearest multiple of so many channels, or all; 8 suits many kernels.
        heads: Which kinds of heads are offered at split points: `pruned` = the backbone's own layers, `injected` = a
            small network in their place, `reduced` = the backbone's own layers on a picture of half the height and
            width; the whole network on the device may be reduced too.
        injected_encoder: The layers of injected heads: `strided` = autosplit's own, `entropic-student` = those of
            Matsubara et al. 2022, with which `compare` makes that baseline.
        widths: Channels of the code.
        grid_levels: How many halvings of the code's grid are offered, the full grid included; `None` = down to one
            cell.
        bits: Bits of a quantised value before entropy coding.
        rates: How many rates are offered by codecs with a rate in their loss.
        exits: Thresholds that an exit on the device may have: confidences from which on the device answers itself.
            None where it is empty, the default.
        exit_by: By what exits answer: `network` = the whole network on the device, pruned, in front of what is sent;
            `classifier` = a small network on the feature at a split point.
        max_grid: Upper bound of the full code grid's larger side, in cells; `None` = the feature's own size.
        jpeg_qualities: Qualities of JPEG offered at split point `input`, beside PNG.
        webp_qualities: The same of WebP; none where it is empty.
        avif_qualities: The same of AVIF.
        image_downscales: By how much height and width of a lossy image may be divided before.
    """

    splits: Literal["blocks", "all"] | tuple[str, ...] = "blocks"
    whole_on_edge: bool = True
    whole_on_device: bool = True
    sparsities: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.25, 0.5, 0.625, 0.75, 0.875)
    keep: tuple[str, ...] = ()
    round_to: int = Field(default=1, ge=1)
    heads: tuple[HeadKind, ...] = Field(default=("pruned",), min_length=1)
    injected_encoder: Literal["strided", "entropic-student"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32)
    grid_levels: int | None = Field(default=None, ge=1)
    bits: tuple[Annotated[int, Field(ge=1, le=8)], ...] = (2, 4, 6, 8)
    rates: int = Field(default=8, ge=1, le=32)
    exits: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    exit_by: tuple[Literal["network", "classifier"], ...] = Field(default=("network",), min_length=1)
    max_grid: int | None = Field(default=None, ge=1)
    jpeg_qualities: tuple[Annotated[int, Field(ge=1, le=95)], ...] = (10, 30, 50, 75, 90, 95)
    webp_qualities: tuple[Annotated[int, Field(ge=0, le=100)], ...] = (0, 10, 30, 60)
    avif_qualities: tuple[Annotated[int, Field(ge=0, le=100)], ...] = (10, 30, 50, 70)
    image_downscales: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)

    def image_settings(self, *kinds: ImageKind) -> tuple[CodecSetting, ...]:
        """Settings of image formats at split point `input`, those that lose least first.

        WebP is offered at two efforts. AVIF is offered at the least effort alone: at the usual one it takes some ten
        times as long and saves a few per cent (`benchmarks/image_codecs.py`).

        Args:
            kinds: Which formats; those that this Pillow cannot encode are left out.
        """
        found: list[CodecSetting] = []
        for kind in kinds:
            codec = kind.removesuffix("-shared")
            if codec == "png":
                found.append(CodecSetting(kind=kind))
            elif missing(kind) is None:
                qualities: tuple[int, ...] = getattr(self, f"{codec}_qualities")
                efforts = {"jpeg": (None,), "webp": (4, 0), "avif": (0,)}[codec]
                found += [CodecSetting(kind=kind, quality=q, effort=e, downscale=d if d > 1 else None)
                          for d in self.image_downscales for q in reversed(qualities) for e in efforts]
        return tuple(found)

    @property
    def classifier_exits(self) -> tuple[float, ...]:
        """Thresholds of exits by a classifier."""
        return self.exits if "classifier" in self.exit_by else ()

    @property
    def cascade_exits(self) -> tuple[float, ...]:
        """Thresholds of exits by the whole network on the device."""
        return self.exits if "network" in self.exit_by and self.whole_on_device else ()

    @field_validator("sparsities", "widths", "bits", "exits", "jpeg_qualities", "webp_qualities", "avif_qualities",
                     "image_downscales")
    @classmethod
    def _sorted_unique(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        missing_values = not values and info.field_name not in _MAY_BE_EMPTY
        if missing_values or list(values) != sorted(set(values)):
            raise ValueError(f"must be ascending and without repetition, got {list(values)}")
        return values


class TrainingSettings(Frozen):
    """How long and how fast the networks are trained.

    Attributes:
        backbone_epochs: Epochs of the backbone when no weights are given; 0 = it is taken as it is built.
        backbone_lr: Peak learning rate of the backbone (SGD, one-cycle).
        supernet_epochs: Epochs of the supernet.
        supernet_lr: Peak learning rate of the supernet.
        codec_steps: Steps of a codec's own training at each split point, with the backbone frozen, for families that
            have such phases (`nested` has none).
        layer_profiles: Heads with a sparsity of their own in each prunable group that the supernet is trained with at
            each split point, where `search.granularity` is `layer`; with 0 it is the supernet of uniform heads.
        injected_steps: Steps in which each injected head learns to imitate the backbone's feature, before it is trained
            together with everything else.
        finetune_epochs: Epochs of a finalist's fine-tuning (F3).
        finetune_patience: Epochs of fine-tuning without a better validation accuracy after which it ends.
        finetune_lr: Peak learning rate of fine-tuning.
        batch_size: Images of a step; taken in parts where they do not fit into the accelerator's memory.
        accelerator: What networks are trained and measured on: `auto` (a graphics card where PyTorch sees one), `cpu`,
            `cuda` or `mps`. Latencies do not depend on it.
    """

    backbone_epochs: int = Field(default=5, ge=0)
    backbone_lr: float = Field(default=0.2, gt=0)
    supernet_epochs: int = Field(default=3, ge=1)
    supernet_lr: float = Field(default=0.05, gt=0)
    codec_steps: int = Field(default=400, ge=1)
    layer_profiles: int = Field(default=32, ge=0)
    injected_steps: int = Field(default=400, ge=0)
    finetune_epochs: int = Field(default=1, ge=1)
    finetune_patience: int = Field(default=3, ge=1)
    finetune_lr: float = Field(default=0.04, gt=0)
    batch_size: int = Field(default=32, ge=2)
    accelerator: AcceleratorName = "auto"


class SearchSettings(Frozen):
    """How the search spends its measurements.

    Attributes:
        agent: Name of the agent in `autosplit.agents`.
        granularity: `uniform` = one sparsity for the whole head; `layer` = one for each prunable group, in which case
            the supernet is trained with such heads too (`training.layer_profiles`).
        evaluations: Measurements that the search may take, as a total over resumed runs.
        policy: Folder of a trained policy that the search starts from, or `None`.
        finalists: Best feasible plans that are hard-pruned and fine-tuned.
        validation_images: Validation images of one F1 measurement at most; finalists use all of them.
        recalibration_images: Training images that batch-norm statistics are recalibrated on.
        seed: Seed of everything random.
        target: What the device runs: `onnx`, or `c`, the sources that `autosplit export --target c` writes. Only plans
            that can be written as C and that fit into the device's memory are searched then.
        max_ram_kb: Most RAM of a plan written as C, kilobytes of 1,000 bytes; by default what the device profile's
            firmware leaves.
        max_flash_kb: Likewise its flash.
    """

    agent: str = "ppo"
    granularity: Granularity = "uniform"
    evaluations: int = Field(default=100, ge=1)
    policy: str | None = None
    finalists: int = Field(default=3, ge=1)
    validation_images: int = Field(default=1024, ge=1)
    recalibration_images: int = Field(default=256, ge=2)
    seed: int = Field(default=0, ge=0)
    target: Literal["onnx", "c"] = "onnx"
    max_ram_kb: float | None = Field(default=None, gt=0)
    max_flash_kb: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _memory_is_of_c(self) -> SearchSettings:
        for name in ("max_ram_kb", "max_flash_kb"):
            if self.target != "c" and getattr(self, name) is not None:
                raise ValueError(f"search.{name} limits what is written as C; add search.target: c (--target c)")
        return self


class Scenario(Frozen):
    """Backbone, data, search space and conditions: the one object that a search is handed.

    Attributes:
        name: Short name for files and titles.
        backbone: Name in the zoo, `torchvision:<name>`, `timm:<name>`, `hf:<name or folder>`, or
            `path/to/file.py:factory`.
        weights: Path of a safetensors file with the backbone's weights, or `None` to train it.
        dataset: Name of a data set, `image-folder:PATH`, `image-csv:PATH`, `torchvision:CLASS`, `hf:NAME_OR_FOLDER`, or
            `path/to/file.py:function`.
        image_size: Height and width that images of a folder are brought to; `None` = the data set's own.
        codecs: Names of the codec families on offer, such as `nested`, `aecnn`, `bottlenet++`, `jalad`.
        conditions: Device, edge, channel, budget.
        latency_model: Name, `package.module:Name` or `path/to/file.py:Name`.
        objective: Name of the reward in `autosplit.evaluation.objective`.
        space: The plans that may be proposed.
        training: How the networks are trained.
        search: How measurements are spent.
        code: SHA-256 of the files that hold the code which the names above stand for, by name; `anchored` fills it in.
    """

    name: str = Field(default="custom", pattern=r"^[\w.-]+$")
    backbone: str
    weights: str | None = None
    dataset: str
    image_size: int | None = Field(default=None, ge=8)
    codecs: tuple[str, ...] = Field(default=(DEFAULT_CODEC,), min_length=1)
    conditions: Conditions
    latency_model: str = "analytic"
    objective: str = "in-time-accuracy"
    space: SearchSpace = SearchSpace()
    training: TrainingSettings = TrainingSettings()
    search: SearchSettings = SearchSettings()
    code: dict[str, str] = Field(default={}, exclude_if=lambda code: not code)

    @model_validator(mode="after")
    def _uniform_rules(self) -> Scenario:
        if self.search.granularity == "layer" and (self.space.keep or self.space.round_to > 1):
            raise ValueError("space.keep and space.round_to are for heads pruned uniformly; with "
                             "search.granularity: layer leave them away")
        return self

    def __repr_args__(self) -> list[tuple[str, object]]:
        where = self.conditions
        return [("name", self.name), ("backbone", self.backbone), ("dataset", self.dataset),
                ("device", where.device.name), ("channel", where.channel.name), ("budget_ms", where.budget_ms)]

    def to_yaml(self) -> str:
        """The scenario as YAML, profiles written out in full; `Scenario.from_yaml` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, origin: str = "scenario", *, trust_code: bool = False) -> Scenario:
        """Read a scenario.

        Args:
            text: YAML.
            origin: Name of the source for error messages.
            trust_code: Whether code may run that it names and that never ran here.

        Raises:
            ConfigError: No YAML, a missing or unknown key, or a value that makes no sense.
        """
        scenario = parse_yaml(cls, text, origin)
        named_in_file(scenario.model_dump(mode="json"), origin, trust_code=trust_code)
        return scenario

    def replace(self, **changes: Any) -> Scenario:
        """A validated copy with other values; keys may be dotted (`conditions.budget_ms`).

        What lies deeper is set later: `conditions.channel` and one of its parameters may be given together.

        Raises:
            ConfigError: A key does not exist or a value makes no sense.
        """
        data = self.model_dump()
        # keys that were left out must be there to be set
        for name, profile_of in _PROFILES.items():
            data["conditions"][name] = dict.fromkeys(profile_of.model_fields) | data["conditions"][name]
        paths = {tuple(key.replace("__", ".").split(".")): (key, value) for key, value in changes.items()}
        for (*parents, leaf), (key, value) in sorted(paths.items(), key=lambda item: len(item[0])):
            node: Any = data
            for part in parents:
                found, kind = _member(node, part, key), _PROFILES.get(part)
                if isinstance(found, str) and kind is not None:  # a profile that was named is written out to be changed
                    profile: BaseModel = load_profile(kind, found)
                    found = node[part] = dict.fromkeys(kind.model_fields) | profile.model_dump()
                node = found
            _member(node, leaf, key)
            node[leaf] = value
        try:
            return Scenario.model_validate(data)
        except ValidationError as e:
            raise ConfigError(first_error(e)) from e

    def anchored(self, data_root: Path | None = None) -> Scenario:
        """The same scenario with absolute paths and the hashes of the code that it names, as runs record it.

        It means the same from another working directory, and a change of that code is noticed.

        Args:
            data_root: Folder that data sets lie in; the path of an image folder begins there.
        """
        dataset, backbone = _anchored(self.dataset, data_root or Path()), _anchored(self.backbone, Path())
        search, codecs = self.search, tuple(map(absolute_code, self.codecs))
        search = search.model_copy(update={"agent": absolute_code(search.agent),
                                           "policy": search.policy and _absolute(search.policy)})
        backbone, latency_model = absolute_code(backbone), absolute_code(self.latency_model)
        dataset, objective = absolute_code(dataset), absolute_code(self.objective)
        parts = {}
        for part, block in (("device", "timings"), ("edge", "timings"), ("channel", "trace")):
            profile = getattr(self.conditions, part)
            if (named := getattr(profile, block)) is not None:
                anchored = named.model_copy(update={"file": _absolute(named.file)})
                parts[part] = profile.model_copy(update={block: anchored})
        named_code = {spec: code_sha256(spec) for spec in (backbone, latency_model, search.agent, dataset,
                                                             objective, *codecs)}
        return self.model_copy(update={
            "dataset": dataset, "backbone": backbone, "latency_model": latency_model, "search": search,
            "objective": objective,
            "codecs": codecs, "weights": self.weights and _absolute(self.weights),
            "conditions": self.conditions.model_copy(update=parts),
            "code": {spec: sha256 for spec, sha256 in named_code.items() if sha256 is not None}})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the scenario, first 16 hex digits."""
        data = self.model_dump(mode="json")
        # runs that were recorded before a key existed keep their fingerprint while it has its default
        for key, default in ADDED_KEYS.items():
            part, name = key.split(".")
            if data[part][name] == default:
                del data[part][name]
        return content_hash(data)


def name_for(dataset: str, backbone: str) -> str:
    """A scenario's name, made of those of its data and its network: `image-folder:a/photos` is `photos`."""
    parts = []
    for text in (dataset, backbone):
        stem = Path(text.split(":", 1)[-1].split(".py")[0]).name or text
        parts.append("".join(c if c.isalnum() or c in "._" else "-" for c in stem).strip("-.") or "custom")
    return "-".join(parts)


def path_in(name: str) -> tuple[str, Path] | None:
    """The prefix of a name of data or of a network, and the path behind it; `None` where there is no path.

    What follows `hf:` is a path where it is absolute, as runs record it, and else a name of the hub.
    """
    prefix = next((p for p in ("image-folder:", "image-csv:", "hf:") if name.startswith(p)), None)
    path = Path(name.removeprefix(prefix or "")).expanduser()
    return None if prefix is None or name == prefix or (prefix == "hf:" and not path.is_absolute()) else (prefix, path)


def _anchored(name: str, root: Path) -> str:
    """A name of data or of a network with the absolute path of the file or folder in it, if there is one."""
    if name.startswith("hf:") and (folder := root / Path(name.removeprefix("hf:")).expanduser()).is_dir():
        name = f"hf:{_absolute(folder)}"
    found = path_in(name)
    return name if found is None else f"{found[0]}{_absolute(root / found[1])}"


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (links stay what they are)


def _member(node: Any, name: str, key: str) -> Any:
    """What lies at one part of a dotted key."""
    if not isinstance(node, dict):
        raise ConfigError(f"{key}: there is nothing below {key.rpartition('.')[0]!r}; set that itself")
    if name not in node:
        raise UnknownNameError(f"key of a scenario, in {key!r}:", name, node)
    return node[name]


def for_machine(scenario: Scenario, given: Collection[str] = ()) -> Scenario:
    """A scenario with the profile and the latency model that know best what its device is to run.

    Where the target is C: a profile such as `stm32l4r5` has the speed of its vendor's engine; beside it `stm32l4r5-c`
    has that of the C which autosplit writes, and the latency model `instructions` knows it best. A machine whose
    operators were timed is known best by `profiled`.

    Args:
        scenario: With its `search.target`, device and edge.
        given: Dotted keys that the user has set; a latency model among them is left as it is.
    """
    changes: dict[str, Any] = {}
    device, edge = scenario.conditions.device, scenario.conditions.edge
    if scenario.search.target == "c":
        if f"{device.name}-c" in list_profiles(DeviceProfile):
            device = load_profile(DeviceProfile, f"{device.name}-c")
            changes["conditions.device"] = device.model_dump()
        if device.instructions is None and device.timings is None:
            _log.warning("device %r has no profile of C code: predicted latencies are those of another engine",
                         device.name)
    if scenario.latency_model == "analytic" and "latency_model" not in given:
        if scenario.search.target == "c" and device.instructions is not None:
            changes["latency_model"] = "instructions"
        elif device.timings is not None or edge.timings is not None:
            changes["latency_model"] = "profiled"
    return scenario.replace(**changes) if changes else scenario


def list_scenarios() -> list[str]:
    """Names of the scenarios that come with the package, sorted."""
    folder = resources.files("autosplit.configs") / "scenarios"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_scenario(name: str = "default", *, trust_code: bool = False) -> Scenario:
    """Load a scenario by the name of a packaged one, or from the path of a YAML file.

    Args:
        name: The name or the path.
        trust_code: Whether code may run that the file names and that never ran here.

    Raises:
        UnknownNameError: No packaged scenario has this name.
        ConfigError: The file is absent or does not hold a valid scenario.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.exists():
            packaged = f"; the packaged scenario is called {path.stem!r}" if path.stem in list_scenarios() else ""
            raise ConfigError(f"scenario {name!r}: no such file{packaged}")
        return Scenario.from_yaml(read_text(path), name, trust_code=trust_code)
    if name not in list_scenarios():
        files = [file for file in (Path(f"{name}.yaml"), Path(name) / "scenario.yaml") if file.is_file()]
        hint = f"did you mean the file {files[0]}?" if files else ""
        raise UnknownNameError("scenario", name, list_scenarios(), hint)
    file = resources.files("autosplit.configs") / "scenarios" / f"{name}.yaml"
    return Scenario.from_yaml(file.read_text(encoding="utf-8"), name)
