"""Streams around a deployment: within their factors, equal for equal seeds, and unknown to the devices in them."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.conditions import Conditions
from autosplit.envs.stream.around import StreamsAround
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.stream import Stream
from tests.envs.stream.streams import LEVELS

CONDITIONS = Conditions(device="stm32l4r5", edge="edge-cpu", channel="ble-1m", budget_ms=200)
AROUND = StreamsAround(LEVELS, CONDITIONS, Arrivals(4.0, peak=3.0), 1, 50, 6)


def spread(values):
    return min(values), max(values)


def test_they_are_like_the_one_but_not_just_so():
    drawn = [fleet.devices[0] for fleet in AROUND.draw(400, 0)]
    kbps = CONDITIONS.channel.uplink_kbps.value
    ratios = {
        "arrivals": ([s.arrivals.per_s / 4 for s in drawn], 2), "rate": (
            [s.conditions.channel.uplink_kbps.value / kbps for s in drawn], 4),
        "delay": ([s.conditions.channel.access_ms_p50.value / CONDITIONS.channel.access_ms_p50.value
                   for s in drawn], 2),
        "computing": ([s.levels[0].device_ms / LEVELS[0].device_ms for s in drawn], 1.5)}
    for name, (values, factor) in ratios.items():
        low, high = spread(values)
        assert 1 / factor <= low < 1.02 / factor, name
        assert factor / 1.02 < high <= factor, name
        assert np.median(values) == pytest.approx(1, abs=0.15), name
    assert all((s.arrivals.peak, s.pictures, s.buffer, s.conditions.budget_ms) == (3.0, 50, 6, 200.0) for s in drawn)
    assert AROUND.draw(3, 7) == AROUND.draw(3, 7) != AROUND.draw(3, 8)


def test_devices_do_not_know_the_link_that_they_got():
    stream = next(fleet.devices[0] for fleet in AROUND.draw(50, 0)
                  if fleet.devices[0].conditions.channel.uplink_kbps.value < 0.5 * CONDITIONS.channel.uplink_kbps.value)
    core, rng = StreamCore([stream], 1), np.random.default_rng(0)
    state = core.begin(np.array([0]), rng)
    assert core.view(state).rate[0] == pytest.approx(1.0)
    for _ in range(20):
        core.step(state, np.array([2]), rng)
    assert core.view(state).usual_rate[0] < 0.8


def test_a_fleet_has_equal_devices():
    around = StreamsAround(LEVELS, CONDITIONS, Arrivals(4.0), 3, 50, 6)
    for fleet in (*around.draw(2, 0), around.as_told()):
        assert len(fleet.devices) == 3
        assert not fleet.withdraws  # as over TCP
        assert len(set(fleet.devices)) == 1
    assert around.as_told().devices[0].conditions == CONDITIONS
    assert AROUND.as_told().devices[0].arrivals == AROUND.arrivals


def test_what_is_assumed_must_be_a_rate():
    with pytest.raises(ValueError, match="the assumed rate must be above 0"):
        StreamCore([Stream("x", CONDITIONS, LEVELS, Arrivals(1.0), assumed_kbps=0.0)])
