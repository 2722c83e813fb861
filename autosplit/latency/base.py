"""The `LatencyModel` protocol and the breakdown it returns.

Life cycle: a model is built once per search by `autosplit.latency.load_latency_model`, which wraps it in
`CheckedLatencyModel`. It is called often, with many plans and many conditions at once, from one thread,
and must not keep state between calls: equal arguments give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.measurement import LatencySummary, Workload

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["ENERGIES", "FIELDS", "LatencyBreakdown", "LatencyModel", "coarse_of"]

ENERGIES = ("compute_mj", "transmit_mj", "wait_mj", "tail_mj")
"""What `LatencyBreakdown.energy_mj` is the sum of."""

# compared by identity, since an empty array is also the answer for no plans
_LEFT_OUT: Array = np.empty(0)


@dataclass(frozen=True)
class LatencyBreakdown:
    """Latency of P plans under C conditions.

    Each field is the array of shape (P, C) that holds the field of the same name of `LatencySummary`, which describes
    them. The last five may be left out: `p99_ms` is then `p95_ms`, and all energy goes to `compute_mj`.
    """

    device_ms: Array
    encode_ms: Array
    uplink_ms: Array
    edge_ms: Array
    downlink_ms: Array
    p50_ms: Array
    p95_ms: Array
    in_time: Array
    energy_mj: Array
    p99_ms: Array = field(default_factory=lambda: _LEFT_OUT)
    compute_mj: Array = field(default_factory=lambda: _LEFT_OUT)
    transmit_mj: Array = field(default_factory=lambda: _LEFT_OUT)
    wait_mj: Array = field(default_factory=lambda: _LEFT_OUT)
    tail_mj: Array = field(default_factory=lambda: _LEFT_OUT)

    def __post_init__(self) -> None:
        if self.p99_ms is _LEFT_OUT:
            # a frozen dataclass sets its own fields this way
            object.__setattr__(self, "p99_ms", self.p95_ms)
        if all(getattr(self, name) is _LEFT_OUT for name in ENERGIES):
            object.__setattr__(self, "compute_mj", self.energy_mj)
        for name in ENERGIES:
            if getattr(self, name) is _LEFT_OUT:
                object.__setattr__(self, name, np.zeros_like(self.energy_mj))

    def summary(self, plan: int, condition: int = 0) -> LatencySummary:
        """The breakdown of one plan under one set of conditions."""
        return LatencySummary(**{f.name: float(getattr(self, f.name)[plan, condition]) for f in fields(self)})

    def rows(self, plans: NDArray[np.int64]) -> LatencyBreakdown:
        """The breakdown of some plans, by number."""
        return LatencyBreakdown(**{f.name: getattr(self, f.name)[plans] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[LatencyBreakdown], axis: int) -> LatencyBreakdown:
        """Breakdowns one after the other: of other plans (axis 0) or under other conditions (axis 1)."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts], axis=axis) for f in fields(cls)})

    @classmethod
    def deterministic(
        cls,
        conditions: Sequence[Conditions],
        *,
        device_ms: Array,
        encode_ms: Array,
        uplink_ms: Array,
        edge_ms: Array,
        downlink_ms: Array,
        energy_mj: Array | None = None,
    ) -> LatencyBreakdown:
        """A breakdown without chance: p50 = p95 = p99 = the sum of the stages, in time or not.

        Args:
            conditions: The C conditions, for their budgets.
            device_ms: Each stage, shape (P, C).
            encode_ms: See `device_ms`.
            uplink_ms: See `device_ms`.
            edge_ms: See `device_ms`.
            downlink_ms: See `device_ms`.
            energy_mj: Shape (P, C); zero when left out. All of it counts as computing.
        """
        given = (device_ms, encode_ms, uplink_ms, edge_ms, downlink_ms)  # lists would be joined, not added
        device_ms, encode_ms, uplink_ms, edge_ms, downlink_ms = (np.asarray(ms, dtype=np.float64) for ms in given)
        total = device_ms + encode_ms + uplink_ms + edge_ms + downlink_ms
        budget = np.array([c.budget_ms for c in conditions], dtype=np.float64)
        return cls(device_ms, encode_ms, uplink_ms, edge_ms, downlink_ms, p50_ms=total, p95_ms=total,
                   in_time=(total <= budget).astype(np.float64),
                   energy_mj=np.zeros_like(total) if energy_mj is None else energy_mj)


FIELDS = tuple(f.name for f in fields(LatencyBreakdown))
"""The arrays of a breakdown, by name."""


@runtime_checkable
class LatencyModel(Protocol):
    """Milliseconds and energy of plans under conditions.

    A model may leave `Workload.sent` out of account: what it says of the images that are sent is then mixed with those
    that are answered on the device. One that takes it into account itself says so by an attribute `knows_exits`.
    """

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """Latency of every plan under every set of conditions.

        Args:
            workloads: P workloads: the work of each stage and the payload bytes of a plan.
            conditions: C conditions: device, edge, channel and budget.

        Returns:
            Arrays of shape (P, C): finite, not negative, `p50_ms <= p95_ms <= p99_ms`, `0 <= in_time <= 1`.
        """
        ...


def coarse_of(model: LatencyModel) -> LatencyModel:
    """A quicker and less exact variant of a model, for many conditions that are asked about once each.

    Args:
        model: One that has such a variant says so by an attribute `coarse`.

    Returns:
        The variant, or the model itself.
    """
    quick: LatencyModel = getattr(model, "coarse", model)
    return quick
