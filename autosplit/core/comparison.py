"""Ways to deploy one network side by side: a row each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from autosplit.core.plan import LatencySummary

__all__ = ["ComparisonRow", "quickest_baseline"]

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
        method: Short name of the baseline, such as `png`, `raw` or `autosplit`.
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

    @property
    def in_time_accuracy(self) -> float:
        """Expected accuracy of an answer within the budget: accuracy times the probability of being in time."""
        return self.accuracy * self.latency.in_time


def quickest_baseline(rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """The baseline that speed-ups refer to: the one of the lowest p95 latency among those that lose at most one point.

    Args:
        rows: A comparison; the chosen plan is no baseline.
    """
    accurate = [row for row in rows if not row.chosen and row.accuracy_loss_points <= _MOST_LOSS_POINTS]
    return min(accurate, key=lambda row: row.latency.p95_ms, default=None)
