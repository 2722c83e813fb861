from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from autosplit.core.errors import PluginError
from autosplit.core.measurement import LatencySummary
from autosplit.latency import CheckedLatencyModel, LatencyBreakdown
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.testing import make_conditions, make_workload

WORKLOADS = [make_workload("layer1"), make_workload("layer2"), make_workload("layer3")]
CONDITIONS = [make_conditions(), make_conditions("lte")]


NAMED = ("device_ms", "encode_ms", "uplink_ms", "edge_ms", "downlink_ms", "p50_ms", "p95_ms", "in_time", "energy_mj")
"""Fields of a breakdown that have no default."""


class Spoiled:
    """The analytic model with its answer spoiled by a function, where it is about several plans."""

    def __init__(self, spoil: Callable[[LatencyBreakdown], Any]) -> None:
        self.spoil = spoil

    def latency(self, workloads, conditions):
        answer = AnalyticLatencyModel().latency(workloads, conditions)
        return self.spoil(answer) if len(workloads) > 1 else answer


class RaisesAt:
    """Raises for one split point."""

    def __init__(self, split: str) -> None:
        self.split = split

    def latency(self, workloads, conditions):
        if any(w.plan.split == self.split for w in workloads):
            raise KeyError(f"no row for\n{self.split}")
        return AnalyticLatencyModel().latency(workloads, conditions)


def with_value(name: str, value: float) -> Callable[[LatencyBreakdown], LatencyBreakdown]:
    """Put a value at plan 1, conditions 1 of a field."""

    def spoil(answer: LatencyBreakdown) -> LatencyBreakdown:
        values = getattr(answer, name).copy()
        values[1, 1] = value
        return replace(answer, **{name: values})

    return spoil


def refused(model: Any) -> str:
    with pytest.raises(PluginError) as caught:
        CheckedLatencyModel(model, "mine.py:Table").latency(WORKLOADS, CONDITIONS)
    message = str(caught.value)
    assert "'mine.py:Table'" in message
    assert "\n" not in message
    return message


def test_a_good_answer_passes_unchanged():
    expected = AnalyticLatencyModel().latency(WORKLOADS, CONDITIONS)
    answer = CheckedLatencyModel(AnalyticLatencyModel(), "analytic").latency(WORKLOADS, CONDITIONS)
    np.testing.assert_array_equal(answer.p95_ms, expected.p95_ms)
    np.testing.assert_array_equal(answer.in_time, expected.in_time)


def test_whole_numbers_become_floats():
    model = Spoiled(lambda a: replace(a, uplink_ms=np.ones(a.p50_ms.shape, dtype=np.int64)))
    assert CheckedLatencyModel(model, "mine").latency(WORKLOADS, CONDITIONS).uplink_ms.dtype == np.float64


@pytest.mark.parametrize(("name", "value", "rule"), [
    ("p50_ms", float("nan"), "finite"),
    ("energy_mj", float("inf"), "finite"),
    ("uplink_ms", -1.0, "negative"),
    ("p95_ms", 0.0, "may not exceed p95_ms"),
    ("p99_ms", 0.0, "may not exceed p99_ms"),
    ("tail_mj", -1.0, "negative"),
    ("in_time", 1.5, "probability"),
    ("in_time", -0.5, "negative"),
])
def test_an_impossible_value_names_plan_field_and_conditions(name, value, rule):
    message = refused(Spoiled(with_value(name, value)))
    assert rule in message
    assert WORKLOADS[1].plan.label in message
    assert "number 1" in message


@pytest.mark.parametrize(("spoil", "what"), [
    (lambda a: None, "NoneType; return a LatencyBreakdown"),
    (lambda a: "soon", "str; return a LatencyBreakdown"),
    (lambda a: replace(a, edge_ms=["a"]), "edge_ms as list"),
    (lambda a: replace(a, edge_ms=a.edge_ms.astype(object)), "edge_ms as ndarray"),
    (lambda a: replace(a, p50_ms=a.p50_ms.T), r"p50_ms of shape (2, 3); return shape (3, 2)"),
    (lambda a: replace(a, p50_ms=a.p50_ms[:, 0]), r"p50_ms of shape (3,)"),
])
def test_another_type_or_shape(spoil, what):
    message = refused(Spoiled(spoil))
    assert what in message
    assert WORKLOADS[0].plan.label in message


@pytest.mark.parametrize("index", [0, 2])
def test_an_exception_names_the_plan_that_causes_it(index):
    message = refused(RaisesAt(WORKLOADS[index].plan.split))
    assert WORKLOADS[index].plan.label in message
    assert "KeyError" in message


def test_an_exception_that_only_the_batch_causes_names_the_first_plan():
    class OnlyBatches:
        def latency(self, workloads, conditions):
            if len(workloads) > 1:
                raise MemoryError("too many")
            return AnalyticLatencyModel().latency(workloads, conditions)

    message = refused(OnlyBatches())
    assert "MemoryError: too many" in message
    assert WORKLOADS[0].plan.label in message


def test_ctrl_c_passes():
    class Interrupted:
        def latency(self, workloads, conditions):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CheckedLatencyModel(Interrupted(), "mine").latency(WORKLOADS, CONDITIONS)


def test_what_a_model_leaves_out_follows_from_the_rest():
    def without(a: LatencyBreakdown) -> LatencyBreakdown:
        return LatencyBreakdown(a.device_ms, a.encode_ms, a.uplink_ms, a.edge_ms, a.downlink_ms, a.p50_ms, a.p95_ms,
                                a.in_time, a.energy_mj)

    answer = CheckedLatencyModel(Spoiled(without), "mine").latency(WORKLOADS, CONDITIONS)
    np.testing.assert_array_equal(answer.p99_ms, answer.p95_ms)
    np.testing.assert_array_equal(answer.compute_mj, answer.energy_mj)
    for nothing in (answer.transmit_mj, answer.wait_mj, answer.tail_mj):
        assert not nothing.any()
    assert answer.summary(1, 1).p99_ms == answer.p95_ms[1, 1]


def test_energies_that_a_model_leaves_out_are_zero_where_it_gives_others():
    given = AnalyticLatencyModel().latency(WORKLOADS, CONDITIONS)
    half = LatencyBreakdown.deterministic(CONDITIONS, device_ms=given.device_ms, encode_ms=given.encode_ms,
                                          uplink_ms=given.uplink_ms, edge_ms=given.edge_ms,
                                          downlink_ms=given.downlink_ms, energy_mj=given.energy_mj)
    assert (half.p99_ms == half.p50_ms).all()
    assert (half.compute_mj == given.energy_mj).all()
    split = LatencyBreakdown(**{n: getattr(half, n) for n in NAMED}, transmit_mj=given.energy_mj)
    assert not split.compute_mj.any()


def test_nothing_asked_nothing_refused():
    answer = CheckedLatencyModel(AnalyticLatencyModel(), "analytic").latency([], CONDITIONS)
    assert answer.p50_ms.shape == (0, 2)


def test_fields_of_a_breakdown_are_those_that_the_summary_describes():
    assert [f.name for f in fields(LatencyBreakdown)] == list(LatencySummary.model_fields)
