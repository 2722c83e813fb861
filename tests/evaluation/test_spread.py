"""Measuring by workers: as here, to the bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from autosplit.core.hiring import workers_of
from autosplit.evaluation import spread
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.spread import SpreadEvaluator


def without_seconds(measurements):
    return [m.model_copy(update={"seconds": 0.0}) for m in measurements]


@pytest.fixture(scope="module")
def pair():
    with workers_of(2, threads=1) as found:
        yield found


@pytest.fixture(scope="module")
def here(prepared, one_thread):
    plans = LiveEvaluator(prepared).space.plans()
    plans = plans[:: max(1, len(plans) // 24)]
    return plans, without_seconds(LiveEvaluator(prepared).measure(plans))


def test_workers_measure_what_this_process_does(prepared, pair, here):
    plans, expected = here
    evaluator = SpreadEvaluator(prepared, pair)
    assert without_seconds(evaluator.measure(plans)) == expected
    assert evaluator.space.plans() == LiveEvaluator(prepared).space.plans()
    assert evaluator.workloads(plans) == LiveEvaluator(prepared).workloads(plans)


def killed_once(networks, plans):
    mark = Path(os.environ["AUTOSPLIT_TEST_MARK"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return list(LiveEvaluator(networks).measure(plans))


def test_a_worker_that_is_killed_changes_nothing(prepared, here, tmp_path, monkeypatch):
    plans, expected = here
    monkeypatch.setenv("AUTOSPLIT_TEST_MARK", str(tmp_path / "killed"))
    monkeypatch.setattr(spread, "_measured", killed_once)
    with workers_of(2, threads=1) as others:
        assert without_seconds(SpreadEvaluator(prepared, others).measure(plans)) == expected
    assert (tmp_path / "killed").exists()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_pieces_hold_every_plan_in_order_and_one_head_each(prepared, workers):
    plans = LiveEvaluator(prepared).space.plans()
    pieces = spread._pieces(plans, workers)
    assert [plan for piece in pieces for plan in piece] == plans
    assert all(len({(plan.place, plan.sparsity) for plan in piece}) == 1 for piece in pieces)
    assert max(map(len, pieces)) <= max(1, -(-len(plans) // (4 * workers)))
