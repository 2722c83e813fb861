"""The conditions vector where the rate moves; elsewhere it is what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autosplit.envs.conditions import ConditionsSampler, ProfilesSampler
from autosplit.envs.features import CONDITION_BOUNDS, condition_features
from autosplit.latency.channel.rate_process import typical_kbps_and_jitter_ms
from autosplit.testing import make_conditions

NAMES = list(CONDITION_BOUNDS)
WALK = str(Path(__file__).parents[2] / "examples" / "walk-away.yaml")


def value(name: str, conditions) -> float:
    """A feature on its own scale."""
    low, high = CONDITION_BOUNDS[name]
    return low * (high / low) ** float(condition_features([conditions])[0, NAMES.index(name)])


def test_a_constant_channel_shows_its_own_figures():
    c = make_conditions("lte")
    assert value("uplink_kbps", c) == pytest.approx(5850, rel=1e-5)
    assert value("access_ms", c) == pytest.approx(25, rel=1e-5)
    assert value("packet_loss", make_conditions("ble-1m-bursty")) == pytest.approx(4.2 / 66, rel=1e-5)


@pytest.mark.parametrize("channel", ["lte-pedestrian", WALK])
def test_a_moving_rate_shows_its_median_and_its_spread(channel):
    c = make_conditions(channel)
    even = c.model_copy(update={"channel": c.channel.model_copy(update={"shadowing": None, "rayleigh": None,
                                                                        "trace": None})})
    kbps, jitter_ms = typical_kbps_and_jitter_ms(c.channel)
    assert jitter_ms > 1
    assert value("uplink_kbps", c) == pytest.approx(kbps, rel=1e-5)
    assert value("access_ms", c) == pytest.approx(c.channel.access_ms_p50.value + jitter_ms, rel=1e-5)
    same = [n for n in NAMES if n not in ("uplink_kbps", "access_ms")]
    assert [value(n, c) for n in same] == [value(n, even) for n in same]


def test_conditions_around_a_moving_channel_keep_its_course():
    base = make_conditions(WALK)
    pool = ConditionsSampler(base, access=1.0).pool(6)
    rates = np.array([value("uplink_kbps", c) for c in pool])
    means = np.array([c.channel.uplink_kbps.value for c in pool])
    np.testing.assert_allclose(rates / means, value("uplink_kbps", base) / base.channel.uplink_kbps.value, rtol=0.1)
    assert len(set(rates)) == 6


def test_moving_channels_are_drawn_where_they_are_named():
    pool = ProfilesSampler.named(channels=["lte-pedestrian", "ble-1m-bursty"]).pool(20)
    assert {c.channel.name for c in pool} == {"lte-pedestrian", "ble-1m-bursty"}
    assert all(c.channel.constant for c in ProfilesSampler.named().pool(50))
