import math
from dataclasses import fields, replace

import numpy as np
import pytest

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.evaluation.objective import best_outcome, list_objectives, load_objective, tardiness
from autosplit.evaluation.scorer import score
from autosplit.latency.base import LatencyBreakdown
from tests.synthetic import PlainLatency, make_conditions, small_table

NAMES = ["amc", "in-time-accuracy", "lagrangian", "latency:accuracy_floor=0.8"]


def breakdown(p50_ms, conditions, energy_mj=0.0):
    """A latency without chance, the same under all conditions."""
    total = np.repeat(np.array(p50_ms, dtype=float)[:, None], len(conditions), axis=1)
    zero = np.zeros_like(total)
    return LatencyBreakdown.deterministic(conditions, device_ms=total, encode_ms=zero, uplink_ms=zero, edge_ms=zero,
                                          downlink_ms=zero, energy_mj=zero + energy_mj)


def reward(name, accuracy, p50_ms, budget_ms=100.0, energy_mj=0.0):
    conditions = [make_conditions(budget_ms)]
    return load_objective(name).reward(np.array(accuracy), breakdown(p50_ms, conditions, energy_mj), conditions)[:, 0]


def test_names():
    assert list_objectives() == ["amc", "in-time-accuracy", "lagrangian", "latency"]


def test_in_time_accuracy_is_the_accuracy_of_a_plan_in_time():
    assert reward("in-time-accuracy:latency_tie_break=0", [0.9, 0.5], [10, 100]) == pytest.approx([0.9, 0.5])
    assert reward("in-time-accuracy", [0.9, 0.5], [10, 100]) == pytest.approx([0.9 - 0.0002, 0.5 - 0.002])


def test_of_equally_accurate_plans_the_faster_is_better_but_accuracy_counts_more():
    slow, fast, better = reward("in-time-accuracy", [0.9, 0.9, 0.902], [95, 20, 95])
    assert slow < fast < better


def test_in_time_accuracy_known_value_beyond_the_budget():
    late = 0.5 * math.log(2) / math.log(1000)
    assert reward("in-time-accuracy", [0.9], [200]) == pytest.approx([-late - 0.002])


def test_amc_known_value():
    expected = -0.2 * math.log1p(50_000) / math.log1p(1e9)
    assert reward("amc", [0.8], [50]) == pytest.approx([expected])


def test_latency_prefers_the_faster_plan_above_the_floor_only():
    slow, fast, poor = reward("latency:accuracy_floor=0.8", [0.95, 0.81, 0.79], [90, 20, 1])
    assert fast > slow > 0 > poor


def test_lagrangian_trades_a_small_excess_against_accuracy():
    in_time, a_little_late, very_late = reward("lagrangian", [0.7, 0.9, 1.0], [100, 105, 100 * math.e * 1.01])
    assert a_little_late > in_time > 0 > very_late


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_in_time_always_beats_a_hopeless_one(name):
    accuracy, p50 = np.meshgrid(np.linspace(0, 1, 11), [1e-3, 1, 99.9, 100, 300, 1e4, 1e7])
    values = reward(name, accuracy.ravel(), p50.ravel(), energy_mj=5.0)
    in_time = p50.ravel() <= 100
    assert values[in_time].min() >= values[~in_time].max() - 1e-12
    assert np.abs(values).max() < 10


@pytest.mark.parametrize("name", list_objectives())
def test_every_option_changes_some_reward(name):
    """No objective takes an option that it does not use."""
    objective, conditions = load_objective(name), [make_conditions(100.0)]
    accuracy, latency = np.array([0.92, 0.85, 0.5]), breakdown([40, 150, 700], conditions, energy_mj=8.0)
    usual = objective.reward(accuracy, latency, conditions)
    for option in fields(objective):
        changed = replace(objective, **{option.name: getattr(objective, option.name) + 0.07})
        assert (changed.reward(accuracy, latency, conditions) != usual).any(), option.name


@pytest.mark.parametrize("name", NAMES)
def test_less_late_is_better(name):
    values = reward(name, [0.8] * 4, [150, 300, 1000, 50_000])
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_accuracy_is_never_worse(name):
    assert (np.diff(reward(name, np.linspace(0, 1, 20), [50] * 20)) >= 0).all()


def test_energy_weight_prefers_the_thrifty_plan():
    name = "in-time-accuracy:energy_weight=0.2"
    assert reward(name, [0.9], [50], energy_mj=1) > reward(name, [0.9], [50], energy_mj=10)
    assert reward("in-time-accuracy:latency_tie_break=0", [0.9], [50]) == pytest.approx([0.9])


def test_rewards_are_vectorised_over_conditions():
    conditions = [make_conditions(50), make_conditions(100), make_conditions(200)]
    objective, accuracy = load_objective("in-time-accuracy"), np.array([0.9, 0.6])
    together = objective.reward(accuracy, breakdown([80, 40], conditions), conditions)
    alone = [objective.reward(accuracy, breakdown([80, 40], [c]), [c])[:, 0] for c in conditions]
    assert together.shape == (2, 3)
    np.testing.assert_array_equal(together, np.stack(alone, axis=1))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        reward("amc", [0.9, 0.8], [50])


def test_tardiness_is_bounded():
    np.testing.assert_allclose(tardiness(np.array([1.0, 100, 1e5, 1e9]), np.array(100.0)), [0, 0, 1, 1])


@pytest.mark.parametrize(("name", "error", "text"), [
    ("in-time-acuracy", UnknownNameError, "did you mean 'in-time-accuracy'"),
    ("latency:flor=1", UnknownNameError, "unknown option"),
    ("latency:accuracy_floor=x", ConfigError, "must be a number"),
    ("latency:accuracy_floor=1.5", ConfigError, r"\(0, 1\]"),
    ("lagrangian:slope=0.5", UnknownNameError, r"option of objective 'lagrangian' 'slope'.*energy_weight, price"),
    ("amc:energy_weight=-1", ConfigError, "at least 0"),
    ("amc:energy_weight=nan", ConfigError, "finite"),
])
def test_bad_names_and_options(name, error, text):
    with pytest.raises(error, match=text):
        load_objective(name)


def test_score_keeps_the_order_and_best_is_the_best_feasible():
    table, conditions = small_table(), make_conditions(60)
    outcomes = score(table.measurements, PlainLatency(), load_objective("in-time-accuracy"), conditions)
    assert [o.plan for o in outcomes] == table.space.plans()
    best = best_outcome(outcomes)
    assert best.feasible
    assert best.reward == max(o.reward for o in outcomes if o.feasible)


def test_best_of_infeasible_is_the_least_late():
    outcomes = score(small_table().measurements, PlainLatency(), load_objective("in-time-accuracy"), make_conditions(1))
    assert best_outcome(outcomes).latency.p95_ms == min(o.latency.p95_ms for o in outcomes)
    with pytest.raises(ValueError, match="no outcomes"):
        best_outcome([])


def test_score_of_nothing():
    assert score([], PlainLatency(), load_objective("amc"), make_conditions()) == []
