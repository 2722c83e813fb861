"""Networks pruned layer by layer, with accuracies made by formula: a chain of convolutions, instantly measured.

Each group has a fragility of its own, and costs what its place in the network makes it cost, so that the best plan
prunes some groups hard and others not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.space import PlanSpace
from autosplit.models.costs import OperatorWork
from autosplit.models.head_costs import HeadCost, HeadLayer

SPARSITIES = (0.0, 0.25, 0.5, 0.75)
BACKBONE = 0.93
KERNEL = 9


def chain(channels: Sequence[int], positions: Sequence[int], free: int) -> HeadCost:
    """A head of convolutions one after the other, of which the first `free` may lose channels."""
    inputs = (3, *channels[:-1])
    whole = [OperatorWork("conv", n, m, KERNEL, p, bias=n, outputs=n * p, inputs=m, reads=m * p)
             for n, m, p in zip(channels, inputs, positions, strict=False)]
    steps = np.zeros((free, 6, len(whole)))
    for i in range(free):
        steps[i, 0, i] = steps[i, 3, i] = 1.0
        steps[i, 4, i] = positions[i]
        if i + 1 < len(whole):
            steps[i, 1, i + 1] = 1.0
            steps[i, 5, i + 1] = positions[i + 1]
    layers = [HeadLayer(f"conv{i}", channels[i], "conv", inputs[i], 3, 1 + i % 2) for i in range(free)]
    return HeadCost(layers, whole, steps)


class LayerTable:
    """An evaluator of every plan that is pruned layer by layer.

    Args:
        channels: Of the convolutions.
        positions: Output positions of the convolutions.
        fragility: Accuracy share lost when a convolution loses all channels.
        codecs: (width, bits) of the codecs at split point `middle`, after the convolutions but one.
        ends: Whether `input` is a split point too.
        payload: Measured payload over the predicted one.
    """

    def __init__(self, channels=(8, 8, 8), positions=(400, 200, 100), fragility=(0.05, 0.6, 0.2),
                 codecs=((2, 2), (4, 4), (8, 8)), ends=True, payload=1.0):
        self._fragility, self._payload = np.array(fragility), payload
        self._heads = {INPUT: HeadCost.nothing(), "middle": chain(channels[:-1], positions, len(channels) - 2),
                       OUTPUT: chain(channels, positions, len(channels))}
        codes = tuple(CodecSetting(kind="code", width=w, grid=4, bits=b) for w, b in codecs)
        known = {INPUT: (CodecSetting(kind="png"), CodecSetting(kind="jpeg", quality=50)) if ends else (),
                 "middle": codes, OUTPUT: (CodecSetting(kind="none"),)}
        splits = tuple(s for s in known if known[s])
        self._space = PlanSpace(splits, {s: (0.0,) if s == INPUT else SPARSITIES for s in splits},
                                {s: known[s] for s in splits})
        self._whole = self.head(OUTPUT).stage_cost(channels)
        self.measured: list[Plan] = []

    @property
    def space(self):
        return self._space

    def head(self, split):
        return self._heads[split]

    def workloads(self, plans):
        return [self._workload(p) for p in plans]

    def measure(self, plans):
        self.measured += plans
        return [Measurement(plan=p, accuracy=self.accuracy(p), workload=self._workload(p, self._payload), images=1000)
                for p in plans]

    def accuracy(self, plan):
        kept = np.array(self.keep(plan)) / self._heads[plan.split].channels
        lost = self._fragility[:len(kept)] * (1 - kept) ** 2
        coded = {"png": 1.0, "jpeg": 0.8, "none": 1.0}.get(plan.codec.kind)
        if coded is None:
            coded = 1 - 0.4 * np.exp(-(plan.codec.width * plan.codec.bits) / 12)
        return float(BACKBONE * coded * np.prod(1 - lost))

    def keep(self, plan):
        channels = self._heads[plan.split].channels.tolist()
        levels = plan.sparsity if isinstance(plan.sparsity, tuple) else (plan.sparsity,) * len(channels)
        return [max(1, round(n * (1 - s))) for n, s in zip(channels, levels, strict=True)]

    def _workload(self, plan, scale=1.0):
        device = self._heads[plan.split].stage_cost(self.keep(plan))
        if plan.split == OUTPUT:
            return Workload(plan=plan, device=device)
        sizes = {"png": 2000.0, "jpeg": 600.0}
        payload = sizes.get(plan.codec.kind) or plan.codec.width * 16 * plan.codec.bits / 8 * scale
        whole = self._heads[plan.split].stage_cost(self._heads[plan.split].channels.tolist())
        return Workload(plan=plan, device=device, encode=StageCost(conv_macs=1e4, coded_symbols=100, operators=1),
                        edge=StageCost(conv_macs=self._whole.macs - whole.macs, operators=3),
                        payload_bytes_mean=payload, payload_bytes_p95=1.1 * payload, result_bytes=2)

    def everything(self):
        """Every plan with every number of channels from the fewest up."""
        plans = []
        for split in self._space.splits:
            channels = self._heads[split].channels.tolist()
            counts = [range(max(1, round(n * (1 - SPARSITIES[-1]))), n + 1) for n in channels]
            for keep in product(*counts):
                levels = tuple(round(1 - k / n, 6) for k, n in zip(keep, channels, strict=True))
                plans += [Plan(split=split, sparsity=levels or 0.0, codec=c) for c in self._space.codecs[split]]
        return plans
