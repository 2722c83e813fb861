"""What is found of a plan: its workload, its measurement, its outcome.

A *workload* is what is to be computed and sent. A *measurement* is what is true of a plan whatever the link. An
*outcome* joins a measurement with the latency under given conditions. Nothing here may blur that line: a `Measurement`
holds no milliseconds, and a latency model never sees an accuracy.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autosplit.core.answers import Answers
from autosplit.core.operators import TypeSums
from autosplit.core.plan import Exit, Plan
from autosplit.core.validation import Frozen

__all__ = [
    "RESULT_BYTES",
    "STAGE_COUNTS",
    "ExitPoint",
    "Fidelity",
    "LatencySummary",
    "Measurement",
    "Outcome",
    "StageCost",
    "Workload",
]

RESULT_BYTES = 4.0
"""Bytes of the edge's answer: a class number and its confidence."""

Fidelity = Literal["F1", "F2", "F3"]


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
