"""Ways to deploy one network side by side: a row each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from autosplit.core.measurement import ExitPoint, LatencySummary
from autosplit.core.plan import INPUT, OUTPUT

__all__ = ["CHOSEN", "FINALIST", "OWN_FILES", "ComparisonRow", "best_baseline", "best_split", "quickest_baseline"]

CHOSEN, FINALIST = "autosplit", "finalist"
"""Methods of the rows that are no baselines: the deployment that the search chose, and its other finalists."""

OWN_FILES = "file"
"""Method of the baseline that sends the user's own files as they are: it is shown, and never chosen."""

# Speed-ups are against baselines that keep the accuracy: being faster than one that guesses would mean nothing.
_MOST_LOSS_POINTS = 1.0


class ComparisonRow(BaseModel):
    """One way to deploy the network, as one line of the comparison.

    Attributes:
        name: What it is, such as `whole network on device`, `JPEG q75` or `autosplit`.
        plan: Label of the plan.
        accuracy: Top-1 accuracy on the test set, in [0, 1].
        accuracy_loss_points: Accuracy of the unsplit backbone minus this one's, percentage points.
        payload_bytes: Mean bytes over the channel; 0 when nothing crosses.
        ratio_to_feature: fp32 feature bytes over payload bytes; `None` when nothing crosses.
        ratio_to_png: Bytes of the image as PNG over payload bytes; `None` when nothing crosses.
        ratio_to_jpeg: Bytes of the image as the JPEG of the comparison over payload bytes; `None` when nothing crosses.
        device_macs: Multiply-accumulates on the device, encoder included.
        latency: Latency and energy under the scenario's conditions.
        feasible: Whether the 95th percentile of the latency is within the budget.
        speed_up: p95 latency of the quickest baseline that loses at most one point over this one's; `None` where there
            is no such baseline.
        chosen: Whether this is the plan that the search chose.
        method: Short name of the baseline, such as `png` or `raw`; `autosplit`, or `finalist` for what the search
            measured as well and did not choose.
        accuracy_low: Lower end of the accuracy's 95 % interval; like all below absent in files from before it.
        accuracy_high: Its upper end.
        difference_points: Accuracy minus that of the chosen plan, percentage points.
        difference_low_points: Lower end of its 95 % interval, the two deployments paired on the same images.
        difference_high_points: Its upper end.
        balanced_accuracy: Mean recall of the classes.
        least_recall: The lowest of them.
        exit: What the plan's exit on the device does; `None` where it has none.
        ram_bytes: RAM of the device's side as C; `None` where it is not to be C, or cannot be.
        flash_bytes: Its flash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    plan: str
    accuracy: float = Field(ge=0, le=1)
    accuracy_loss_points: float
    payload_bytes: float = Field(ge=0)
    ratio_to_feature: float | None = None
    ratio_to_png: float | None = None
    ratio_to_jpeg: float | None = None
    device_macs: float = Field(ge=0)
    latency: LatencySummary
    feasible: bool
    speed_up: float | None = None
    chosen: bool = False
    method: str = ""
    accuracy_low: float | None = Field(default=None, ge=0, le=1)
    accuracy_high: float | None = Field(default=None, ge=0, le=1)
    difference_points: float | None = None
    difference_low_points: float | None = None
    difference_high_points: float | None = None
    balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    least_recall: float | None = Field(default=None, ge=0, le=1)
    exit: ExitPoint | None = Field(default=None, exclude_if=lambda value: value is None)
    ram_bytes: int | None = Field(default=None, exclude_if=lambda value: value is None)
    flash_bytes: int | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def baseline(self) -> bool:
        """Whether it is a baseline, and not something that the search found."""
        return not self.chosen and self.method != FINALIST

    @property
    def is_split(self) -> bool:
        """Whether both sides run a part of the network, and a codec lies between them; a cascade is none."""
        split = self.plan.partition(" | ")[0]
        return split not in (INPUT, OUTPUT) and not self.baseline and not self.is_cascade

    @property
    def is_cascade(self) -> bool:
        """Whether the whole network runs on the device first, and what it is not sure of is sent."""
        return self.exit is not None and self.exit.exit.network is not None

    @property
    def in_time_accuracy(self) -> float:
        """Expected accuracy of an answer within the budget: accuracy times the probability of being in time.

        With an exit, the images that leave by it count with the accuracy that it has on them.
        """
        if self.exit is not None:
            return self.exit.in_time_accuracy(self.latency.in_time)
        return self.accuracy * self.latency.in_time


def quickest_baseline(rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """The baseline that speed-ups refer to: the one of the lowest p95 latency among those that lose at most one point.

    Args:
        rows: A comparison.
    """
    accurate = [row for row in rows if row.baseline and row.accuracy_loss_points <= _MOST_LOSS_POINTS]
    return min(accurate, key=lambda row: row.latency.p95_ms, default=None)


def best_split(rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """The best split that the search found: the chosen plan, or the first of its other finalists.

    Args:
        rows: A comparison, in its order: the finalists by what they were chosen by.
    """
    return next((row for row in sorted(rows, key=lambda r: not r.chosen) if row.is_split), None)


def best_baseline(rows: Sequence[ComparisonRow], method: str = "") -> ComparisonRow | None:
    """The best baseline.

    Args:
        rows: A comparison.
        method: Which one was best on validation images; that of the highest in-time accuracy when left out.
    """
    baselines = [row for row in rows if row.baseline]
    named = next((row for row in baselines if method and row.method == method), None)
    return named or max(baselines, key=lambda row: (row.in_time_accuracy, -row.latency.energy_mj), default=None)
