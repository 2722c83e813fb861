"""Streams to begin with, made from the packaged profiles and a few round figures."""

from __future__ import annotations

from functools import cache

from autosplit.core.conditions import Conditions
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.levels import Level
from autosplit.envs.stream.stream import Stream

__all__ = ["example_streams"]

_LEVELS = (
    Level("pruned network on the device", 34.0, device_accuracy=0.93),
    Level("split, 50 B", 9.0, 6.0, 0.3, 50.0, 8.0, 1.0, edge_accuracy=0.955),
    Level("split, 120 B", 9.0, 8.0, 0.3, 120.0, 20.0, 1.0, edge_accuracy=0.973),
    Level("picture, 400 B", 12.0, 0.0, 0.6, 400.0, 60.0, 1.0, edge_accuracy=0.982),
)
"""In the order of magnitude of the default scenario's; made up, not measured."""


@cache
def example_streams() -> tuple[Stream, ...]:
    """A quiet stream, a busy one and one that comes in bursts; the device is a microcontroller with a radio of 50 kb/s.

    Their levels are made up; `Level.of` makes one of a plan that was measured.
    """
    conditions = Conditions.model_validate({
        "device": "stm32l4r5", "edge": "edge-cpu", "channel": "sub-ghz-fsk-50k", "budget_ms": 150})
    arrivals = {"quiet": Arrivals(2.0), "busy": Arrivals(18.0), "bursts": Arrivals(10.0, peak=3.5)}
    return tuple(Stream(name, conditions, _LEVELS, each) for name, each in arrivals.items())
