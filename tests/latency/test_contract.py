"""The contract can fail: each model breaks one rule, and the test of that rule notices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autosplit.latency import CheckedLatencyModel
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.testing import LatencyModelContract


class Contract(LatencyModelContract):
    __test__ = False


class Forgetful(AnalyticLatencyModel):
    """Another answer at every call."""

    calls = 0

    def latency(self, workloads, conditions):
        self.calls += 1
        answer = super().latency(workloads, conditions)
        return replace(answer, energy_mj=answer.energy_mj + self.calls)


class Sociable(AnalyticLatencyModel):
    """Slower in company."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, p99_ms=answer.p99_ms + len(workloads))


class Backwards(AnalyticLatencyModel):
    """Faster with more bytes."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, uplink_ms=1000 / (1 + answer.uplink_ms))


class Impatient(AnalyticLatencyModel):
    """Less often in time with a larger budget."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, in_time=1 - answer.in_time)


class Chatty(AnalyticLatencyModel):
    """Sends something when there is nothing to send."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, uplink_ms=answer.uplink_ms + 1)


class Careless(AnalyticLatencyModel):
    """Changes the caller's list."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        workloads.reverse()
        return answer


class Leaking(AnalyticLatencyModel):
    """Energy that no stage took."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, energy_mj=answer.energy_mj + 1)


class Transposed(AnalyticLatencyModel):
    """Conditions in rows."""

    def latency(self, workloads, conditions):
        answer = super().latency(workloads, conditions)
        return replace(answer, p50_ms=np.ascontiguousarray(answer.p50_ms.T))


@pytest.mark.parametrize(("model", "test", "arguments"), [
    (Forgetful, "test_equal_questions_get_equal_answers", ()),
    (Sociable, "test_together_and_one_by_one_agree", ()),
    (Backwards, "test_more_payload_is_never_faster", ()),
    (Impatient, "test_a_larger_budget_is_never_harder_to_meet", ()),
    (Chatty, "test_nothing_sent_takes_no_time_on_the_link", ()),
    (Careless, "test_arguments_are_left_alone", ()),
    (Leaking, "test_percentiles_ascend_and_energies_add_up", ()),
    (Transposed, "test_answers_are_valid_and_have_the_shape_of_the_question", (7, 3)),
])
def test_a_broken_promise_is_noticed(model, test, arguments):
    checked = CheckedLatencyModel(model(), model.__name__)
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(Contract(), test)(checked, *arguments)
    getattr(Contract(), test)(CheckedLatencyModel(AnalyticLatencyModel(), "analytic"), *arguments)
