"""A machine whose every time follows a law, and profiles of it."""

from __future__ import annotations

from dataclasses import astuple

from autosplit.core.operators import OperatorWork
from autosplit.core.timings import COLUMNS, Timing
from autosplit.latency.profiling.run import ProfileSettings
from autosplit.runtime.standalone.profiling.run import Machine, write_profile

SECONDS = {"conv": 1e-11, "depthwise": 9e-11, "linear": 5e-11, "other": 0.0}
"""Of a multiply-accumulate; dense convolutions pay for padded channels too."""

NETWORK = """
from torch import nn

def network(num_classes, in_channels):
    def block(a, b, stride):
        return nn.Sequential(nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU(),
                             nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), block(8, 20, 1),
                         block(20, 24, 2), block(24, 40, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, num_classes))
"""


def law_s(work: OperatorWork) -> float:
    """Seconds of an operator: launch, multiply-accumulates with padding, memory."""
    padded = work.terms[5] * 2e-11 if work.kind == "conv" else 0.0
    return 6e-6 + SECONDS[work.kind] * work.macs + padded + 4e-10 * (work.reads + work.outputs + work.weights)


def analytic_law_s(work: OperatorWork) -> float:
    """Seconds as the model `analytic` has them."""
    return 6e-6 + SECONDS[work.kind] * work.macs + 4e-10 * (work.outputs + work.weights)


class LawfulClock:
    """A `Stopwatch` that runs nothing."""

    def __init__(self, law=law_s, processor_share=None):
        self.law, self.processor_share = law, processor_share

    def units(self, units, image):
        return [sum(map(self.law, unit.works)) for unit in units]

    def call(self, action):
        return 2e-4


def settings(tmp_path, backbone=None, **changes):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return ProfileSettings(**({"backbones": (backbone or f"{file}:network",), "shape": (3, 32, 32), "threads": 1}
                              | changes))


def timed(works, law=law_s):
    return [Timing("net", "0%", f"n{i}", work, 1e3 * law(work)) for i, work in enumerate(works)]


def csv_of(path, works, law=law_s):
    machine = Machine("a lawful machine", "fp32", "the law of the tests", None, 1e3, 1e3, None, None)
    write_profile(path.with_suffix(".yaml"), machine, COLUMNS,
                  [("net", "0%", t.node, *astuple(t.work), t.time_ms) for t in timed(works, law)])
    return path
