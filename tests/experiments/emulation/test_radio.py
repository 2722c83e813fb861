"""The radio draws packet by packet what the latency model predicts from quantiles; neither knows the other."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile, list_profiles, load_profile
from autosplit.experiments.emulation.radio import Radio
from tests.latency.channels import SHANNON, bursts, figures, moving, over, sending, trace

LINKS = 400_000
"""So many that chance moves p95 of the most variable packaged channel by a third of a percent (one standard error)."""


def transfers_ms(radio, start_s, count):
    """One message on each link of a radio that was idle."""
    now = radio.start_s(start_s)
    while count > 0:
        packet = min(count, radio.packet_bytes)
        now = radio.arrival_s(now, packet)
        count -= packet
    return 1000.0 * (now - start_s)


def simulated(channel, payload, answer, links=LINKS, seed=3):
    """Milliseconds up and down, from some instant on each link."""
    up, down = Radio(channel, "uplink", seed, links), Radio(channel, "downlink", seed, links)
    starts = np.random.default_rng(5).uniform(0, 1e4, links)
    return transfers_ms(up, starts, payload) + transfers_ms(down, starts, answer)


def assert_predicted(channel, payload, answer=44):
    """p50 and p95 within 1 %, p99 within 3 %, and the probability to meet a deadline near them within half a point."""
    times = np.sort(simulated(channel, payload, answer))
    for level, within in ((0.5, 0.01), (0.95, 0.01), (0.99, 0.03)):
        expected = float(np.quantile(times, level))
        predicted = over(channel, sending(payload, result_bytes=answer), budget_ms=1.03 * expected)
        found = getattr(predicted, f"p{round(level * 100)}_ms").item()
        assert found == pytest.approx(expected, rel=within), f"p{level * 100:g}"
        share = np.searchsorted(times, 1.03 * expected) / len(times)
        assert predicted.in_time.item() == pytest.approx(share, abs=0.005), f"in time by {1.03 * expected:g} ms"


@pytest.mark.parametrize("payload", [62, 1000])
@pytest.mark.parametrize("name", list_profiles(ChannelProfile))
def test_every_packaged_channel_is_as_predicted(name, payload):
    assert_predicted(load_profile(ChannelProfile, name), payload)


@pytest.mark.parametrize("loss", [0.0005, 0.0015, 0.002])
def test_rare_losses_are_as_predicted(loss):
    lossy = {"packet_loss": Parameter(value=loss, source="test")}
    assert_predicted(load_profile(ChannelProfile, "5g").model_copy(update=lossy), 16_384)


@pytest.mark.parametrize("loss", [0, 0.1])
def test_a_trace_is_as_predicted_also_while_it_waits(tmp_path, loss):
    blocks = {"trace": trace(tmp_path, [(0, 1000), (0.5, 20), (0.8, 0), (1.0, 400)]), "packet_loss": loss}
    assert_predicted(moving(**blocks, retransmit_ms=150), 150)


@pytest.mark.parametrize("coherence_ms", [None, 15])
def test_fading_is_as_predicted(coherence_ms):
    blocks = {} if coherence_ms is None else {"rayleigh": figures(coherence_ms=coherence_ms)}
    assert_predicted(moving(shannon=SHANNON, shadowing=figures(sigma_db=6), **blocks), 250)


def test_a_clean_link_is_arithmetic():
    radio = Radio(moving(), "uplink", 0)  # 100 kb/s, packets of 200 bytes with 25 more
    assert transfers_ms(radio, 7.0, 500).item() == pytest.approx((500 + 3 * 25) * 8 / 100)


def test_a_trace_is_integrated_over_its_steps_and_laps(tmp_path):
    channel = moving(trace=trace(tmp_path, [(0, 80), (1, 0), (2, 8)]), packet_overhead_bytes=0, packet_bytes=100_000)
    radio = Radio(channel, "uplink", 0)
    offset = radio._rate._offset_s.item()
    at = (3.0 - offset) % 3.0  # the lap's beginning
    # 12,000 bytes are 96 kb: 80 in the first second, none in the second, 8 in the third, 8 of the next lap's first
    assert radio.arrival_s(at, 12_000).item() - at == pytest.approx(3.1)


def test_losses_are_as_frequent_as_stated():
    for channel, share in ((moving(packet_loss=0.2), 0.2), (moving(bursts=bursts(0.01, 0.6, 30, 10)), 0.1575)):
        radio, now = Radio(channel, "uplink", 1, links=1000), 0.0
        for _ in range(200):
            now = radio.arrival_s(now, 10)
        assert radio.lost_packets / radio.sent_packets == pytest.approx(share, rel=0.06)


def test_equal_seeds_have_equal_draws_and_directions_and_links_do_not_share_them():
    channel = load_profile(ChannelProfile, "lte-pedestrian")
    times = [simulated(channel, 300, 0, links=50) for _ in range(2)]
    assert times[0].tolist() == times[1].tolist()
    assert len(set(times[0])) == 50
    first, other = Radio(channel, "uplink", 0), Radio(channel, "downlink", 0)
    assert first.start_s(0) != other.start_s(0)
