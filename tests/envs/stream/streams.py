"""Streams for tests: no chance but in arrivals, so that what happens can be reckoned by hand."""

from __future__ import annotations

from autosplit.core.conditions import Conditions
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile, load_profile
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.levels import Level
from autosplit.envs.stream.stream import Stream

LEVELS = (Level("on the device", 30.0, device_accuracy=0.7),
          Level("sent", 10.0, 5.0, 2.0, 100.0, 0.0, 1.0, edge_accuracy=0.9),
          Level("sent, more", 10.0, 5.0, 2.0, 300.0, 0.0, 1.0, edge_accuracy=1.0))


def value(number):
    return Parameter(value=number, source="of this test")


def certain_channel(kbps=100.0):
    return load_profile(ChannelProfile, "ble-1m").model_copy(update={
        "uplink_kbps": value(kbps), "downlink_kbps": value(kbps), "packet_bytes": value(100.0),
        "packet_overhead_bytes": value(10.0), "access_ms_p50": value(1.0), "access_ms_p95": value(1.0),
        "packet_loss": value(0.0), "retransmit_ms": value(0.0), "transmit_mw": value(300.0),
        "receive_mw": value(100.0)})


def stream(per_s=10.0, budget_ms=80.0, levels=LEVELS, kbps=100.0, regular=False, **others):
    conditions = Conditions(device="stm32l4r5", edge="edge-cpu", channel="ble-1m", budget_ms=budget_ms)
    device = conditions.device.model_copy(update={"active_mw": value(50.0), "idle_mw": value(10.0)})
    conditions = conditions.model_copy(update={"channel": certain_channel(kbps), "device": device})
    return Stream("of a test", conditions, levels, Arrivals(per_s, regular=regular), **{"pictures": 60, **others})
