from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nbinom

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
from autosplit.latency import LatencyBreakdown
from autosplit.latency.analytic import AnalyticLatencyModel, stage_ms
from autosplit.latency.base import ENERGIES
from autosplit.latency.channel.link import LEVELS
from autosplit.latency.random import Z95, quantile
from autosplit.testing import LatencyModelContract, make_conditions, make_workload

from .channels import SHANNON, bursts, figures, moving, sending, trace


def conditions(budget_ms: float = 1000, **blocks: Any) -> Conditions:
    return make_conditions(budget_ms=budget_ms).model_copy(update={"channel": moving(**blocks)})


def ask(workload: Workload, c: Conditions) -> LatencyBreakdown:
    return AnalyticLatencyModel().latency([workload], [c])


class TestContract(LatencyModelContract):
    @pytest.fixture
    def model(self):
        return AnalyticLatencyModel()


class TestStages:
    @pytest.mark.parametrize(("cost", "expected_ms"), [
        (StageCost(conv_macs=5.5e6), 100.0),
        (StageCost(depthwise_macs=5.5e6), 1000.0),
        (StageCost(linear_macs=5.5e6), 200.0),
        (StageCost(weight_elements=1e6, activation_elements=2e6), 3e6 * 2 / 60e6 * 1000),  # fp16: 2 bytes each
        (StageCost(operators=50), 1.0),
        (StageCost(coded_symbols=4000), 2.0),
        (StageCost(image_pixels=1024), 1.024),
    ])
    def test_each_term_has_its_rate_and_unit(self, cost, expected_ms):
        rates = {"conv_mmacs": 55, "depthwise_mmacs": 5.5, "linear_mmacs": 27.5, "memory_mb_per_s": 60,
                   "operator_overhead_us": 20, "coding_ksymbols": 2000, "image_kpixels": 1000, "active_mw": 1,
                   "idle_mw": 1}
        device = DeviceProfile(name="test", title="test", arithmetic="fp16",
                               **{k: Parameter(value=v, source="test") for k, v in rates.items()})
        assert stage_ms(cost, device) == pytest.approx(expected_ms)

    def test_terms_add_up(self):
        device = load_profile(DeviceProfile, "stm32l4r5")
        a, b = StageCost(conv_macs=1e6, operators=2), StageCost(weight_elements=1e5, coded_symbols=50)
        assert stage_ms(a + b, device) == pytest.approx(stage_ms(a, device) + stage_ms(b, device))

    def test_each_stage_runs_on_its_machine(self):
        work, c = make_workload(), conditions()
        answer = ask(work, c)
        assert answer.device_ms.item() == pytest.approx(stage_ms(work.device, c.device))
        assert answer.encode_ms.item() == pytest.approx(stage_ms(work.encode, c.device))
        assert answer.edge_ms.item() == pytest.approx(stage_ms(work.edge, c.edge))


class TestUplink:
    @pytest.mark.parametrize(("payload", "packets"), [(1, 1), (50, 1), (200, 1), (201, 2), (400, 2), (1001, 6)])
    def test_payload_and_overhead_of_every_packet_over_the_rate(self, payload, packets):
        answer = ask(sending(payload), conditions())
        assert answer.uplink_ms.item() == pytest.approx((payload + 25 * packets) * 8 / 100)
        assert answer.p50_ms.item() == answer.p95_ms.item() == answer.uplink_ms.item()

    def test_access_delay_has_the_profiles_percentiles(self):
        answer = ask(sending(100), conditions(access_ms_p50=20, access_ms_p95=90))
        air_ms = 125 * 8 / 100
        assert answer.p50_ms.item() == pytest.approx(20 + air_ms, rel=0.01)
        assert answer.p95_ms.item() == pytest.approx(90 + air_ms, rel=0.01)

    def test_payload_varies_between_its_mean_and_p95(self):
        answer = ask(sending(100, p95=150), conditions())
        assert answer.p50_ms.item() == pytest.approx((100 + 25) * 8 / 100, rel=0.01)
        assert answer.p95_ms.item() == pytest.approx((150 + 25) * 8 / 100, rel=0.01)

    def test_payload_is_never_negative(self):
        answer = ask(sending(10, p95=1000), conditions())
        assert answer.uplink_ms.item() >= 25 * 8 / 100

    @pytest.mark.parametrize("loss", [0.0005, 0.0019, 0.002, 0.05])
    @pytest.mark.parametrize("packets", [1, 3, 20, 1100])
    def test_latency_has_the_steps_of_the_number_of_retransmissions(self, loss, packets):
        link = conditions(packet_loss=loss, packet_overhead_bytes=0)
        spread = nbinom(packets, 1 - loss)
        for again in {int(spread.ppf(level)) for level in (0.01, 0.5, 0.95, 0.999)}:
            slack = (packets + again + 0.5) * 16 + again * 7  # between the latency of `again` retransmissions and more
            answer = ask(sending(200 * packets), link.model_copy(update={"budget_ms": slack}))
            assert answer.in_time.item() == pytest.approx(spread.cdf(again), abs=1 / LEVELS)

    def test_each_retry_costs_its_airtime_and_the_wait(self):
        c = conditions(packet_loss=0.9)  # the median draw of one packet is lost six times: 0.9 ** 7 < 0.5 < 0.9 ** 6
        answer = ask(sending(100), c)
        assert answer.uplink_ms.item() == pytest.approx(7 * 125 * 8 / 100 + 6 * 7)

    def test_loss_only_adds(self):
        clean, lossy = (ask(sending(1000), conditions(packet_loss=p)) for p in (0.0, 0.2))
        assert lossy.p50_ms.item() > clean.p50_ms.item()
        assert lossy.p95_ms.item() > lossy.p50_ms.item()


