"""Retransmissions against closed forms, step-by-step recursions and simulations: independent losses and bursts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import nbinom

from autosplit.core.fading import stationary_loss
from autosplit.latency.channel.retransmissions import probabilities, retransmissions
from autosplit.latency.random import POINTS

from .channels import assert_percentiles_of, bursts, moving, over, sending

CHAINS = [(0.0, 1.0, 20.0, 3.0), (0.02, 0.6, 60.0, 6.0), (0.1, 0.9, 2.0, 40.0), (0.5, 0.5, 1.0, 1.0)]


def run(rng, chain, packets):
    """Retransmissions of a transfer, step by step."""
    good_loss, bad_loss, good, bad = chain
    is_bad = rng.random() < bad / (good + bad)
    again = 0
    while packets:
        if rng.random() < (bad_loss if is_bad else good_loss):
            again += 1
        else:
            packets -= 1
        if rng.random() < 1 / (bad if is_bad else good):
            is_bad = not is_bad
    return again


def counted(chain, packets, most):
    """P(0), ..., P(most) retransmissions, summed over all paths transmission by transmission."""
    good_loss, bad_loss, good, bad = chain
    step = np.array([[1 - 1 / good, 1 / good], [1 / bad, 1 - 1 / bad]])
    lost = np.array([[good_loss], [bad_loss]]) * step
    at_start = np.zeros((most + 1, 2))
    at_start[0] = np.array([good, bad]) / (good + bad)
    for _ in range(packets):
        for again in range(most):
            at_start[again + 1] += at_start[again] @ lost
        at_start = at_start @ (step - lost)
    return at_start.sum(axis=1)


class TestIndependent:
    @pytest.mark.parametrize("loss", [1e-5, 0.0005, 0.0019, 0.002, 0.02, 0.3, 0.9])
    @pytest.mark.parametrize("packets", [1, 20, 1000, 1100, 5000])
    def test_their_number_is_negative_binomial(self, loss, packets):
        found = probabilities(packets, loss, None)
        np.testing.assert_allclose(found, nbinom(packets, 1 - loss).pmf(np.arange(len(found))), atol=1e-12)

    @pytest.mark.parametrize("loss", [0.0005, 0.001, 0.0019, 0.002, 0.003, 0.02, 0.1])
    @pytest.mark.parametrize("packets", [20, 1000, 1100])
    def test_levels_have_mean_and_variance_of_the_distribution(self, loss, packets):
        levels = retransmissions(packets, loss, None)
        assert levels.mean() == pytest.approx(packets * loss / (1 - loss), rel=0.01)
        assert levels.var() == pytest.approx(packets * loss / (1 - loss) ** 2, rel=0.02)

    def test_no_packets_and_no_loss_have_none(self):
        assert not retransmissions(0, 0.5, None).any()
        assert not retransmissions(9, 0.0, None).any()

    @pytest.mark.parametrize("packets", [1, 40, 4000])
    def test_levels_are_those_of_the_inverse_distribution(self, packets):
        expected = nbinom(packets, 0.8).ppf((np.arange(POINTS) + 0.5) / POINTS)
        assert (retransmissions(packets, 0.2, None) != expected).mean() < 1e-3  # rounding at the edge of a step


@pytest.mark.parametrize("chain", CHAINS)
class TestChain:
    def test_loss_is_that_of_the_stationary_distribution(self, chain):
        _, _, good, bad = chain
        step = np.array([[1 - 1 / good, 1 / good], [1 / bad, 1 - 1 / bad]])
        stationary = np.linalg.matrix_power((step + np.eye(2)) / 2, 100_000)[0]
        assert stationary_loss(chain) == pytest.approx(stationary @ chain[:2])
        assert moving(bursts=bursts(*chain)).packet_loss.value == pytest.approx(stationary @ chain[:2])

    @pytest.mark.parametrize("packets", [1, 2, 60])
    def test_their_number_is_that_of_all_paths(self, chain, packets):
        found = probabilities(packets, stationary_loss(chain), chain)
        expected = counted(chain, packets, 300)
        np.testing.assert_allclose(found[:300], expected[: len(found)][:300], atol=1e-12)

    @pytest.mark.parametrize("packets", [1000, 5000])
    def test_mean_of_many_packets(self, chain, packets):
        loss = stationary_loss(chain)
        again = retransmissions(packets, loss, chain)
        assert again.mean() / packets == pytest.approx(loss / (1 - loss), rel=0.01)

    @pytest.mark.parametrize("packets", [1, 10, 60])
    def test_latency_is_that_of_a_simulation(self, chain, packets):
        answer = over(moving(bursts=bursts(*chain)), sending(200 * packets))
        rng = random.Random(packets)
        each_ms = 225 * 8 / 100
        times = [packets * each_ms + run(rng, chain, packets) * (each_ms + 7) for _ in range(4000)]
        assert_percentiles_of(answer, times)

    def test_no_level_falls_with_the_packets(self, chain):
        before = retransmissions(0, stationary_loss(chain), chain)
        for packets in (1, 2, 3, 17, 18, 200, 201):
            after = retransmissions(packets, stationary_loss(chain), chain)
            assert (after >= before).all()
            assert (np.diff(after) >= 0).all()
            before = after


def test_a_chain_of_equal_states_is_independent_loss():
    for packets in (1, 7, 800):
        even, independent = (probabilities(packets, 0.2, chain) for chain in ((0.2, 0.2, 5.0, 5.0), None))
        shared = min(len(even), len(independent))
        np.testing.assert_allclose(even[:shared], independent[:shared], atol=1e-12)


def test_the_last_packet_is_repeated_at_its_own_size():
    # two packets, the second of one byte: either is lost as often, but a repeated byte takes 18 bits less a packet
    channel = moving(packet_loss=0.02, retransmit_ms=0)
    full_ms, last_ms = 225 * 8 / 100, 26 * 8 / 100
    for after_ms, share in ((full_ms + last_ms, 0.98**2), (full_ms + 2 * last_ms, 0.98**2 * 1.02)):
        assert over(channel, sending(201), budget_ms=after_ms + 1e-6).in_time.item() == pytest.approx(share, abs=2e-3)


def test_bursts_raise_the_tail_and_lower_the_median_at_equal_loss():
    chain = (0.0, 0.9, 90.0, 10.0)
    bursty = over(moving(bursts=bursts(*chain)), sending(1000))
    even = over(moving(packet_loss=stationary_loss(chain)), sending(1000))
    assert bursty.p95_ms.item() > 1.3 * even.p95_ms.item()
    assert bursty.p50_ms.item() <= even.p50_ms.item()


@pytest.mark.parametrize(("chain", "message"), [
    ((0.1, 1.2, 9, 9), "bad_loss is a probability"),
    ((0.1, 0.5, 0.5, 9), "good_packets must be between 1 and"),
    ((0.1, 0.5, 9, 1e4), "bad_packets must be between 1 and 1,000"),
    ((1, 1, 9, 9), "100.00% of all packets are lost"),
    ((0.9999, 0.9999, 9, 9), "99.99% of all packets are lost"),
])
def test_impossible_chains_are_refused(chain, message):
    with pytest.raises(ValueError, match=message):
        moving(bursts=bursts(*chain))
