"""The radio draws packet by packet what the latency model predicts in closed formulas; neither knows the other."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.profiles import ChannelProfile, load_profile
from autosplit.experiments.emulation.radio import Radio
from tests.latency.channels import SHANNON, assert_percentiles_of, bursts, figures, moving, over, sending, trace

TRANSFERS = 2000


def transfer_ms(radio: Radio, start_s: float, count: int) -> float:
    """One message through a radio that was idle."""
    now = radio.start_s(start_s)
    while count > 0:
        packet = min(count, radio.packet_bytes)
        now = radio.arrival_s(now, packet)
        count -= packet
    return 1000.0 * (now - start_s)


def simulated(channel: ChannelProfile, payload: int, answer: int) -> list[float]:
    """Milliseconds up and down, far apart in time."""
    up, down = Radio(channel, "uplink", 3), Radio(channel, "downlink", 3)
    starts = np.random.default_rng(5).uniform(0, 1e5, TRANSFERS)
    return [transfer_ms(up, float(t), payload) + transfer_ms(down, float(t), answer) for t in np.sort(starts)]


@pytest.mark.parametrize("payload", [40, 700, 5000])
@pytest.mark.parametrize("name", ["sub-ghz-fsk-50k", "lora-sf7", "ble-1m", "ble-1m-bursty", "3g", "lte-pedestrian",
                                  "wifi4"])
def test_packaged_channels_are_as_predicted(name, payload):
    channel = load_profile(ChannelProfile, name)
    predicted = over(channel, sending(payload, result_bytes=44))
    assert_percentiles_of(predicted, simulated(channel, payload, 44), sigmas=4)  # of 126 comparisons none is beyond


def test_a_trace_is_as_predicted(tmp_path):
    channel = moving(trace=trace(tmp_path, [(0, 1000), (0.5, 20), (0.8, 0), (1.0, 400)]))
    assert_percentiles_of(over(channel, sending(900, result_bytes=10)), simulated(channel, 900, 10))


def test_shadowing_is_as_predicted():
    channel = moving(shannon=SHANNON, shadowing=figures(sigma_db=6))
    assert_percentiles_of(over(channel, sending(900, result_bytes=10)), simulated(channel, 900, 10))


def test_a_clean_link_is_arithmetic():
    radio = Radio(moving(), "uplink", 0)  # 100 kb/s, packets of 200 bytes with 25 more
    assert transfer_ms(radio, 7.0, 500) == pytest.approx((500 + 3 * 25) * 8 / 100)


def test_a_trace_is_integrated_over_its_steps_and_laps(tmp_path):
    channel = moving(trace=trace(tmp_path, [(0, 80), (1, 0), (2, 8)]), packet_overhead_bytes=0, packet_bytes=100_000)
    radio = Radio(channel, "uplink", 0)
    offset = radio._rate._offset_s
    at = (3.0 - offset) % 3.0  # the lap's beginning
    # 12,000 bytes are 96 kb: 80 in the first second, none in the second, 8 in the third, 8 of the next lap's first
    assert radio.arrival_s(at, 12_000) - at == pytest.approx(3.1)


def test_losses_are_as_frequent_as_stated():
    for channel, share in ((moving(packet_loss=0.2), 0.2), (moving(bursts=bursts(0.01, 0.6, 30, 10)), 0.1575)):
        radio, now = Radio(channel, "uplink", 1), 0.0
        for _ in range(20_000):
            now = radio.arrival_s(now, 10)
        assert radio.lost_packets / radio.sent_packets == pytest.approx(share, rel=0.06)


def test_equal_seeds_have_equal_draws_and_directions_do_not_share_it():
    channel = load_profile(ChannelProfile, "lte-pedestrian")
    times = [simulated(channel, 300, 0)[:50] for _ in range(2)]
    assert times[0] == times[1]
    first, other = Radio(channel, "uplink", 0), Radio(channel, "downlink", 0)
    assert first.start_s(0) != other.start_s(0)
