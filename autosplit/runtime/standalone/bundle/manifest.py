"""`manifest.json`: what a bundle is, and the SHA-256 of every file in it.

The dataclasses here are the format: `autosplit export` writes them, its JSON Schema is made from them, and a device
reads them without pydantic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from ..bundle.rates import Rate, Switching
from ..bundle.typed_json import value_of
from ..control.record import ControllerRecord
from ..errors import BundleError, ConfigError
from ..files import file_sha256, read_json
from ..payload.header import MAX_RATES
from ..payload.image_codecs import EFFORT, IMAGE_KINDS, ImageKind, StoredFormat

__all__ = ["CHECK", "DEVICE", "EDGE", "ENCODER", "EXIT", "FALLBACK", "FORMAT_VERSION", "MANIFEST", "TABLES", "Exit",
           "Manifest", "Normalisation", "Parity", "Source", "digest_of"]

FORMAT_VERSION: Literal[7] = 7
MANIFEST, DEVICE, EDGE, FALLBACK = "manifest.json", "device.onnx", "edge.onnx", "fallback.onnx"
ENCODER, EXIT = "encoder.onnx", "exit.onnx"
TABLES, CHECK = "tables.npy", "check.npz"

Kind = Literal["code", "raw", ImageKind, "none"]

_MOST_VALUES = 1 << 28  # of an image, a feature or a code
_CLOSED = {"extra": "forbid"}  # of the JSON Schema


@dataclass(frozen=True)
class Normalisation:
    """What the ONNX files do to uint8 images first: (image / 255 - mean) / std.

    Attributes:
        mean: One per channel.
        std: One per channel.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Exit:
    """By what the device answers what it is sure of: `exit.onnx`.

    Attributes:
        threshold: Confidence from which on it answers and sends nothing.
        takes: `feature` = what `device.onnx` gives; `images` = the images themselves, before anything else runs.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    threshold: float
    takes: Literal["images", "feature"]


@dataclass(frozen=True)
class Parity:
    """How a network in the bundle answers beside the deployment that it was exported from.

    Attributes:
        network: `plan` = device and edge, `rate N` = the same at one of several rates, `fallback` = the whole network
            on the device; with `C` before it, the C sources beside the bundle itself.
        images: Test images compared.
        labels_equal: Images with the same label.
        payloads_equal: Images with the same payload, byte for byte; all where nothing crosses.
        logit_error: Largest difference of a logit over images with equal payloads.
        tolerance: Largest `logit_error` that is accepted.
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
    """Where a bundle comes from.

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
class Footprint:
    """Memory that the C sources of a bundle take on a microcontroller, beside the firmware's own.

    Attributes:
        static_bytes: Of RAM, for all tensors of the networks, the logits among them.
        payload_bytes: Of RAM, the longest payload.
        constant_bytes: Of flash, weights and tables; the code is about 15 kB more.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    static_bytes: int
    payload_bytes: int
    constant_bytes: int

    @property
    def text(self) -> str:
        """For people."""
        ram_bytes = self.static_bytes + self.payload_bytes
        return (f"RAM {ram_bytes / 1000:.1f} kB, flash {self.constant_bytes / 1000:.1f} kB for weights and tables and "
                "about 15 kB for code")


