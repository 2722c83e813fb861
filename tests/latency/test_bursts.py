"""Losses in bursts against closed forms of the two-state chain and a simulation, transmission by transmission."""

from __future__ import annotations

import random

import numpy as np
import pytest

from autosplit.core.fading import stationary_loss
from autosplit.latency.channel.retransmissions import burst_retries, independent_retries, lasting
from autosplit.latency.random import DRAWS

from .channels import assert_percentiles_of, bursts, moving, over, sending

CHAINS = [(0.0, 1.0, 20.0, 3.0), (0.02, 0.6, 60.0, 6.0), (0.1, 0.9, 2.0, 40.0)]


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


@pytest.mark.parametrize("chain", CHAINS)
class TestChain:
    def test_loss_is_that_of_the_stationary_distribution(self, chain):
        _, _, good, bad = chain
        step = np.array([[1 - 1 / good, 1 / good], [1 / bad, 1 - 1 / bad]])
        stationary = np.linalg.matrix_power(step, 100_000)[0]
        assert stationary_loss(chain) == pytest.approx(stationary @ chain[:2])
        assert moving(bursts=bursts(*chain)).packet_loss.value == pytest.approx(stationary @ chain[:2])

    def test_tries_have_their_closed_form(self, chain):
        good_loss, bad_loss, good, bad = chain
        step = np.array([[1 - 1 / good, 1 / good], [1 / bad, 1 - 1 / bad]])
        lost = np.diag([good_loss, bad_loss]) @ step
        over_k, _ = lasting(chain)
        for k in (0, 1, 2, min(9, over_k.shape[1] - 1)):
            survivors = np.linalg.matrix_power(lost, k + 1) @ np.ones(2)
            np.testing.assert_allclose(over_k[:, k], 1 - survivors, atol=1e-12)

    def test_mean_retries_of_many_packets(self, chain):
        loss = stationary_loss(chain)
        again = burst_retries("test", chain, np.full((1, DRAWS), 1000))
        assert again.mean() / 1000 == pytest.approx(loss / (1 - loss), rel=0.05)
        beyond = burst_retries("test", chain, np.full((1, DRAWS), 5000))
        assert beyond.mean() / 5000 == pytest.approx(loss / (1 - loss), rel=0.02)

    @pytest.mark.parametrize("packets", [1, 10, 60])
    def test_latency_is_that_of_a_simulation(self, chain, packets):
        answer = over(moving(bursts=bursts(*chain)), sending(200 * packets))
        rng = random.Random(packets)
        each_ms = 225 * 8 / 100
        times = [packets * each_ms + run(rng, chain, packets) * (each_ms + 7) for _ in range(4000)]
        assert_percentiles_of(answer, times)

    def test_retransmissions_never_fall_with_the_packets(self, chain):
        counts = np.arange(0, 3000)[:, None] + np.zeros((1, DRAWS), dtype=np.intp)
        assert (np.diff(burst_retries("test", chain, counts), axis=0) >= 0).all()


def test_a_chain_of_equal_states_is_independent_loss():
    counts = np.full((1, DRAWS), 800)
    even = burst_retries("test", (0.2, 0.2, 5.0, 5.0), counts)
    independent = independent_retries("test", 0.2, counts)
    assert even.mean() == pytest.approx(800 * 0.2 / (1 - 0.2), rel=0.01)
    assert even.std() == pytest.approx(independent.std(), rel=0.15)


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
