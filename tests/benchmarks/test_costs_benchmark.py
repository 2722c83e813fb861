"""Counted work beside torch's counter, predicted payloads beside measured ones; and what is published of both."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from benchmarks.costs import payload_rows, work_row

PUBLISHED = Path(__file__).parents[2] / "results" / "benchmarks" / "costs"


def test_a_network_counted_in_both_ways():
    row = work_row("own", "small", lambda _: (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                                            nn.Flatten(), nn.Linear(4, 2)), 10))
    assert row["counted_mmacs"] == row["torch_mmacs"] == pytest.approx((27 * 4 * 64 + 8) / 1e6)
    assert (row["difference_percent"], row["not_counted"]) == (0.0, "relu; view")


def test_predictions_for_unpruned_heads_are_what_is_measured(prepared):
    rows = payload_rows(prepared, 5, 0)
    assert len({row["plan"] for row in rows}) == 5
    for row in rows:
        for what in ("mean", "p95"):
            assert row[f"predicted_{what}_bytes"] == pytest.approx(row[f"measured_{what}_bytes"])
            assert 0.5 < row[f"predicted_{what}_bytes"] / row[f"test_{what}_bytes"] < 2


def test_the_published_work_is_torchs_on_twenty_networks_and_more():
    work = pd.read_csv(PUBLISHED / "work.csv")
    assert len(work) >= 20
    assert {"torchvision", "timm"} == set(work["library"])
    assert {"swin_t", "vit_b_16", "levit_128s"} <= set(work["network"])
    assert work["difference_percent"].abs().max() < 2
