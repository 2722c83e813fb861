"""What a device makes of its exchanges, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.runtime.standalone.control.estimates import carried_kbps, expected_kbps, long_mean, packed_bits


def test_a_payload_takes_whole_packets():
    sizes = np.array([1.0, 100.0, 101.0])
    assert packed_bits(sizes, 100.0, 20.0).tolist() == [8 * 21, 8 * 120, 8 * 141]


def test_a_rate_is_what_crossed_in_what_time():
    assert carried_kbps(1000.0, 50.0, True, 7.0) == 20.0
    # no answer: at most so much, and no more than was thought
    assert carried_kbps(1000.0, 50.0, False, 7.0) == 7.0
    assert carried_kbps(1000.0, 500.0, False, 7.0) == 2.0
    assert carried_kbps(np.array([100.0, 100.0]), np.array([0.0, 10.0]), np.array([True, True]), 1.0).tolist() == [
        1000.0, 10.0]


def test_what_was_seen_last_is_forgotten():
    assert expected_kbps(8.0, 5.0, 0.0, 100.0, 32.0) == 8.0
    assert expected_kbps(8.0, 5.0, 1e9, 100.0, 32.0) == 32.0
    # five deadlines later it counts for 1 / e
    assert np.log2(expected_kbps(8.0, 5.0, 500.0, 100.0, 32.0)) == pytest.approx(5 - 2 / np.e)
    assert expected_kbps(1e-9, -30.0, 0.0, 100.0, 32.0) == 0.032


def test_a_long_mean_moves_by_a_tenth():
    assert long_mean(10.0, 20.0) == 11.0
