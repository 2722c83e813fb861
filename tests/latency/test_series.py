"""Rates over minutes: transfers against sums by hand, and what is drawn against the profile's own mean."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.fading import Bursts, Rayleigh, Shadowing, Shannon, mean_bits_per_hz
from autosplit.core.parameters import Decibels, Parameter
from autosplit.core.profiles import ChannelProfile, load_profile
from autosplit.latency.channel.series import RateSeries, draw_rates


def value(number):
    return Parameter(value=number, source="of this test")


def channel(**changes):
    return load_profile(ChannelProfile, "ble-1m").model_copy(update=changes)


def sent_until(kbps, slot_ms, end_ms):
    """Bits from the beginning until a time, a slot after the other."""
    sent, at = 0.0, 0.0
    slot = 0
    while at < end_ms:
        step = min(slot_ms, end_ms - at)
        sent += kbps[slot % len(kbps)] * step
        at, slot = at + step, slot + 1
    return sent


def test_a_transfer_ends_when_its_bits_are_sent():
    rng = np.random.default_rng(0)
    kbps = rng.choice([0.0, 3.0, 50.0, 800.0], size=(3, 7))
    kbps[:, 2] = 10.0
    slot_ms = np.array([5.0, 2.5, 40.0])
    series = RateSeries(kbps, slot_ms)
    rows = rng.integers(0, 3, 500)
    start, bits = rng.uniform(0, 900, 500), rng.uniform(1, 40_000, 500)
    for row, begin, size, end in zip(rows, start, bits, series.done_ms(rows, start, bits), strict=True):
        carried = sent_until(kbps[row], slot_ms[row], end) - sent_until(kbps[row], slot_ms[row], begin)
        assert carried == pytest.approx(size, rel=1e-6)
        assert end >= begin


def test_nothing_to_send_takes_no_time_and_a_rate_of_zero_waits():
    series = RateSeries(np.array([[10.0, 0.0, 10.0]]), np.array([10.0]))
    one = np.array([0])
    assert series.done_ms(one, np.array([4.0]), np.array([0.0]))[0] == 4.0
    assert series.done_ms(one, np.array([12.0]), np.array([50.0]))[0] == pytest.approx(25.0)
    assert series.done_ms(one, np.array([8.0]), np.array([20.0]))[0] == pytest.approx(10.0)
    assert series.rate_kbps(np.array([0, 0]), np.array([9.9, 43.0])).tolist() == [10.0, 0.0]


@pytest.mark.parametrize(("kbps", "slot_ms"), [
    (np.ones(3), np.ones(3)), (np.ones((2, 3)), np.ones(3)), (np.zeros((1, 3)), np.ones(1)),
    (-np.ones((1, 3)), np.ones(1)), (np.ones((1, 3)), np.zeros(1))])
def test_series_that_are_none(kbps, slot_ms):
    with pytest.raises(ValueError, match="rates"):
        RateSeries(kbps, slot_ms)


def test_a_steady_link_carries_its_rate_less_what_is_lost():
    profile = channel(packet_loss=value(0.1), retransmit_ms=value(3.0))
    drawn = draw_rates(profile, 2, 10, 5.0, np.random.default_rng(0))
    packet_ms = 8 * (profile.packet_bytes.value + profile.packet_overhead_bytes.value) / profile.uplink_kbps.value
    # 1 / 0.9 transmissions of a packet, with a wait before each but the first
    each_ms = packet_ms / 0.9 + (1 / 0.9 - 1) * 3.0
    assert drawn == pytest.approx(np.full((2, 10), profile.uplink_kbps.value * packet_ms / each_ms))


def moving(**blocks):
    shannon = Shannon(bandwidth_khz=value(100.0), snr_db=Decibels(value=8.0, source="of this test"),
                      efficiency=value(0.6))
    mean = 100.0 * mean_bits_per_hz(shannon, blocks.get("rayleigh"), blocks.get("shadowing"))
    return channel(shannon=shannon, uplink_kbps=value(mean), packet_loss=value(0.0), **blocks)


@pytest.mark.parametrize("profile", [
    moving(rayleigh=Rayleigh(coherence_ms=value(20.0))),
    moving(rayleigh=Rayleigh(coherence_ms=value(3.0))),
    moving(shadowing=Shadowing(sigma_db=value(6.0))),
], ids=["slow", "quick", "shadow"])
def test_fading_has_the_profiles_mean(profile):
    drawn = draw_rates(profile, 200, 4000, 10.0, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(profile.uplink_kbps.value, rel=0.03)
    assert drawn.std() > 0.05 * drawn.mean()


def test_fades_last_as_long_as_the_profile_says():
    drawn = draw_rates(moving(rayleigh=Rayleigh(coherence_ms=value(100.0))), 50, 2000, 10.0, np.random.default_rng(0))
    steps = (np.abs(np.diff(drawn, axis=1)) > 1e-6).mean()
    assert steps == pytest.approx(0.2, abs=0.02)  # one change in ten slots, seen in both slots that it may lie between


def test_bursts_lose_as_much_and_last_as_long():
    bursts = Bursts(good_loss=value(0.0), bad_loss=value(0.9), good_packets=value(80), bad_packets=value(20))
    profile = channel(bursts=bursts, packet_loss=value(bursts.loss), retransmit_ms=value(0.0))
    drawn = draw_rates(profile, 100, 4000, 1.0, np.random.default_rng(0)) / profile.uplink_kbps.value
    assert drawn.mean() == pytest.approx(0.8 + 0.2 * 0.1, abs=0.03)
    assert (drawn < 0.11).mean() == pytest.approx(0.2, abs=0.04)
    packet_ms = 8 * (profile.packet_bytes.value + profile.packet_overhead_bytes.value) / profile.uplink_kbps.value
    begins = ((drawn[:, 1:] < 0.5) & (drawn[:, :-1] >= 0.5)).sum()
    assert begins == pytest.approx(drawn.size / (100 * packet_ms), rel=0.15)


def test_a_trace_is_played_from_anywhere(tmp_path):
    (tmp_path / "trace.csv").write_text("time_s,rate_kbps\n0,100\n0.1,300\n0.3,0\n0.4,100\n")
    text = load_profile(ChannelProfile, "ble-1m").model_dump(mode="json", exclude={"uplink_kbps"})
    profile = ChannelProfile.model_validate({**text, "packet_loss": {"value": 0, "source": "none here"}, "trace": {
        "file": str(tmp_path / "trace.csv"), "source": "made up"}})
    drawn = draw_rates(profile, 300, 100, 5.0, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(profile.uplink_kbps.value, rel=0.02)
    assert len(np.unique(drawn[:, 0].round())) > 3  # from different instants
    assert ((drawn >= 0) & (drawn <= 300.0001)).all()