class TestDownlinkAndBudget:
    def test_downlink_has_its_own_rate(self):
        answer = ask(sending(100, result_bytes=10), conditions())
        assert answer.downlink_ms.item() == pytest.approx((10 + 25) * 8 / 50)
        assert answer.p50_ms.item() == pytest.approx(answer.uplink_ms.item() + answer.downlink_ms.item())

    def test_no_answer_takes_no_downlink(self):
        answer = ask(sending(100), conditions(access_ms_p50=5, access_ms_p95=9))
        assert answer.downlink_ms.item() == 0

    def test_answers_of_several_sizes_in_one_call(self):
        works = [sending(100, result_bytes=b) for b in (10, 0, 400, 10)]
        answer = AnalyticLatencyModel().latency(works, [conditions()])
        assert answer.downlink_ms[:, 0] == pytest.approx([5.6, 0, 72, 5.6])

    @pytest.mark.parametrize("quantile_of_access", [0.25, 0.5, 0.9])
    def test_in_time_is_the_probability_of_the_delay(self, quantile_of_access):
        c = conditions(access_ms_p50=20, access_ms_p95=90)
        z = NormalDist().inv_cdf(quantile_of_access)
        budget = 125 * 8 / 100 + 20 * (90 / 20) ** (z / Z95)
        answer = ask(sending(100), c.model_copy(update={"budget_ms": float(budget)}))
        assert answer.in_time.item() == pytest.approx(quantile_of_access, abs=1.5 / LEVELS)

    def test_whole_on_the_device_is_certain(self):
        work = make_workload("output")
        ms = stage_ms(work.device, conditions().device)
        for budget, in_time in ((ms * 1.01, 1.0), (ms * 0.99, 0.0)):
            answer = ask(work, conditions(budget))
            assert (answer.in_time.item(), answer.p50_ms.item(), answer.p95_ms.item()) == (
                in_time, pytest.approx(ms), pytest.approx(ms))

    def test_edge_work_without_payload_does_not_count(self):
        answer = ask(sending(0).model_copy(update={"edge": StageCost(conv_macs=1e12)}), conditions())
        assert answer.p95_ms.item() == answer.edge_ms.item() == 0


