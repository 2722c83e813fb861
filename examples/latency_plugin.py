"""A latency model of your own: milliseconds that you measured on your device, and a simple link.

    autosplit search --latency-model examples/latency_plugin.py:TableLatency

A latency model is any class with one method, `latency(workloads, conditions)`. It is asked about many plans under
many conditions at once and answers with arrays: a row for each plan, a column for each of the conditions. Check
yours with `autosplit.testing.LatencyModelContract`, as tests/latency/test_example_plugin.py does with this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit import Conditions, LatencyBreakdown, Workload
from autosplit.core.arrays import Array

# Measured on the device: milliseconds until the feature at each split point is ready, unpruned. Replace them by yours.
HEAD_MS = {"input": 0.0, "stem": 10.0, "layer1": 98.0, "layer2": 163.0, "layer3": 226.0, "output": 227.0}
# Measured on the server: everything after the split point.
TAIL_MS = {"input": 2.0, "stem": 1.8, "layer1": 1.2, "layer2": 0.7, "layer3": 0.1, "output": 0.0}
# Measured on the device: quantising and entropy coding.
ENCODE_MS = 1.5


class TableLatency:
    """Measured stages, and a link that sends at the channel's rate after its median access delay."""

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """Milliseconds of P plans under C conditions; see `autosplit.LatencyModel`."""
        splits = [w.plan.split for w in workloads]
        # a column of P numbers each; an unknown split point raises KeyError, which autosplit reports with the plan
        head = _column([HEAD_MS[s] for s in splits])
        tail = _column([TAIL_MS[s] for s in splits])
        payload = _column([w.payload_bytes_mean for w in workloads])
        result = _column([w.result_bytes for w in workloads])
        sent = payload > 0  # at `output` nothing crosses the link

        # a row of C numbers each
        access_ms = np.array([c.channel.access_ms_p50.value for c in conditions])
        up_kbps = np.array([c.channel.uplink_kbps.value for c in conditions])
        down_kbps = np.array([c.channel.downlink_kbps.value for c in conditions])

        # pruning shrinks the head: here by a rule of thumb; measure yours
        every = np.ones_like(up_kbps)
        return LatencyBreakdown.deterministic(
            conditions,
            device_ms=head * _kept(workloads) * every,
            encode_ms=np.where(sent, ENCODE_MS, 0.0) * every,
            uplink_ms=np.where(sent, access_ms + payload * 8 / up_kbps, 0.0),  # bytes * 8 / (kb/s) = ms
            edge_ms=np.where(sent, tail, 0.0) * every,
            downlink_ms=np.where(sent, access_ms + result * 8 / down_kbps, 0.0),
        )


def _kept(workloads: Sequence[Workload]) -> Array:
    """Share of the head's time that pruning leaves: both sides of a layer shrink, hence the square."""
    levels = [np.mean(w.plan.sparsity) for w in workloads]
    return (1.0 - _column(levels)) ** 2


def _column(values: Sequence[float | np.floating]) -> Array:
    return np.array(values, dtype=np.float64).reshape(-1, 1)
