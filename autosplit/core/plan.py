"""Plan, Measurement, Outcome: the three things a search speaks of.

A *plan* is a candidate. A *measurement* is what is true of it whatever the link. An *outcome* joins a
measurement with the latency under given conditions. Nothing here may blur that line: a `Measurement`
holds no milliseconds, and a latency model never sees an accuracy.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from autosplit.core.answers import Answers
from autosplit.core.operators import TypeSums
from autosplit.core.validation import Frozen
from autosplit.runtime.standalone.payload.image_codecs import EFFORT, IMAGE_KINDS, ImageKind, StoredFormat

__all__ = [
    "DEFAULT_CODEC",
    "INPUT",
    "OUTPUT",
    "RESULT_BYTES",
    "STAGE_COUNTS",
    "CodecSetting",
    "Exit",
    "ExitPoint",
    "Fidelity",
    "HeadKind",
    "LatencySummary",
    "Measurement",
    "Outcome",
    "Plan",
    "StageCost",
    "Workload",
    "place_of",
    "split_of",
]

INPUT = "input"
"""Split point with the whole network on the edge: the device sends the stored image."""

OUTPUT = "output"
"""Split point with the whole network on the device: nothing crosses the channel."""

DEFAULT_CODEC = "nested"
"""The codec that labels leave unnamed."""

RESULT_BYTES = 4.0
"""Bytes of the edge's answer: a class number and its confidence."""

Fidelity = Literal["F1", "F2", "F3"]

HeadKind = Literal["pruned", "injected"]
"""What runs on the device before the encoder: the backbone's own first layers, or a small network in their place."""

_INJECTED = "+injected"

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
    return split if head == "pruned" else f"{split}{_INJECTED}"


def split_of(place: str) -> str:
    """The split point of a place."""
    return place.removesuffix(_INJECTED)


class Exit(Frozen):
    """By what the device answers what it is sure of, so that nothing is sent.

    Attributes:
        threshold: Confidence from which on it answers.
        sparsity: `None` = by a small classifier on the feature at the cut. Else by the whole network on the device,
            with this share of its channels removed, which runs before anything else: a cascade.
    """

    threshold: float = Field(gt=0, lt=1)
    sparsity: float | tuple[float, ...] | None = None

    @property
    def network(self) -> Plan | None:
        """The plan of the whole network on the device, where it is that which answers."""
        return None if self.sparsity is None else Plan(
            split=OUTPUT, sparsity=self.sparsity, codec=CodecSetting(kind="none"))

    @property
    def label(self) -> str:
        """Short text for tables, such as `exit at 90%` or `exit at 90% by the network 50% pruned`."""
        text = f"exit at {self.threshold * 100:g}%"
        pruned = None if self.sparsity is None else _pruned_label(self.sparsity)
        return text if pruned is None else f"{text} by the {f'network {pruned}' if pruned else 'whole network'}"


