"""What is expected of plans before a measurement."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.agents.prior import expected_accuracy
from autosplit.core.plan import CodecSetting, Plan, Workload
from tests.agents.cases import LARGE, problem


def work(split, sparsity, payload_bytes):
    kind = {"input": "png", "output": "none"}.get(split, "raw")
    plan = Plan(split=split, sparsity=sparsity, codec=CodecSetting(kind=kind))
    return Workload(plan=plan, payload_bytes_mean=payload_bytes)


def test_the_formula():
    found = expected_accuracy([work("a", 0.0, 800.0), work("a", 0.0, 100.0), work("a", 0.5, 800.0),
                               work("output", 0.0, 0.0)])
    logits = np.log(found / (1 - found))
    assert logits == pytest.approx([4.0, 4.0 - 3 * 0.25, 4.0 - 1.0, 4.0])


def test_pruning_by_layer_counts_by_its_mean():
    alike = expected_accuracy([work("a", 0.5, 10.0), work("a", (0.25, 0.75), 10.0)])
    assert alike[0] == alike[1]


def test_less_than_a_byte_is_no_more_than_a_byte():
    low = expected_accuracy([work("a", 0.0, 8.0), work("a", 0.0, 1.0), work("a", 0.0, 0.01)])
    assert low[1] == low[2]


def test_it_ranks_the_synthetic_plans():
    plans = problem(LARGE, 200)
    measured = [m.accuracy for m in LARGE.measure(plans.plans)]
    assert np.corrcoef(plans.prior, measured)[0, 1] > 0.3
