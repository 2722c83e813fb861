"""What a device can do with a picture: a few deployments, cheap and rough to dear and exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Measurement, Outcome
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import score
from autosplit.latency.base import LatencyModel
from autosplit.latency.random import Z95

__all__ = ["Level", "worth_having"]

_OF_USE = 0.5  # of the best accuracy
_LEAST_MS = 1e-6


@dataclass(frozen=True)
class Level:
    """One way to answer a picture.

    Attributes:
        label: Name for people.
        device_ms: What every picture takes on the device.
        encode_ms: What those that are sent take there besides.
        edge_ms: What those take on the edge.
        payload_bytes: Mean payload of those that are sent.
        payload_sd_bytes: Its standard deviation.
        sent: Share of the pictures that are sent.
        device_accuracy: Of the answers of the device; of no account where all are sent.
        edge_accuracy: Of the answers of the edge; of no account where none is sent.
    """

    label: str
    device_ms: float
    encode_ms: float = 0.0
    edge_ms: float = 0.0
    payload_bytes: float = 0.0
    payload_sd_bytes: float = 0.0
    sent: float = 0.0
    device_accuracy: float = 0.0
    edge_accuracy: float = 0.0

    def __post_init__(self) -> None:
        costs = (self.device_ms, self.encode_ms, self.edge_ms, self.payload_bytes, self.payload_sd_bytes)
        if not all(np.isfinite(c) and c >= 0 for c in costs):
            raise ValueError(f"level {self.label!r}: times and bytes must be at least 0, got {costs}")
        shares = (self.sent, self.device_accuracy, self.edge_accuracy)
        if not all(0 <= s <= 1 for s in shares):
            raise ValueError(f"level {self.label!r}: shares and accuracies must lie in [0, 1], got {shares}")

    @property
    def accuracy(self) -> float:
        """Of all answers, if every one is in time."""
        return (1 - self.sent) * self.device_accuracy + self.sent * self.edge_accuracy

    @classmethod
    def of(cls, outcome: Outcome) -> Level:
        """A plan that was measured, with what the latency model says of its stages.

        A measurement with exits gives the one of its plan.
        """
        measured, latency = outcome.measurement, outcome.latency
        work = measured.workload
        sends = work.payload_bytes_mean > 0
        sent = work.sent if sends else 0.0
        exit_ = next((e for e in measured.exits if e.exit == measured.plan.exit), None)
        accuracy = measured.accuracy
        return cls(
            measured.plan.label, latency.device_ms, latency.encode_ms if sends else 0.0,
            latency.edge_ms if sends else 0.0, work.payload_bytes_mean,
            max(0.0, work.payload_bytes_p95 - work.payload_bytes_mean) / Z95, sent,
            exit_.exit_accuracy if exit_ else accuracy, exit_.sent_accuracy if exit_ else accuracy)


def worth_having(
    measurements: Sequence[Measurement], conditions: Conditions, latency_model: LatencyModel, count: int
) -> list[Outcome]:
    """The plans that are worth having at hand: of all that no other one beats in time *and* accuracy, a few.

    Time is the median latency under the conditions. The most accurate of those that may be in time stays, the quickest
    of those at least half as accurate, and between them those that divide the front most evenly in the logarithm of
    time.

    Args:
        measurements: Of plans, at least one.
        conditions: Where they run, with the deadline.
        latency_model: Knows times.
        count: Plans wanted, at least 1.

    Returns:
        At most `count` of them, by ascending accuracy and time; one at least, the quickest where none is in time.
    """
    accuracy = np.array([m.accuracy for m in measurements])
    p50_ms = latency_model.latency([m.workload for m in measurements], [conditions]).p50_ms[:, 0]
    order = np.lexsort((-accuracy, p50_ms))
    front = [order[0]]
    for plan in order:
        if p50_ms[plan] <= conditions.budget_ms and accuracy[plan] > accuracy[front[-1]]:
            front.append(plan)
    front = [plan for plan in front if accuracy[plan] >= _OF_USE * accuracy[front[-1]]]
    times = np.log(np.maximum(p50_ms[front], _LEAST_MS))
    wanted = np.linspace(times[0], times[-1], count) if count > 1 else times[-1:]
    picked = sorted({int(np.abs(times - time).argmin()) for time in wanted})
    return score([measurements[front[i]] for i in picked], latency_model, load_objective("in-time-accuracy"),
                 conditions)