class TestEnergy:
    def test_formula(self):
        work, c = make_workload(payload_bytes=100, spread=1.0), conditions(access_ms_p50=30, access_ms_p95=30)
        answer = ask(work, c)
        device, idle = c.device.active_mw.value, c.device.idle_mw.value
        compute = device * (answer.device_ms.item() + answer.encode_ms.item())
        air = (idle + 80) * 125 * 8 / 100
        waiting = (idle + 10) * (30 + answer.edge_ms.item() + 30 + (4 + 25) * 8 / 50)
        assert answer.energy_mj.item() == pytest.approx((compute + air + waiting) / 1000)

    def test_on_the_device_only_computing_counts(self):
        work, c = make_workload("output"), conditions()
        expected = c.device.active_mw.value * stage_ms(work.device, c.device) / 1000
        assert ask(work, c).energy_mj.item() == pytest.approx(expected)

    def test_repeated_packets_cost_energy(self):
        clean, lossy = (ask(sending(1000), conditions(packet_loss=p)).energy_mj.item() for p in (0.0, 0.2))
        assert lossy / clean > 1.2

    def test_waiting_before_a_retransmission_is_receiving(self):
        work, loss = sending(1000), 0.2
        at_once, later = (conditions(packet_loss=loss, retransmit_ms=ms) for ms in (0, 50))
        waits_ms = 5 * loss / (1 - loss) * 50  # five packets
        power = later.device.idle_mw.value + 10
        extra = ask(work, later).energy_mj.item() - ask(work, at_once).energy_mj.item()
        assert extra == pytest.approx(power * waits_ms / 1000, rel=0.02)


    def test_parts_add_up_and_are_what_they_say(self):
        work = make_workload(payload_bytes=100, spread=1.0)
        c = conditions(access_ms_p50=30, access_ms_p95=30, tail_ms=500, tail_mw=40)
        answer = ask(work, c)
        idle = c.device.idle_mw.value
        assert answer.compute_mj.item() == pytest.approx(
            c.device.active_mw.value * (answer.device_ms.item() + answer.encode_ms.item()) / 1000)
        assert answer.transmit_mj.item() == pytest.approx((idle + 80) * 10 / 1000)
        waits_ms = 30 + answer.edge_ms.item() + answer.downlink_ms.item()
        assert answer.wait_mj.item() == pytest.approx((idle + 10) * waits_ms / 1000)
        assert answer.tail_mj.item() == pytest.approx(20)
        assert answer.energy_mj.item() == pytest.approx(sum(getattr(answer, n).item() for n in ENERGIES), rel=1e-12)

    def test_a_tail_costs_energy_but_no_time_and_only_after_a_transfer(self):
        works = [make_workload(), make_workload("output")]
        plain, tailed = (AnalyticLatencyModel().latency(works, [conditions(**tail)])
                         for tail in ({}, {"tail_ms": 500, "tail_mw": 40}))
        assert (tailed.energy_mj - plain.energy_mj)[:, 0] == pytest.approx([20, 0])
        np.testing.assert_array_equal(tailed.p99_ms, plain.p99_ms)


class TestEdges:
    @pytest.mark.parametrize(("plans", "count"), [(0, 0), (0, 2), (3, 0)])
    def test_empty_questions(self, plans, count):
        answer = AnalyticLatencyModel().latency([sending(10)] * plans, [conditions()] * count)
        assert answer.p95_ms.shape == answer.energy_mj.shape == (plans, count)

    def test_more_plans_than_a_block(self):
        works = [sending(10 + i) for i in range(600)]
        answer = AnalyticLatencyModel().latency(works, [conditions()])
        assert answer.uplink_ms[599] == ask(works[599], conditions()).uplink_ms[0]
        assert (np.diff(answer.uplink_ms[:, 0]) > 0).all()

    @pytest.mark.parametrize(("link", "message"), [
        ({"packet_loss": 1}, "packet_loss must be below 1"),
        ({"uplink_kbps": 0}, "uplink_kbps must be above 0"),
        ({"access_ms_p50": 9, "access_ms_p95": 5}, "median 9 ms and 95th percentile 5 ms"),
        ({"access_ms_p50": 0, "access_ms_p95": 5}, "median 0 ms and 95th percentile 5 ms"),
    ])
    def test_impossible_channels_are_refused(self, link, message):
        with pytest.raises(ConfigError, match=f"channel 'test': .*{message}"):
            ask(sending(10), conditions(**link))

    def test_device_that_never_finishes_is_refused(self):
        c = conditions()
        device = c.device.model_copy(update={"conv_mmacs": Parameter(value=0, source="test")})
        with pytest.raises(ConfigError, match="device 'stm32l4r5': conv_mmacs must be above 0"):
            ask(sending(10), c.model_copy(update={"device": device}))

    def test_quantiles_of_a_known_sample(self):
        drawn = np.random.default_rng(0).permuted(np.tile(np.arange(1000.0), (3, 1)), axis=1)
        for level, found in zip((0.0, 0.5, 0.95, 0.99, 1.0), quantile(drawn, 0.0, 0.5, 0.95, 0.99, 1.0), strict=True):
            assert found.tolist() == [pytest.approx(min(max(1000 * level - 0.5, 0), 999))] * 3


TRACED = [(0, 100), (0.2, 3), (0.3, 0), (0.35, 900)]
MOVING = {
    "shannon": lambda _: {"shannon": SHANNON},
    "rayleigh": lambda _: {"shannon": SHANNON, "rayleigh": figures(coherence_ms=30)},
    "shadowing": lambda _: {"shannon": SHANNON | figures(most_bits_per_hz=1), "shadowing": figures(sigma_db=8)},
    "both": lambda _: {"shannon": SHANNON, "rayleigh": figures(coherence_ms=3), "shadowing": figures(sigma_db=8)},
    "trace": lambda folder: {"trace": trace(folder, TRACED)},
    "bursts": lambda _: {"bursts": bursts(0.02, 0.7, 20, 5)},
    "bursts on a trace": lambda folder: {"trace": trace(folder, TRACED), "bursts": bursts(0.02, 0.7, 20, 5)},
}


