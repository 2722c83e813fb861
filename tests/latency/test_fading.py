"""Shannon's rate, Rayleigh fading and shadowing against closed forms and a simulation, block by block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import exp1

from autosplit.core.fading import Rayleigh, Shadowing, Shannon, mean_bits_per_hz
from autosplit.latency.channel.rate_process import BLOCKS, rate_process_of, typical_kbps_and_jitter_ms
from autosplit.latency.random import POINTS, quantile
from autosplit.testing import make_conditions

from .channels import SHANNON, assert_percentiles_of, figures, moving, over, sending

RAYLEIGH = figures(coherence_ms=20)


def shannon(**changes: float) -> Shannon:
    return Shannon.model_validate(SHANNON | figures(**changes))


def rayleigh_bits(snr: float, most: float = math.inf) -> float:
    """E[min(log2(1 + x), most)] for exponential x of mean `snr` (Alouini, Goldsmith 1999, eq. 34, and with a limit)."""
    limit = 0.0 if most == math.inf else exp1(2**most / snr)
    return float(math.log2(math.e) * math.exp(1 / snr) * (exp1(1 / snr) - limit))


class TestShannon:
    @pytest.mark.parametrize(("changes", "kbps"), [
        ({}, 50 * 0.5 * math.log2(11)),
        ({"snr_db": 0, "efficiency": 1}, 50),
        ({"snr_db": -10}, 25 * math.log2(1.1)),
        ({"snr_db": 30, "most_bits_per_hz": 2}, 100),
        ({"bandwidth_khz": 200}, 100 * math.log2(11)),
    ])
    def test_rate_is_a_share_of_the_bound_up_to_the_modulations_limit(self, changes, kbps):
        channel = moving(shannon=SHANNON | figures(**changes))
        assert channel.uplink_kbps.value == pytest.approx(kbps)
        answer = over(channel, sending(300))
        assert answer.p50_ms.item() == answer.p99_ms.item() == pytest.approx((300 + 50) * 8 / kbps)

    def test_scaling_the_rate_scales_the_bandwidth(self):
        channel = moving(shannon=SHANNON, rayleigh=RAYLEIGH).scaled(3, 1)
        again = type(channel).model_validate(channel.model_dump())
        assert again == channel
        assert again.uplink_kbps.value == pytest.approx(150 * 0.5 * rayleigh_bits(10), rel=1e-9)


class TestMeanRate:
    @pytest.mark.parametrize("snr_db", [-20, 0, 10, 40])
    @pytest.mark.parametrize("most", [0.5, 3.0, math.inf])
    def test_under_rayleigh_fading_it_is_the_exponential_integral(self, snr_db, most):
        limit = {} if most == math.inf else {"most_bits_per_hz": most}
        found = mean_bits_per_hz(shannon(snr_db=snr_db, **limit), Rayleigh.model_validate(RAYLEIGH), None)
        assert found == pytest.approx(0.5 * rayleigh_bits(10 ** (snr_db / 10), most / 0.5), rel=1e-8)

    @pytest.mark.parametrize("fading", [None, Rayleigh.model_validate(RAYLEIGH)])
    def test_under_shadowing_it_is_that_of_many_drawn_transfers(self, fading):
        rng = np.random.default_rng(0)
        snr = 10 ** ((10 + 6 * rng.standard_normal(1_000_000)) / 10)
        snr *= 1 if fading is None else rng.exponential(size=snr.shape)
        expected = np.minimum(0.5 * np.log2(1 + snr), 2).mean()
        shadowing = Shadowing.model_validate(figures(sigma_db=6))
        found = mean_bits_per_hz(shannon(most_bits_per_hz=2), fading, shadowing)
        assert found == pytest.approx(expected, rel=3e-3)

    def test_the_draws_have_it(self):
        channel = moving(shannon=SHANNON, rayleigh=RAYLEIGH)
        process = rate_process_of(channel)
        assert process.done[:, -1].mean() / (BLOCKS * 20) == pytest.approx(1, rel=2e-3)
        np.testing.assert_allclose(process.mean, 1, rtol=1e-6)


def simulated_ms(rng, bits, sigma_db=0.0, coherence_ms=20.0, snr_db=10.0, bandwidth_khz=50, efficiency=0.5):
    """One transfer, block by block."""
    shadow_db = sigma_db * rng.standard_normal()
    now = 0.0
    left_in_block = coherence_ms * rng.random()
    while True:
        snr = 10 ** ((snr_db + shadow_db) / 10) * rng.exponential()
        rate = bandwidth_khz * efficiency * math.log2(1 + snr)  # kb/s, so bits a millisecond
        if bits <= rate * left_in_block:
            return now + bits / rate
        bits -= rate * left_in_block
        now += left_in_block
        left_in_block = coherence_ms


class TestTransfers:
    @pytest.mark.parametrize("sigma_db", [0, 6])
    @pytest.mark.parametrize("payload", [20, 400, 3000])
    def test_percentiles_are_those_of_a_simulation(self, payload, sigma_db):
        blocks = {"shadowing": figures(sigma_db=sigma_db)} if sigma_db else {}
        answer = over(moving(shannon=SHANNON, rayleigh=RAYLEIGH, **blocks), sending(payload))
        rng = np.random.default_rng(payload)
        bits = 8 * (payload + 25 * math.ceil(payload / 200))
        assert_percentiles_of(answer, [simulated_ms(rng, bits, sigma_db) for _ in range(8000)])

    def test_in_one_block_the_median_is_that_of_the_median_ratio(self):
        answer = over(moving(shannon=SHANNON, rayleigh=figures(coherence_ms=1e6)), sending(100))
        rate = 25 * math.log2(1 + 10 * math.log(2))
        assert answer.p50_ms.item() == pytest.approx(125 * 8 / rate, rel=0.02)

    def test_shadowing_alone_leaves_percentiles_of_the_normal_distribution(self):
        answer = over(moving(shannon=SHANNON, shadowing=figures(sigma_db=4)), sending(100))
        for found, z in ((answer.p50_ms, 0), (answer.p95_ms, -1.6449), (answer.p99_ms, -2.3263)):
            rate = 25 * math.log2(1 + 10 ** (1 + 0.4 * z))
            assert found.item() == pytest.approx(125 * 8 / rate, rel=0.02)

    def test_many_blocks_average_out(self):
        channel = moving(shannon=SHANNON, rayleigh=figures(coherence_ms=0.1))
        answer = over(channel, sending(20_000))
        expected = 22_500 * 8 / channel.uplink_kbps.value
        assert answer.p50_ms.item() == pytest.approx(expected, rel=0.02)
        assert answer.p99_ms.item() < 1.04 * expected

    @pytest.mark.parametrize("blocks", [BLOCKS, 16 * BLOCKS])
    def test_the_spread_of_many_blocks_falls_with_the_root_of_their_number(self, blocks):
        process = rate_process_of(moving(shannon=SHANNON, rayleigh=RAYLEIGH))
        bits = np.log2(1 + 10 * np.random.default_rng(1).exponential(size=1_000_000))
        taken = process.taken_ms(np.full(POINTS, blocks * 20.0))
        assert taken.mean() == pytest.approx(blocks * 20, rel=0.01)
        assert taken.std() / taken.mean() == pytest.approx(bits.std() / bits.mean() / blocks**0.5, rel=0.05)

    def test_energy_counts_the_time_on_the_air(self):
        channel = moving(shannon=SHANNON, rayleigh=RAYLEIGH)
        kbps, device = channel.uplink_kbps.value, make_conditions().device
        answer, even = over(channel, sending(100)), over(moving(uplink_kbps=kbps), sending(100))
        air_ms = rate_process_of(channel).taken_ms(np.full(POINTS, 125 * 8 / kbps)).mean()
        assert answer.transmit_mj.item() == pytest.approx((device.idle_mw.value + 80) * air_ms / 1000, rel=1e-3)
        assert answer.transmit_mj.item() > even.transmit_mj.item()  # the mean of 1 / rate exceeds 1 / mean rate


def test_a_policy_sees_typical_rate_and_jitter():
    channel = moving(shannon=SHANNON, rayleigh=figures(coherence_ms=1e6))
    kbps, jitter_ms = typical_kbps_and_jitter_ms(channel)
    median_rate, low_rate = (25 * math.log2(1 + 10 * x) for x in (math.log(2), -math.log(0.95)))
    assert kbps == pytest.approx(median_rate, rel=0.02)
    assert jitter_ms == pytest.approx(225 * 8 * (1 / low_rate - 1 / median_rate), rel=0.05)
    assert typical_kbps_and_jitter_ms(moving()) == (100, 0)


def test_quantile_of_a_moving_rate_is_that_of_its_draws():
    channel = moving(shannon=SHANNON, rayleigh=RAYLEIGH)
    draws = rate_process_of(channel).taken_ms(np.full(POINTS, 125 * 8 / channel.uplink_kbps.value))
    answer = over(channel, sending(100))
    assert answer.p99_ms.item() == pytest.approx(quantile(draws, 0.99)[0].item(), rel=5e-3)
