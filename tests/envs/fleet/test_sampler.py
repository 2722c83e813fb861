"""Fleets that are drawn: within the bounds that are stated, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.envs.conditions import ProfilesSampler
from autosplit.envs.fleet.sampler import FleetSampler
from autosplit.latency import load_latency_model
from autosplit.latency.base import coarse_of
from tests.envs.stream.test_levels import on_device


def sent(width, payload):
    plan = Plan(split="stem", codec=CodecSetting(kind="code", family="nested", width=width, bits=4, grid=8))
    work = Workload(plan=plan, device=StageCost(conv_macs=1e6), encode=StageCost(conv_macs=1e4),
                    edge=StageCost(conv_macs=1e7), payload_bytes_mean=payload, payload_bytes_p95=1.1 * payload)
    return Measurement(plan=plan, accuracy=0.6 + 0.05 * width, workload=work)


PLANS = (*(on_device(m * 1e6, 0.4 + 0.1 * m, 0.9 - 0.1 * m) for m in range(1, 4)),
         *(sent(width, 60.0 * width) for width in range(1, 8)))


def sampler(**changes):
    conditions = ProfilesSampler.named(devices=["stm32h7a3", "raspberry-pi-zero-2w"], channels=["ble-1m", "lte-m"])
    return FleetSampler((PLANS,), conditions, coarse_of(load_latency_model("analytic")), 4, **changes)


@pytest.fixture(scope="module")
def drawn():
    return sampler().streams(25, 0)


def air_share(stream):
    """Share of the time that the device sends, if all its pictures take the last level."""
    level, channel = stream.levels[-1], stream.conditions.channel
    packets = np.ceil(level.payload_bytes / channel.packet_bytes.value)
    bits = 8 * (level.payload_bytes + packets * channel.packet_overhead_bytes.value)
    return level.sent * bits / channel.uplink_kbps.value * stream.arrivals.per_s / 1e3


def test_loads_and_members_lie_within_their_bounds(drawn):
    bounds = {"quiet": (0.02, 0.1), "busy": (0.7, 1.2), "bursty": (0.3, 0.8)}
    for fleet in drawn:
        low, high = bounds[fleet.name.partition(",")[0]]
        assert len(fleet.devices) == 4
        assert low * 0.99 <= sum(map(air_share, fleet.devices)) <= high * 1.01
        assert len({d.conditions.budget_ms for d in fleet.devices}) == 1
        assert len({d.arrivals.per_s for d in fleet.devices}) == 1
        rates = [d.conditions.channel.uplink_kbps.value for d in fleet.devices]
        assert max(rates) / min(rates) <= 4.001
        assert all(3 <= len(d.levels) <= 6 for d in fleet.devices)
    assert {fleet.name.partition(",")[0] for fleet in drawn} == set(bounds)


def test_equal_seeds_give_equal_fleets(drawn):
    assert sampler().streams(3, 0) == drawn[:3]
    assert sampler().streams(3, 1) != drawn[:3]


def test_plans_that_share_nothing_make_no_fleet():
    alone = FleetSampler((PLANS[:2],), sampler().conditions, sampler().latency_model)
    with pytest.raises(ConfigError, match="give more plans"):
        alone.sample(np.random.default_rng(0))
