import pytest

from autosplit.evaluation.memo import MemoEvaluator
from tests.synthetic import small_table


class Counting:
    """Records each call of the inner evaluator."""

    def __init__(self):
        self.table, self.calls = small_table(), []
        self.space, self.workloads = self.table.space, self.table.workloads

    def measure(self, plans):
        self.calls.append(list(plans))
        return self.table.measure(plans)


def test_never_measures_twice_and_reports_each_as_it_happens():
    inner, reported = Counting(), []
    memo = MemoEvaluator(inner, on_measured=lambda m: reported.append((m.plan, len(inner.calls))))
    plans = memo.space.plans()[:3]
    again = [plans[1], plans[0], plans[1], plans[2]]
    assert [m.plan for m in memo.measure(again)] == again
    assert reported == [(plans[1], 1), (plans[0], 2), (plans[2], 3)]
    memo.measure(plans)
    assert len(inner.calls) == memo.new_measurements == 3
    assert [m.plan for m in memo.measurements] == [plans[1], plans[0], plans[2]]


def test_known_measurements_are_neither_measured_nor_reported():
    inner, reported = Counting(), []
    plans = inner.space.plans()
    memo = MemoEvaluator(inner, inner.table.measure(plans[:5]), reported.append)
    memo.measure(plans[:6])
    assert [m.plan for m in reported] == [plans[5]]
    assert memo.workloads(plans[:2]) == inner.workloads(plans[:2])


def test_chunks_serve_a_pool():
    inner = Counting()
    MemoEvaluator(inner, chunk=4).measure(inner.space.plans()[:10])
    assert [len(c) for c in inner.calls] == [4, 4, 2]
    with pytest.raises(ValueError, match="chunk"):
        MemoEvaluator(inner, chunk=0)


def test_an_interrupted_batch_loses_nothing_that_was_measured():
    inner, ledger = Counting(), []

    def interrupt(measurement):
        ledger.append(measurement)
        if len(ledger) == 3:
            raise KeyboardInterrupt

    memo = MemoEvaluator(inner, on_measured=interrupt)
    with pytest.raises(KeyboardInterrupt):
        memo.measure(inner.space.plans()[:5])
    assert memo.measurements == ledger