@dataclass(frozen=True)
class Manifest:
    """What a bundle is.

    Attributes:
        format_version: Of the bundle.
        key: Identifies the deployment, in its payloads too.
        label: The plan in a few words.
        kind: How the tensor at the cut becomes bytes; `none` = nothing crosses.
        quality: Of a lossy image format, where images cross as such.
        effort: Of its encoder, where it has a choice.
        downscale: By how much height and width of the image are divided before; absent where they are not.
        plan: The plan.
        backbone: Name of the network.
        arithmetic: Number format of what runs on the device.
        image_shape: Channels, height, width of an image.
        normalisation: What the networks do to images first.
        class_names: One per output.
        feature_shape: Shape of the tensor at the cut; empty where no feature crosses.
        code_shape: Shape of the code; empty where there is none.
        exit: By what the device answers what it is sure of; absent where everything is sent.
        rates: Settings of the codec, smallest payload first; empty where there is one alone, that of the plan.
        switching: Which rate to use on which link; absent where there are no rates.
        parity: How the bundle answers beside the deployment; empty where it was not compared.
        source: The result that it was made from, if any.
        versions: Versions of the libraries that it was made with.
        opset: Version of ONNX's operators in its networks.
        footprint: Of its C sources, where it has any.
        controller: What decides over each picture of a stream, where it has been given one.
        files: SHA-256 of every other file of the bundle, by its path.
        digest: SHA-256 of everything above, as JSON with sorted keys and without spaces.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    format_version: Literal[7]
    key: str
    label: str
    kind: Kind
    quality: int | None
    effort: int | None
    downscale: int | None
    plan: dict[str, Any]
    backbone: str
    arithmetic: Literal["fp32", "int8"]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    code_shape: tuple[int, ...]
    exit: Exit | None
    rates: tuple[Rate, ...]
    switching: Switching | None
    parity: tuple[Parity, ...]
    source: Source | None
    versions: dict[str, str]
    files: dict[str, str]
    opset: int = 20
    footprint: Footprint | None = None
    controller: ControllerRecord | None = None
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
    def stored_format(self) -> StoredFormat:
        """The image format, where images cross as such.

        Raises:
            ConfigError: Something else crosses, or a number is outside of its range.
        """
        return StoredFormat(self.kind, 0 if self.quality is None else self.quality,
                            EFFORT if self.effort is None else self.effort, self.downscale or 1)

    @property
    def exact(self) -> bool:
        """Whether the device's codes depend on integers alone, so that every machine makes the same payloads."""
        return self.arithmetic == "int8" and self.kind in {"code", "raw"}

    def save(self, folder: Path) -> Manifest:
        """Write the file with its digest.

        Returns:
            What was written.
        """
        sealed = dataclasses.replace(self, digest=digest_of(dataclasses.asdict(self)))
        text = json.dumps(dataclasses.asdict(sealed), indent=2, ensure_ascii=False)
        # whole or not at all, and last: a bundle without it is none
        draft = folder / f".{MANIFEST}.tmp"
        with draft.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MANIFEST)
        return sealed

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read a bundle's manifest and check the hash of every file.

        Args:
            folder: The bundle.

        Raises:
            BundleError: No bundle, one of another format version, or a file of it is missing or was altered.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not os.path.lexists(path):
            raise BundleError(f"{folder} is no bundle (it holds no {MANIFEST}); `autosplit export` makes one")
        data = read_json(path, error=BundleError)
        if not isinstance(data, dict):
            raise BundleError(f"{path}: not a JSON object; export the bundle again")
        found = data.get("format_version")
        if found != FORMAT_VERSION:
            raise BundleError(f"{folder}: bundle of format version {found!r}, this runtime reads version "
                              f"{FORMAT_VERSION}; export it again with this autosplit")
        try:
            manifest: Manifest = value_of(cls, data, "")
        except ValueError as e:
            raise BundleError(f"{folder / MANIFEST}: {e}; export the bundle again") from e
        # of the data and not of the dataclass, so that nothing that was read differently can slip through
        if manifest.digest != digest_of(data):
            raise BundleError(f"{folder / MANIFEST} was altered (its digest does not fit); export the bundle again")
        fault = _fault(manifest)
        if fault:
            raise BundleError(f"{folder / MANIFEST}: {fault}; export the bundle again")
        for name, sha256 in manifest.files.items():
            _check_file(folder, name, sha256)
        return manifest


def _fault(manifest: Manifest) -> str:
    """What does not go together in a manifest whose fields all have the right types; empty where everything does."""
    codes: list[tuple[int, ...]] = [rate.code_shape for rate in manifest.rates] or [manifest.code_shape]
    shapes = {"image_shape": manifest.image_shape, "feature_shape": manifest.feature_shape,
              **{f"code_shape of rate {i}": shape for i, shape in enumerate(codes)}}
    for name, shape in shapes.items():
        if any(n < 1 for n in shape) or math.prod(shape) > _MOST_VALUES:
            return f"{name} is {shape}"
    if manifest.kind == "code" and any(len(shape) != 3 for shape in codes):
        return "a code has channels, height and width"
    if not manifest.class_names:
        return "class_names is empty"
    if manifest.kind in IMAGE_KINDS:
        try:
            _ = manifest.stored_format  # checks its numbers
        except ConfigError as e:
            return str(e)
    leaving = manifest.exit
    if leaving is not None and (not 0 < leaving.threshold < 1 or manifest.rates or manifest.kind == "none" or (
            leaving.takes == "feature" and manifest.kind != "code")):
        return f"exit by {leaving.takes} at {leaving.threshold} does not go with kind {manifest.kind!r} or with rates"
    switching, rates = manifest.switching, len(manifest.rates)
    if (switching is None) != (not rates) or rates > MAX_RATES or (rates and manifest.kind != "code"):
        return f"{rates} rates do not go with kind {manifest.kind!r}, or with their switching"
    if switching is not None:
        numbers = [switching.start, *(number for row in switching.picks for number in row)]
        if not all(0 <= number < rates for number in numbers):
            return f"switching names a rate that is none of the {rates}"
        size = (len(switching.uplink_kbps), len(switching.delays_ms))
        if 0 in size or [len(row) for row in switching.picks] != [size[1]] * size[0]:
            return f"switching.picks is no table of {size[0]} rows with {size[1]} entries each"
    return "" if manifest.controller is None else manifest.controller.fault(rates, manifest.files)


def digest_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's fields but its digest, as JSON with sorted keys and without spaces."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_file(folder: Path, name: str, sha256: str) -> None:
    # first the name: a manifest from elsewhere must not make us read files outside of its bundle
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or Path(name).drive:
        raise BundleError(f"{folder / MANIFEST}: file {name!r} lies outside of the bundle; export it again")
    if not os.path.lexists(folder / name):
        raise BundleError(f"{folder}: file {name!r} is missing; copy the whole bundle again")
    if file_sha256(folder / name, f"{folder}: file {name!r}", error=BundleError) != sha256:
        raise BundleError(f"{folder}: file {name!r} was altered (its hash is not the manifest's); "
                          "copy the whole bundle again")