class Plan(Frozen):
    """One candidate: where to cut, how much of the head to prune, how to code the feature.

    Attributes:
        split: Module path of the split point, or `input` / `output`.
        sparsity: Share of channels removed from every prunable group of the head, in [0, 1); or one share a
            group, in the order of `autosplit.models.pruning.HeadPruner.groups`.
        codec: How the feature at the cut becomes bytes.
        head: What runs on the device: the backbone's own layers, or an injected head in place of those before the
            split point.
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
        if self.head == "injected" and self.codec.kind != "code":
            raise ValueError(f"an injected head needs a code behind it, got a codec of kind {self.codec.kind!r}")
        if self.exit is not None and self.codec.kind == "none":
            raise ValueError("an exit needs something to send behind it, but this plan runs on the device alone")
        if self.exit is not None and self.exit.sparsity is None and not (self.is_split and self.codec.kind == "code"):
            raise ValueError("an exit by a classifier needs a split with a code, "
                             f"got {self.split!r} with {self.codec.kind!r}")
        return self

    @classmethod
    def at(cls, place: str, sparsity: float | tuple[float, ...], codec: CodecSetting) -> Plan:
        """A plan at a place: a split point, with `+injected` behind it for an injected head there."""
        head: HeadKind = "injected" if place.endswith(_INJECTED) else "pruned"
        return cls(split=split_of(place), sparsity=sparsity, codec=codec, head=head)

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
        parts = [self.split] if self.head == "pruned" else [self.split, "injected"]
        if pruned := _pruned_label(self.sparsity):
            parts.append(pruned)
        if self.codec.kind != "none":
            parts.append(self.codec.label)
        if self.exit is not None:
            parts.append(self.exit.label)
        return " | ".join(parts)

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


class StageCost(Frozen):
    """Work of one stage for one inference, independent of the machine that does it.

    Element counts are numbers, not bytes: the device's arithmetic decides how many bytes each takes.

    Attributes:
        conv_macs: Multiply-accumulates of dense and grouped convolutions.
        depthwise_macs: Multiply-accumulates of depthwise convolutions.
        linear_macs: Multiply-accumulates of fully connected layers.
        weight_elements: Parameters read.
        activation_elements: Activation values written by the operators.
        operators: Operators launched (convolution, linear, normalisation, activation, pooling, add ...).
        coded_symbols: Symbols through the entropy coder.
        image_pixels: Pixels through an image encoder or decoder, in those of JPEG (`autosplit.models.image_costs`).
        by_type: What `profiled` predicts the time from, by operator type; absent in files from before it.
    """

    conv_macs: float = Field(default=0.0, ge=0)
    depthwise_macs: float = Field(default=0.0, ge=0)
    linear_macs: float = Field(default=0.0, ge=0)
    weight_elements: float = Field(default=0.0, ge=0)
    activation_elements: float = Field(default=0.0, ge=0)
    operators: int = Field(default=0, ge=0)
    coded_symbols: float = Field(default=0.0, ge=0)
    image_pixels: float = Field(default=0.0, ge=0)
    by_type: TypeSums | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def macs(self) -> float:
        """All multiply-accumulates."""
        return self.conv_macs + self.depthwise_macs + self.linear_macs

    def __add__(self, other: StageCost) -> StageCost:
        counts = {name: getattr(self, name) + getattr(other, name) for name in STAGE_COUNTS}
        if self.by_type is not None and other.by_type is not None:
            return StageCost(**counts, by_type=self.by_type + other.by_type)
        # one of them was measured before sums by type were kept; without operators it has none to be missed
        known, unknown = (self, other) if other.by_type is None else (other, self)
        return StageCost(**counts, by_type=None if unknown.operators else known.by_type)


STAGE_COUNTS = tuple(name for name in StageCost.model_fields if name != "by_type")
"""The plain counts of a `StageCost`."""


class ExitPoint(Frozen):
    """What an exit on the device does.

    Attributes:
        exit: The exit.
        sent: Share of the images that it is not sure of, which are sent.
        exit_accuracy: Accuracy on the images that the device answers; 0 where it answers none.
        sent_accuracy: Accuracy on those that are sent; 0 where none is.
        payload_bytes_mean: Mean payload of the images that are sent.
        payload_bytes_p95: 95th percentile of the same.
        device: Work of the exit itself, which every image pays for.
    """

    exit: Exit
    sent: float = Field(ge=0, le=1)
    exit_accuracy: float = Field(ge=0, le=1)
    sent_accuracy: float = Field(ge=0, le=1)
    payload_bytes_mean: float = Field(ge=0)
    payload_bytes_p95: float = Field(ge=0)
    device: StageCost = StageCost()

    @property
    def accuracy(self) -> float:
        """Accuracy over all images."""
        return (1 - self.sent) * self.exit_accuracy + self.sent * self.sent_accuracy

    def in_time_accuracy(self, in_time: float) -> float:
        """Expected accuracy of an answer within the deadline.

        Args:
            in_time: Share of all images that are answered within it. Those that the device answers are whenever any
                is, as all others take longer.
        """
        if in_time <= 0:
            return 0.0
        left = 1 - self.sent
        return left * self.exit_accuracy + max(0.0, in_time - left) * self.sent_accuracy


class Workload(Frozen):
    """Everything a latency model may know of a plan: the work of each stage and the bytes that cross.

    Attributes:
        plan: The plan this is the work of.
        device: The pruned head, and an exit: what runs for every image.
        encode: Encoder, quantiser and range coder, or the image encoder, on the device; in a cascade the head too.
        edge: Decoder and tail on the edge server.
        payload_bytes_mean: Mean payload over images; 0 when nothing crosses.
        payload_bytes_p95: 95th percentile of the payload over images.
        result_bytes: Bytes of the answer on the downlink; 0 when nothing crosses.
        sent: Share of the images that are sent; of the others the latency ends on the device. Payloads are those of
            the images that are sent. A latency model may leave it out of account (`autosplit.latency.exits`).
    """

    plan: Plan
    device: StageCost = StageCost()
    encode: StageCost = StageCost()
    edge: StageCost = StageCost()
    payload_bytes_mean: float = Field(default=0.0, ge=0)
    payload_bytes_p95: float = Field(default=0.0, ge=0)
    result_bytes: float = Field(default=0.0, ge=0)
    sent: float = Field(default=1.0, ge=0, le=1, exclude_if=lambda value: value == 1.0)

    def with_exit(self, point: ExitPoint) -> Workload:
        """The work of the same plan with an exit.

        A classifier sits behind the head, which every image runs through. In a cascade the whole network comes first,
        and head and encoder run for what is sent alone.
        """
        cascade = point.exit.network is not None
        return self.model_copy(update={
            "plan": self.plan.model_copy(update={"exit": point.exit}),
            "device": point.device if cascade else self.device + point.device,
            "encode": self.device + self.encode if cascade else self.encode, "sent": point.sent,
            "payload_bytes_mean": point.payload_bytes_mean, "payload_bytes_p95": point.payload_bytes_p95})


class Measurement(Frozen):
    """What is true of a plan whatever device, channel or budget.

    Attributes:
        plan: The plan that was measured.
        accuracy: Top-1 accuracy in [0, 1] on `images` validation images, by whichever end answered.
        workload: Work of each stage and the measured payload bytes.
        feature_bytes: Size of the fp32 tensor at the cut (of the raw image for `input`; 0 for `output`).
        fidelity: F1 = supernet with recalibrated batch norm, F2 = short fine-tune, F3 = full fine-tune.
        images: Images the accuracy was measured on.
        seconds: Wall time that the measurement took.
        answers: Which images were classified right, where the plan ran as a deployment (F3).
        exits: What an exit would do at each threshold on offer, where the plan has none; its own alone where it has
            one. Empty where exits are not on offer.
    """

    plan: Plan
    accuracy: float = Field(ge=0, le=1)
    workload: Workload
    feature_bytes: float = Field(default=0.0, ge=0)
    fidelity: Fidelity = "F1"
    images: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    answers: Answers | None = Field(default=None, exclude_if=lambda value: value is None)
    exits: tuple[ExitPoint, ...] = Field(default=(), exclude_if=lambda value: not value)

    @property
    def variants(self) -> list[Measurement]:
        """The measurement as it is, and what it says about the same plan with each exit on offer."""
        return [self] + ([] if self.plan.exit is not None else [self._with_exit(point) for point in self.exits])

    def _with_exit(self, point: ExitPoint) -> Measurement:
        work = self.workload.with_exit(point)
        return self.model_copy(update={"plan": work.plan, "accuracy": point.accuracy, "workload": work,
                                       "answers": None, "exits": (point,)})

    @property
    def compression_ratio(self) -> float | None:
        """fp32 feature bytes over mean payload bytes (of what is sent); `None` when nothing crosses the channel."""
        payload = self.workload.payload_bytes_mean
        return self.feature_bytes / payload if payload > 0 else None


class LatencySummary(Frozen):
    """Latency of one plan under one set of conditions; milliseconds and millijoules.

    Attributes:
        device_ms: Head on the device, median.
        encode_ms: Encoder, quantiser and coder on the device, median.
        uplink_ms: Channel access, transmission and retransmission, median.
        edge_ms: Decoder and tail on the edge, median.
        downlink_ms: Answer back to the device, median.
        p50_ms: Median of the end-to-end latency.
        p95_ms: 95th percentile of the end-to-end latency, at least `p50_ms`.
        in_time: Probability in [0, 1] that the latency is within the budget.
        energy_mj: Energy the device spends on one inference; the sum of the four below.
        p99_ms: 99th percentile of the end-to-end latency, at least `p95_ms`; like the energies below absent in files
            from before it.
        compute_mj: Energy of head and encoder.
        transmit_mj: Energy while the payload is on the air.
        wait_mj: Energy while waiting: for the channel, for retransmissions, for edge and answer.
        tail_mj: Energy of the radio that stays powered after the last transfer.
    """

    device_ms: float
    encode_ms: float
    uplink_ms: float
    edge_ms: float
    downlink_ms: float
    p50_ms: float
    p95_ms: float
    in_time: float
    energy_mj: float
    p99_ms: float | None = None
    compute_mj: float | None = None
    transmit_mj: float | None = None
    wait_mj: float | None = None
    tail_mj: float | None = None

    def __repr_args__(self) -> list[tuple[str, object]]:
        return [(name, float(f"{getattr(self, name):.4g}")) for name in ("p50_ms", "p95_ms", "in_time", "energy_mj")]


class Outcome(Frozen):
    """A measurement joined with its latency and reward under one set of conditions.

    Attributes:
        measurement: What was measured.
        latency: What the latency model says.
        budget_ms: The budget it was held against.
        reward: The objective's value; higher is better.
    """

    measurement: Measurement
    latency: LatencySummary
    budget_ms: float
    reward: float

    def __repr_args__(self) -> list[tuple[str, object]]:
        # All fields would fill a screen; these are what one asks of a plan.
        return [("plan", self.plan.label), ("accuracy", round(self.measurement.accuracy, 4)),
                ("p95_ms", round(self.latency.p95_ms, 2)), ("budget_ms", self.budget_ms),
                ("reward", round(self.reward, 4))]

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.measurement.plan

    @property
    def feasible(self) -> bool:
        """Whether the 95th percentile of the latency is within the budget."""
        return self.latency.p95_ms <= self.budget_ms