@pytest.mark.parametrize("kind", MOVING)
class TestMovingChannels:
    @pytest.fixture
    def moved(self, kind, tmp_path):
        blocks = MOVING[kind](tmp_path)
        return conditions(300, access_ms_p50=4, access_ms_p95=9, **blocks)

    def test_more_bytes_and_lower_rates_are_never_faster(self, moved):
        slower = moved.model_copy(update={"channel": moved.channel.scaled(0.7, 1)})
        works = [sending(b, 1.2 * b, result_bytes=4) for b in np.unique(np.geomspace(1, 80_000, 150).round())]
        answer = AnalyticLatencyModel().latency(works, [moved, slower])
        for latency in (answer.uplink_ms, answer.p50_ms, answer.p95_ms, answer.p99_ms, answer.energy_mj,
                        answer.transmit_mj, -answer.in_time):
            assert (np.diff(latency, axis=0) >= 0).all()
            assert (latency[:, 1] >= latency[:, 0]).all()
        assert (answer.p95_ms <= answer.p99_ms).all()

    def test_one_by_one_and_together_agree_to_the_last_bit(self, moved):
        works = [make_workload("layer1", 11.0 * i * i) for i in range(40)]
        others = [moved, conditions(), moved.model_copy(update={"budget_ms": 90.0})]
        together = AnalyticLatencyModel().latency(works, others)
        for p in (0, 1, 17, 39):
            for c, condition in enumerate(others):
                assert ask(works[p], condition).summary(0) == together.summary(p, c)

    def test_energies_add_up(self, moved):
        answer = AnalyticLatencyModel().latency([make_workload("layer1", 11.0 * i) for i in range(20)], [moved])
        np.testing.assert_allclose(sum(getattr(answer, n) for n in ENERGIES), answer.energy_mj, rtol=1e-12)

    def test_in_time_is_one_at_the_slowest_draw(self, moved):
        answer = ask(sending(500), moved.model_copy(update={"budget_ms": 1e9}))
        assert answer.in_time.item() == 1
        at_p95 = ask(sending(500), moved.model_copy(update={"budget_ms": answer.p95_ms.item()})).in_time.item()
        assert at_p95 == pytest.approx(0.95, abs=2 / LEVELS) or at_p95 > 0.95  # equal draws share their rank


@pytest.mark.parametrize(("name", "p99_within"), [("ble-1m", 0.02), ("lte", 0.05)])
def test_p99_of_constant_channels_is_that_of_the_delay(name, p99_within):
    profile = load_profile(ChannelProfile, name)
    lossless = profile.model_copy(update={"packet_loss": Parameter(value=0, source="test")})
    answer = ask(sending(100), make_conditions(name).model_copy(update={"channel": lossless}))
    p50, p95 = profile.access_ms_p50.value, profile.access_ms_p95.value
    air_ms = (100 + profile.packet_overhead_bytes.value) * 8 / profile.uplink_kbps.value
    expected = air_ms + p50 * math.exp(math.log(p95 / p50) / Z95 * NormalDist().inv_cdf(0.99))
    assert answer.p99_ms.item() == pytest.approx(expected, rel=p99_within)


figure = st.floats(0.5, 500)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rate=st.floats(1, 1e5), packet=st.floats(20, 3000), loss=st.floats(0, 0.6), access=figure, tail=st.floats(1, 8),
       first=st.floats(1, 5000), more=st.floats(0, 5000))
def test_more_bytes_and_lower_rates_are_never_faster(rate, packet, loss, access, tail, first, more):
    link = {"packet_bytes": packet, "packet_loss": loss, "access_ms_p50": access, "access_ms_p95": access * tail}
    slow, fast = conditions(uplink_kbps=rate, **link), conditions(uplink_kbps=rate * 1.5, **link)
    works = [sending(b, 1.2 * b, result_bytes=4) for b in (first, first + more)]
    answer = AnalyticLatencyModel().latency(works, [slow, fast])
    for latency in (answer.uplink_ms, answer.p50_ms, answer.p95_ms, answer.energy_mj, -answer.in_time):
        assert (latency[1] >= latency[0] - 1e-9).all()
        assert (latency[:, 0] >= latency[:, 1] - 1e-9).all()
    assert (answer.p50_ms <= answer.p95_ms).all()
