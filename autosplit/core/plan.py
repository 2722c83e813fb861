"""Plan: a candidate of a search, one way to run a network on device and edge.

What is found of it is in `autosplit.core.measurement`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from autosplit.core.validation import Frozen
from autosplit.runtime.standalone.payload.image_codecs import EFFORT, IMAGE_KINDS, ImageKind, StoredFormat

__all__ = [
    "DEFAULT_CODEC",
    "HEADS",
    "INPUT",
    "OUTPUT",
    "REDUCED_BY",
    "CodecSetting",
    "Exit",
    "HeadKind",
    "Plan",
    "head_of",
    "place_of",
    "split_of",
]

INPUT = "input"
"""Split point with the whole network on the edge: the device sends the stored image."""

OUTPUT = "output"
"""Split point with the whole network on the device: nothing crosses the channel."""

DEFAULT_CODEC = "nested"
"""The codec that labels leave unnamed."""

HeadKind = Literal["pruned", "injected", "reduced"]
"""What runs on the device before the encoder: the backbone's own first layers, a small network in their place, or the
first layers on a picture of half the height and width."""

REDUCED_BY = 2
"""What height and width of the picture are divided by in front of a reduced head."""

HEADS: tuple[HeadKind, ...] = get_args(HeadKind)
"""All kinds of heads."""

_BETWEEN = "+"  # split point and kind of head in the name of a place
_ABOUT_HEADS: dict[HeadKind, str] = {"pruned": "", "injected": "injected", "reduced": f"picture at 1/{REDUCED_BY}"}
_BEHIND: dict[HeadKind, set[str]] = {"injected": {"code"}, "reduced": {"code", "none"}}

_NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "png": "PNG"}
_CODEC_FIELDS = {"code": {"family", "width", "grid", "bits"}, "jpeg": {"quality"}, "jpeg-shared": {"quality"},
                 **{kind: {"quality", "effort"} for kind in ("webp", "webp-shared", "avif", "avif-shared")}}


class CodecSetting(Frozen):
    """How the tensor at the cut becomes bytes.

    Attributes:
        kind: `code` = a codec (encoder, quantiser, range coder); `raw` = the fp32 feature as it is; `none` = nothing is
            sent (`output`). At split point `input` only: `png`, `jpeg`, `webp`, `avif` = the stored image, with
            `-shared` the file without what all files of its size and quality share; `file` = the user's own file as
            it is.
        family: Name of the codec (`code` only).
        width: Channels of the code (`code` only).
        grid: Height of the code in cells (`code` only); 1 for a feature without spatial extent.
        bits: Bits a quantised value has before entropy coding (`code` only).
        rate: Number of a rate, 0 for the fewest bytes, of codecs that were trained for several (`code` only).
        quality: Of a lossy image format: 1 to 95 of JPEG, 0 to 100 of WebP and AVIF.
        effort: What the encoder of WebP or AVIF does to save bytes, 0 (least) to 6.
        downscale: By how much height and width of a lossy image are divided before; 1 when left out.
    """

    kind: Literal["code", "raw", ImageKind, "file", "none"]
    family: str | None = None
    width: int | None = Field(default=None, ge=1)
    grid: int | None = Field(default=None, ge=1)
    bits: int | None = Field(default=None, ge=1, le=8)
    rate: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    quality: int | None = Field(default=None, ge=0, le=100)
    effort: int | None = Field(default=None, ge=0, le=6, exclude_if=lambda value: value is None)
    downscale: int | None = Field(default=None, ge=2, exclude_if=lambda value: value is None)

    @model_validator(mode="before")
    @classmethod
    def _default_family(cls, data: Any) -> Any:
        # a code without a family is one of the default codec
        if isinstance(data, dict) and data.get("kind") == "code" and data.get("family") is None:
            return {**data, "family": DEFAULT_CODEC}
        return data

    @model_validator(mode="after")
    def _fields_of_kind(self) -> CodecSetting:
        wanted = _CODEC_FIELDS.get(self.kind, set())
        fields = ("family", "width", "grid", "bits", "rate", "quality", "effort", "downscale")
        given = {n for n in fields if getattr(self, n) is not None}
        optional = {"downscale"} if "quality" in wanted else {"rate"} if "family" in wanted else set()
        if given - optional != wanted:
            raise ValueError(f"codec kind {self.kind!r} takes {sorted(wanted) or 'no further fields'}, "
                             f"got {sorted(given) or 'none'}")
        if self.kind.startswith("jpeg") and not 1 <= (self.quality or 0) <= 95:
            raise ValueError(f"JPEG quality must lie in 1..95, got {self.quality}")
        return self

    @property
    def stored_format(self) -> StoredFormat:
        """The image format at split point `input`.

        Raises:
            ConfigError: What crosses is no image that is encoded here.
        """
        return StoredFormat(self.kind, 0 if self.quality is None else self.quality,
                            EFFORT if self.effort is None else self.effort, self.downscale or 1)

    @property
    def image(self) -> bool:
        """Whether what crosses is a picture that is encoded."""
        return self.kind in IMAGE_KINDS

    @property
    def label(self) -> str:
        """Short text for tables, such as `8ch 4x4 2b`, `aecnn 2ch 8x8 4b` or `WebP q10 at 1/2 with shared tables`."""
        if self.kind == "code":
            family = "" if self.family == DEFAULT_CODEC else f"{self.family} "
            fineness = f"{self.bits}b" if self.rate is None else f"rate {self.rate}"
            return f"{family}{self.width}ch {self.grid}x{self.grid} {fineness}"
        if not self.image:
            return self.kind
        codec, _, shared = self.kind.partition("-")
        parts = [_NAMES[codec]]
        if self.quality is not None:
            parts.append(f"q{self.quality}")
        if self.effort not in (None, EFFORT):
            parts.append(f"effort {self.effort}")
        if self.downscale is not None:
            parts.append(f"at 1/{self.downscale}")
        return " ".join(parts) + (" with shared tables" if shared else "")


def place_of(split: str, head: HeadKind) -> str:
    """Split point and kind of head as one name; see `Plan.place`."""
    return split if head == "pruned" else f"{split}{_BETWEEN}{head}"


def split_of(place: str) -> str:
    """The split point of a place."""
    return _apart(place)[0]


def head_of(place: str) -> HeadKind:
    """The kind of head of a place."""
    return _apart(place)[1]


def _apart(place: str) -> tuple[str, HeadKind]:
    for head in HEADS:
        if place.endswith(_BETWEEN + head):
            return place.removesuffix(_BETWEEN + head), head
    return place, "pruned"


class Exit(Frozen):
    """By what the device answers what it is sure of, so that nothing is sent.

    Attributes:
        threshold: Confidence from which on it answers.
        sparsity: `None` = by a small classifier on the feature at the cut. Else by the whole network on the device,
            with this share of its channels removed, which runs before anything else: a cascade.
        head: Whether that network sees a smaller picture.
    """

    threshold: float = Field(gt=0, lt=1)
    sparsity: float | tuple[float, ...] | None = None
    head: Literal["pruned", "reduced"] = Field(default="pruned", exclude_if=lambda value: value == "pruned")

    @classmethod
    def by(cls, device: Plan, threshold: float) -> Exit:
        """An exit by the whole network on the device, given as the plan that runs it."""
        head: Literal["pruned", "reduced"] = "reduced" if device.head == "reduced" else "pruned"
        return cls(threshold=threshold, sparsity=device.sparsity, head=head)

    @property
    def network(self) -> Plan | None:
        """The plan of the whole network on the device, where it is that which answers."""
        return None if self.sparsity is None else Plan(
            split=OUTPUT, sparsity=self.sparsity, codec=CodecSetting(kind="none"), head=self.head)

    @property
    def label(self) -> str:
        """Short text for tables, such as `exit at 90%` or `exit at 90% by the network 50% pruned`."""
        text = f"exit at {self.threshold * 100:g}%"
        if self.sparsity is None:
            return text
        pruned = _pruned_label(self.sparsity)
        network = f"network {pruned}" if pruned else "whole network"
        return ", ".join(filter(None, [f"{text} by the {network}", _ABOUT_HEADS[self.head]]))


class Plan(Frozen):
    """One candidate: where to cut, how much of the head to prune, how to code the feature.

    Attributes:
        split: Module path of the split point, or `input` / `output`.
        sparsity: Share of channels removed from every prunable group of the head, in [0, 1); or one share a
            group, in the order of `autosplit.models.pruning.HeadPruner.groups`.
        codec: How the feature at the cut becomes bytes.
        head: What runs on the device: the backbone's own layers, an injected head in place of those before the
            split point, or the backbone's layers on a smaller picture.
        exit: By what the device answers what it is sure of; `None` = everything is sent.
    """

    split: str
    sparsity: float | tuple[float, ...] = 0.0
    codec: CodecSetting
    head: HeadKind = Field(default="pruned", exclude_if=lambda value: value == "pruned")
    exit: Exit | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        levels = self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)
        if not all(0.0 <= s < 1.0 for s in levels):
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        allowed = {INPUT: {*IMAGE_KINDS, "file"}, OUTPUT: {"none"}}.get(self.split, {"code", "raw"})
        if self.codec.kind not in allowed:
            raise ValueError(f"split {self.split!r} takes a codec of kind {sorted(allowed)}, "
                             f"got {self.codec.kind!r}")
        behind = _BEHIND.get(self.head)
        if behind is not None and self.codec.kind not in behind:
            raise ValueError(f"head {self.head!r} takes a codec of kind {sorted(behind)} behind it, "
                             f"got {self.codec.kind!r}")
        if self.exit is not None and self.codec.kind == "none":
            raise ValueError("an exit needs something to send behind it, but this plan runs on the device alone")
        if self.exit is not None and self.exit.sparsity is None and not (self.is_split and self.codec.kind == "code"):
            raise ValueError("an exit by a classifier needs a split with a code, "
                             f"got {self.split!r} with {self.codec.kind!r}")
        return self

    @classmethod
    def at(cls, place: str, sparsity: float | tuple[float, ...], codec: CodecSetting) -> Plan:
        """A plan at a place: a split point, with `+injected` or `+reduced` behind it for such a head there."""
        split, head = _apart(place)
        return cls(split=split, sparsity=sparsity, codec=codec, head=head)

    @property
    def place(self) -> str:
        """Split point and kind of head as one name, as `Plan.at` takes it: what the network's parts are known by."""
        return place_of(self.split, self.head)

    def __repr_args__(self) -> list[tuple[None, object]]:
        return [(None, self.label)]

    @property
    def label(self) -> str:
        """Short text for tables, such as `layer1 | 50% pruned | 8ch 4x4 2b` or `input | JPEG q75`.

        Plans pruned by layer show the mean over the groups: `layer1 | 43% pruned by layer | 8ch 4x4 2b`.
        """
        parts = [self.split, _ABOUT_HEADS[self.head], _pruned_label(self.sparsity),
                 "" if self.codec.kind == "none" else self.codec.label, "" if self.exit is None else self.exit.label]
        return " | ".join(filter(None, parts))

    @property
    def lossless(self) -> bool:
        """Whether it leaves the backbone as it is: nothing is pruned, and what crosses is exact."""
        whole = not any(self.sparsity) if isinstance(self.sparsity, tuple) else self.sparsity == 0
        return whole and self.head == "pruned" and self.codec.kind in {"none", "raw", "png", "file"}

    @property
    def is_cascade(self) -> bool:
        """Whether the whole network runs on the device first, and what it is not sure of is sent."""
        return self.exit is not None and self.exit.sparsity is not None

    @property
    def is_split(self) -> bool:
        """Whether both sides run a part of the network."""
        return self.split not in (INPUT, OUTPUT)

    @property
    def as_trained(self) -> Plan:
        """The plan whose networks this one uses.

        What both ends leave out of an image file changes no picture, and an exit is fitted to a head and a tail that do
        not know of it.
        """
        if not self.codec.kind.endswith("-shared"):
            return self.without_exit
        codec = self.codec.model_copy(update={"kind": self.codec.kind.removesuffix("-shared")})
        return self.model_copy(update={"codec": codec, "exit": None})

    @property
    def without_exit(self) -> Plan:
        """The same plan where everything is sent."""
        return self if self.exit is None else self.model_copy(update={"exit": None})


def _pruned_label(sparsity: float | tuple[float, ...]) -> str:
    if isinstance(sparsity, tuple):
        return f"{sum(sparsity) / max(1, len(sparsity)) * 100:.0f}% pruned by layer"
    return f"{sparsity * 100:g}% pruned" if sparsity > 0 else ""

