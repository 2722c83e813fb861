"""Plans and conditions as numbers in [0, 1] that mean the same in every plan space.

Quantities that span decades enter as logarithms between fixed bounds, so that a feature does not change its
meaning with the data set or the device, and a policy can be asked about conditions it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Workload
from autosplit.core.space import PlanSpace
from autosplit.envs.tree import STEPS, DecisionTree
from autosplit.latency.channel.rate_process import typical_kbps_and_jitter_ms
from autosplit.runtime.standalone.payload.image_codecs import IMAGE_KINDS

__all__ = ["CONDITION_BOUNDS", "PLAN_FEATURES", "condition_features", "node_features", "plan_features"]

FloatArray = NDArray[np.float32]

CONDITION_BOUNDS: dict[str, tuple[float, float]] = {
    "device_conv_mmacs": (1.0, 1e8),
    "device_depthwise_mmacs": (1.0, 1e8),
    "device_linear_mmacs": (1.0, 1e8),
    "device_memory_mb_per_s": (1.0, 1e7),
    "edge_conv_mmacs": (1.0, 1e8),
    "edge_memory_mb_per_s": (1.0, 1e7),
    "uplink_kbps": (0.1, 1e7),
    "packet_bytes": (10.0, 1e5),
    "access_ms": (0.01, 1e5),
    "packet_loss": (1e-4, 1.0),
    "budget_ms": (0.1, 1e6),
}
"""The conditions vector: name and unit, with the values that become 0 and 1 on a logarithmic scale.

Where the uplink's rate moves, `uplink_kbps` is the rate that half of the full packets reach, and `access_ms` holds,
beside the median access delay, by how much the slowest twentieth of them exceed their median: a constant link alike.
"""

PLAN_FEATURES = ("position", "macs_share", "sparsity", "device_macs", "width", "grid", "bits", "quality",
                 "payload_bytes", "is_code", "is_raw", "is_image", "is_none")
"""Features of a plan; the one-hot of its place follows."""

_MOST = {"macs": 1e11, "width": 4096.0, "grid": 256.0, "payload_bytes": 1e8}
_KINDS: dict[str, int] = {"code": 0, "raw": 1, **dict.fromkeys((*IMAGE_KINDS, "file"), 2), "none": 3}
_SPLIT, _SPARSITY, _CODEC = (0, 1), (2, 3), (4, 12)  # first and last feature that each decision settles


def _log(value: float, most: float) -> float:
    """log(1 + value) as a share of log(1 + most), cut to [0, 1]."""
    return min(math.log1p(value) / math.log1p(most), 1.0)


def plan_features(space: PlanSpace, workloads: Sequence[Workload]) -> Array:
    """Features of every plan, shape (P, len(PLAN_FEATURES) + number of split points), in [0, 1].

    Args:
        space: The plan space.
        workloads: One a plan, in the order of `space.plans()`.
    """
    position = {s: i / max(1, len(space.splits) - 1) for i, s in enumerate(space.splits)}
    # shares of the most work on the device: all of the network where a plan runs it there
    whole = max((w.device.macs for w in workloads), default=0.0) or 1.0
    unpruned: dict[str, float] = {}
    for work in workloads:
        unpruned[work.plan.place] = max(unpruned.get(work.plan.place, 0.0), work.device.macs)
    rows = []
    for work in workloads:
        plan = work.plan
        sparsity = float(np.mean(plan.sparsity))
        codec, kind = plan.codec, [0.0] * 4
        kind[_KINDS[codec.kind]] = 1.0
        # PNG loses nothing, as other formats at their best; half the pixels in each direction lose much
        quality = (codec.quality or (100 if codec.kind == "png" else 0)) / (codec.downscale or 1)
        rows.append([position[plan.place], unpruned[plan.place] / whole, sparsity,
                     _log(work.device.macs, _MOST["macs"]), _log(codec.width or 0, _MOST["width"]),
                     _log(codec.grid or 0, _MOST["grid"]), (codec.bits or 0) / 8, quality / 100,
                     _log(work.payload_bytes_mean, _MOST["payload_bytes"]), *kind,
                     *(float(plan.place == s) for s in space.splits)])
    return np.array(rows, dtype=np.float64)


def node_features(tree: DecisionTree, plans: Array) -> FloatArray:
    """Features of every node of the tree: one-hot of the step, then the choices made so far.

    Args:
        tree: The decisions.
        plans: `plan_features` of its space, shape (P, F).

    Returns:
        Shape (N + P, 3 + F) in [0, 1]. What is not decided yet is 0, and a finished plan has no step.
    """
    first, extra = tree.first_plan, len(PLAN_FEATURES)
    result = np.zeros((tree.inner + tree.plans, STEPS + plans.shape[1]), dtype=np.float32)
    running = tree.step < STEPS
    result[running, tree.step[running]] = 1.0
    # after how many decisions which columns are known; a node shows them from its first plan
    settled = ((1, *_SPLIT), (1, extra, plans.shape[1] - 1), (2, *_SPARSITY), (3, *_CODEC))
    for step, low, high in settled:
        done = np.flatnonzero(tree.step >= step)[:, None]
        columns = np.arange(low, high + 1)[None, :]
        result[done, STEPS + columns] = plans[first[done], columns]
    return result


def condition_features(conditions: Sequence[Conditions]) -> FloatArray:
    """The conditions vectors, shape (C, len(CONDITION_BOUNDS)), in [0, 1]; see `CONDITION_BOUNDS`."""
    low, high = (np.log(np.array(bounds)) for bounds in zip(*CONDITION_BOUNDS.values(), strict=True))
    rows = []
    for c in conditions:
        machines = (c.device.conv_mmacs, c.device.depthwise_mmacs, c.device.linear_mmacs, c.device.memory_mb_per_s,
                    c.edge.conv_mmacs, c.edge.memory_mb_per_s)
        kbps, jitter_ms = typical_kbps_and_jitter_ms(c.channel)
        rows.append([*(f.value for f in machines), kbps, c.channel.packet_bytes.value,
                     c.channel.access_ms_p50.value + jitter_ms, c.channel.packet_loss.value, c.budget_ms])
    values = np.array(rows, dtype=np.float64)
    # a loss of 0 has no logarithm
    scaled = (np.log(np.maximum(values, 1e-12)) - low) / (high - low)
    result: FloatArray = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    return result
