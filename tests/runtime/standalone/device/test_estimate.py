"""Rate and delay of synthetic links, from exchanges alone."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.runtime.standalone.device.estimate import LinkEstimate

RATES = tuple(np.geomspace(5, 5000, 49))
DELAYS = tuple(np.geomspace(1, 100, 16))
OVERHEAD = 74.0
THIRD = 1.33


class Link:
    """A link of a rate and a delay, and an estimate that sees its exchanges, ten a second."""

    def __init__(self, kbps, delay_ms=10.0, jitter_ms=1.0, seed=0):
        self.kbps, self.delay_ms, self.jitter_ms = kbps, delay_ms, jitter_ms
        self.estimate, self.now_s = LinkEstimate(RATES, DELAYS, OVERHEAD), 0.0
        self._random = np.random.default_rng(seed)

    def exchange(self, size, late_ms=0.0):
        self.now_s += 0.1
        ms = self.delay_ms + 8 * (size + OVERHEAD) / self.kbps + self._random.exponential(self.jitter_ms) + late_ms
        self.estimate.observe(size, ms, self.now_s)

    def ping(self):
        self.exchange(-14)


def known():
    """A fast link, of which a few exchanges have told all."""
    link = Link(1000.0)
    link.ping()
    for _ in range(20):
        link.exchange(500)
    return link


def near(found, expected, thirds=2.0):
    """Whether two values are no more than so many steps of a third apart."""
    return abs(np.log(found / expected)) <= thirds * np.log(THIRD)


@pytest.mark.parametrize("kbps", [15.0, 100.0, 1000.0])
def test_payloads_of_two_sizes_tell_rate_and_delay(kbps):
    link = Link(kbps)
    for _ in range(8):
        link.exchange(50)
        link.exchange(800)
    assert near(link.estimate.rate_kbps, kbps)
    assert near(link.estimate.delay_ms, 10, thirds=3)


def test_a_ping_and_payloads_of_one_size_do_too():
    link = Link(40.0)
    for _ in range(4):
        link.ping()
        link.exchange(400)
    assert near(link.estimate.rate_kbps, 40)
    assert near(link.estimate.delay_ms, 10, thirds=3)


def test_payloads_of_one_size_leave_open_what_they_cannot_tell():
    link = Link(40.0)
    for _ in range(10):
        link.exchange(30)
    rates = link.estimate.probability.sum(axis=1)
    assert (rates > 0.02).sum() >= 4  # several rates are still likely
    expected = 10 + 8 * (30 + OVERHEAD) / 40
    times = np.asarray(DELAYS)[None, :] + 8 * (30 + OVERHEAD) / np.asarray(RATES)[:, None]
    assert (link.estimate.probability * times).sum() == pytest.approx(expected, rel=0.3)  # all say how long it takes


def test_a_fall_shows_after_one_exchange_and_a_recovery_soon():
    link = known()
    assert near(link.estimate.rate_kbps, 1000)
    link.kbps = 30.0
    link.exchange(500)
    assert link.estimate.rate_kbps < 60
    for _ in range(10):
        link.exchange(30)
    assert link.estimate.rate_kbps < 90
    link.kbps = 1000.0
    for _ in range(3):
        link.exchange(30)
    assert link.estimate.rate_kbps > 200


def test_one_straggler_is_forgotten_soon():
    link = known()
    link.exchange(500, late_ms=60)
    link.exchange(500)
    link.exchange(500)
    assert near(link.estimate.rate_kbps, 1000, thirds=3)


def test_silence_is_forgetting():
    link = Link(1000.0)
    for _ in range(20):
        link.exchange(500)
    sure = link.estimate.probability.max()
    link.now_s += 600
    link.exchange(-14)
    assert link.estimate.probability.max() < sure / 2


def test_an_answer_that_never_came_speaks_for_a_slow_link():
    link = Link(1000.0)
    for _ in range(10):
        link.exchange(500)
    link.estimate.missed(500, 400.0, link.now_s + 0.1)
    assert link.estimate.rate_kbps < 30


@pytest.mark.parametrize("ms", [0.0, 1e-6, 1e7])
def test_no_exchange_breaks_it(ms):
    link = Link(1000.0)
    link.estimate.observe(500, ms, 1.0)
    link.estimate.missed(1e9, 1.0, 2.0)
    assert np.isfinite(link.estimate.probability).all()
    assert link.estimate.probability.sum() == pytest.approx(1)
