"""Streams that are drawn: within the bounds that are stated, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ProfilesSampler
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.sampler import StreamSampler
from autosplit.latency import load_latency_model
from autosplit.latency.base import coarse_of
from tests.envs.stream.test_levels import on_device

PLANS = tuple(on_device(m * 1e6, 0.5 + 0.04 * m, 0.9 - 0.08 * m) for m in range(1, 11))


def sampler(**changes):
    conditions = ProfilesSampler.named(devices=["stm32l4r5", "stm32h7a3"], channels=["ble-1m", "lte-m"])
    return StreamSampler((PLANS,), conditions, coarse_of(load_latency_model("analytic")), **changes)


@pytest.fixture(scope="module")
def drawn():
    return sampler().streams(60, 0)


def test_loads_and_deadlines_lie_within_their_bounds(drawn):
    bounds = {"quiet": (0.02, 0.1), "busy": (0.7, 2.0), "bursty": (0.3, 1.2)}
    for each in drawn:
        low, high = bounds[each.name.partition(",")[0]]
        load = each.arrivals.per_s * each.levels[-1].device_ms / 1e3
        assert low * 0.999 <= load <= high * 1.001
        assert (each.arrivals.peak > 1) == each.name.startswith("bursty")
        assert 3 <= len(each.levels) <= 6
        assert 1.5 <= each.conditions.budget_ms / each.levels[0].device_ms <= 12.001
        assert each.levels[-1].device_ms <= each.conditions.budget_ms


def test_links_keep_their_mean_whatever_they_do(drawn):
    kinds = {kind: [s.conditions.channel for s in drawn if s.name.endswith(kind)]
             for kind in ("steady", "fading", "losing")}
    assert all(len(found) > 8 for found in kinds.values())
    assert all(channel.constant for channel in kinds["steady"])
    for channel in kinds["fading"]:
        type(channel).model_validate(channel.model_dump())  # the stated mean is that of the fading
        assert channel.rayleigh is not None
    for channel in kinds["losing"]:
        type(channel).model_validate(channel.model_dump())
        assert 0.1 < channel.bursts.loss < 0.25


def test_a_quarter_has_a_battery_that_does_not_suffice(drawn):
    limited = [s for s in drawn if np.isfinite(s.charge_mj)]
    assert 6 <= len(limited) <= 24
    core = StreamCore(limited, 1)
    best = core.view(core.begin(np.arange(len(limited)), np.random.default_rng(0))).energy_mj[:, -1]
    shares = np.array([s.charge_mj for s in limited]) / (200 * best)
    assert ((shares > 0.29) & (shares < 0.91)).all()


def test_equal_seeds_give_equal_streams(drawn):
    assert sampler().streams(5, 0) == drawn[:5]
    assert sampler().streams(5, 1) != drawn[:5]


def test_some_kinds_alone():
    assert all(s.name.startswith("busy") for s in sampler(kinds=("busy",)).streams(6, 0))


def test_too_few_plans():
    with pytest.raises(ConfigError, match="give more plans"):
        StreamSampler((PLANS[:2],), sampler().conditions, sampler().latency_model).streams(1, 0)
