"""`manifest.json`: what a bundle is, and the SHA-256 of every file in it.

The dataclasses here are the format: `autosplit export` writes them, its JSON Schema is made from them, and a device
reads them without pydantic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from ..bundle.rates import Rate, Switching
from ..errors import BundleError

__all__ = ["CHECK", "DEVICE", "EDGE", "FALLBACK", "FORMAT_VERSION", "MANIFEST", "TABLES", "Manifest", "Normalisation",
           "Parity", "Source"]

FORMAT_VERSION: Literal[3] = 3
MANIFEST, DEVICE, EDGE, FALLBACK = "manifest.json", "device.onnx", "edge.onnx", "fallback.onnx"
TABLES, CHECK = "tables.npy", "check.npz"

Kind = Literal["code", "raw", "png", "jpeg", "jpeg-body", "none"]

_CLOSED = {"extra": "forbid"}  # of the JSON Schema


@dataclass(frozen=True)
class Normalisation:
    """What the ONNX files do to uint8 images first: (image / 255 - mean) / std.

    Attributes:
        mean: One a channel.
        std: One a channel.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Parity:
    """How a network in the bundle answers beside the deployment that it was exported from.

    Attributes:
        network: `plan` = device and edge, `rate N` = the same at one of several rates, `fallback` = the whole network
            on the device.
        images: Test images compared.
        labels_equal: Images with the same label.
        payloads_equal: Images with the same payload, byte for byte; all where nothing crosses.
        logit_error: Largest difference of a logit over images with equal payloads.
        tolerance: What `logit_error` was held against.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    network: str
    images: int
    labels_equal: int
    payloads_equal: int
    logit_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether every label is equal and the logits are within the tolerance."""
        return self.labels_equal == self.images and self.logit_error <= self.tolerance


@dataclass(frozen=True)
class Source:
    """What a bundle was made of.

    Attributes:
        scenario: Name of the scenario.
        dataset: Whose test images were compared.
        data_fingerprint: Hash of that data set.
        weights_sha256: Hash of the deployment's weights.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    scenario: str
    dataset: str
    data_fingerprint: str
    weights_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle is.

    Attributes:
        format_version: Of the bundle.
        key: Identifies the deployment, in its payloads too.
        label: The plan in a few words.
        kind: How the tensor at the cut becomes bytes; `none` = nothing crosses.
        quality: Of JPEG, where images cross as such.
        plan: The plan.
        backbone: Name of the network.
        arithmetic: Number format of what runs on the device.
        image_shape: Channels, height, width of an image.
        normalisation: What the networks do to images first.
        class_names: One an output.
        feature_shape: Shape of the tensor at the cut; empty where no feature crosses.
        code_shape: Shape of the code; empty where there is none.
        rates: Settings of the codec, smallest payload first; empty where there is one alone, that of the plan.
        switching: Which rate goes with which link; absent where there are no rates.
        parity: How the bundle answers beside the deployment; empty where it was not compared.
        source: What it was made of, where that is a result file.
        versions: Versions of the libraries that it was made with.
        files: SHA-256 of every other file of the bundle, by its path.
        digest: SHA-256 of everything above, as JSON with sorted keys and without spaces.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    format_version: Literal[3]
    key: str
    label: str
    kind: Kind
    quality: int | None
    plan: dict[str, Any]
    backbone: str
    arithmetic: Literal["fp32", "int8"]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    code_shape: tuple[int, ...]
    rates: tuple[Rate, ...]
    switching: Switching | None
    parity: tuple[Parity, ...]
    source: Source | None
    versions: dict[str, str]
    files: dict[str, str]
    digest: str = ""

    @property
    def num_classes(self) -> int:
        """Outputs of the network."""
        return len(self.class_names)

    @property
    def start(self) -> int:
        """The rate that images are encoded at unless another is asked for; 0 where there are none."""
        return 0 if self.switching is None else self.switching.start

    @property
    def exact(self) -> bool:
        """Whether the device's codes depend on integers alone, so that every machine makes the same payloads."""
        return self.arithmetic == "int8" and self.kind in {"code", "raw"}

    def save(self, folder: Path) -> Manifest:
        """Write the file with its digest.

        Returns:
            What was written.
        """
        sealed = dataclasses.replace(self, digest=_digest(dataclasses.asdict(self)))
        text = json.dumps(dataclasses.asdict(sealed), indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return sealed

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read a bundle's manifest and hold every file against its hash.

        Args:
            folder: The bundle.

        Raises:
            BundleError: No bundle, one of another format version, or a file of it is missing or was altered.
        """
        folder = Path(folder)
        data = _json(folder)
        found = data.get("format_version")
        if found != FORMAT_VERSION:
            raise BundleError(f"{folder}: bundle of format version {found!r}, this runtime reads version "
                              f"{FORMAT_VERSION}; export it again with this autosplit")
        try:
            manifest: Manifest = _value(cls, data, "")
        except ValueError as e:
            raise BundleError(f"{folder / MANIFEST}: {e}; export the bundle again") from e
        if manifest.digest != _digest(data):
            raise BundleError(f"{folder / MANIFEST} was altered (its digest does not fit); export the bundle again")
        for name, sha256 in manifest.files.items():
            _check_file(folder, name, sha256)
        return manifest


def _json(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle (it holds no {MANIFEST}); `autosplit export` makes one")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(f"{path} cannot be read ({' '.join(str(e).split())}); export the bundle again") from e
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the bundle again")
    return data


def _digest(data: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in data.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_file(folder: Path, name: str, sha256: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise BundleError(f"{folder / MANIFEST}: file {name!r} lies outside of the bundle; export it again")
    try:
        content = (folder / name).read_bytes()
    except OSError as e:
        raise BundleError(f"{folder}: file {name!r} is missing or unreadable; copy the whole bundle again") from e
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{folder}: file {name!r} was altered (its hash is not the manifest's); "
                          "copy the whole bundle again")


# --- JSON as dataclasses ---------------------------------------------------------------------------------------------


def _value(kind: Any, data: Any, where: str) -> Any:
    """JSON data as a value of an annotated type; `ValueError` names the field that does not fit."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):  # only with None here
        return None if data is None else _value(arguments[0], data, where)
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{where} is {data!r}, expected one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        return _items(arguments, data, where)
    if origin is dict or dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise ValueError(f"{where} is no object")
        return _fields(kind, data, where) if origin is not dict else {
            name: _value(arguments[1], value, f"{where}.{name}") for name, value in data.items()}
    fits = isinstance(data, (int, float)) if kind is float else isinstance(data, kind)
    if not fits or isinstance(data, bool):
        raise ValueError(f"{where} is {data!r}, expected {kind.__name__}")
    return kind(data)


def _items(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{where} is no list")
    kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(data):
        raise ValueError(f"{where} has {len(data)} entries, expected {len(kinds)}")
    return tuple(_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _fields(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if set(names) != set(data):
        wrong = sorted(set(names) ^ set(data))
        raise ValueError(f"{where or 'the manifest'} lacks, or does not know, {', '.join(wrong)}")
    return kind(**{name: _value(hints[name], data[name], f"{where}.{name}" if where else name) for name in names})
