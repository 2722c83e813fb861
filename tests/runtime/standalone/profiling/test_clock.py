"""The clock of a profile."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.runtime.standalone.profiling.clock import WallClock, disturbance, steady_medians, undisturbed


def test_the_clock_of_calls():
    ticks = iter([3.0, 5.5])
    called = []
    assert WallClock(lambda: next(ticks)).call(lambda: called.append(1)) == 2.5
    assert called == [1]


class TestSteadyMedians:
    def test_steady_times_end_early_and_the_warm_up_does_not_count(self):
        times = iter([[9.0, 9.0]] * 3 + [[1.0, 2.0]] * 100)
        assert steady_medians(lambda: next(times), 60).tolist() == [1.0, 2.0]
        assert len(list(times)) == 90

    def test_unsteady_times_go_on_to_the_limit(self):
        times = iter([[1.0], [4.0]] * 100)
        steady_medians(lambda: next(times), 25)
        assert len(list(times)) == 200 - 3 - 25

    def test_one_slow_pass_does_not_move_the_median(self):
        times = iter([[1.0]] * 8 + [[50.0]] + [[1.0]] * 50)
        assert steady_medians(lambda: next(times), 60).tolist() == [1.0]


def test_the_quickest_of_several_rounds_counts():
    given = iter([3.0, 5.0, 9.0, 4.0, 2.0, 7.0])
    steps = []
    found = undisturbed([lambda most: np.array([next(given), most])] * 2, 1, steps.append)
    assert [row.tolist() for row in found] == [[2.0, 1.0], [4.0, 1.0]]
    assert len(steps) == 6


@pytest.mark.parametrize(("share", "said"), [(0.54321, "only 54% of the time"), (0.99, None), (None, None)])
def test_a_busy_machine_is_told(share, said):
    found = disturbance(share)
    assert (said is None and found is None) or said in found
