"""The benchmark of many devices, for a moment and with few."""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.serving import STAGES, figures, measure


def test_figures():
    rows = [np.zeros((50, len(STAGES))), np.zeros((50, len(STAGES)))]
    rows[0][:, -1], rows[1][:, -1] = np.arange(50), np.arange(50, 100)
    found = figures(rows)
    assert found["answers"] == 100
    assert found["total_ms"]["p50"] == 49.5
    assert found["total_ms"]["max"] == 99
    assert found["median_ms"]["encode"] == 0
    assert found["p99_ms_by_device"][1] > found["p99_ms_by_device"][0]


def test_two_devices_for_a_second():
    found = measure(argparse.Namespace(bundle=None, devices=2, seconds=1, rate=20.0, images=10, macs=1e6, seed=0))
    assert found["wrong"] == found["not_from_edge"] == 0
    assert found["answers"] + 2 == found["server"]["answers"] == found["server"]["requests"]
    assert [second for second, _ in found["memory"]] == [0, 1]
