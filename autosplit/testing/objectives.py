"""The contract of objectives."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.arrays import Array
from autosplit.evaluation.objective import Objective, load_objective
from autosplit.latency.base import LatencyBreakdown
from autosplit.testing.latency import make_conditions

__all__ = ["ObjectiveContract"]


class ObjectiveContract:
    """What every objective does. Subclass it and give the fixture `name`.

    class TestMine(ObjectiveContract):
        @pytest.fixture
        def name(self):
            return "mine.py:reward"
    """

    @pytest.fixture
    def name(self) -> str:
        """The name that `load_objective` takes."""
        raise NotImplementedError("give a fixture `name`")

    @pytest.fixture
    def objective(self, name: str) -> Objective:
        """The objective."""
        return load_objective(name)

    def test_rewards_are_finite_and_have_a_row_a_plan(self, objective: Objective) -> None:
        """Also of plans that are hopelessly late, and of accuracies 0 and 1."""
        found = _rewards(objective, np.array([0.0, 0.5, 1.0]), np.array([1.0, 90.0, 1e7]))
        assert found.shape == (3, 2)
        assert np.isfinite(found).all()

    def test_plans_do_not_touch_one_another(self, objective: Objective) -> None:
        """The reward of a plan is the same alone and beside others."""
        accuracy, latency_ms = np.array([0.3, 0.9, 0.6]), np.array([5.0, 80.0, 500.0])
        together = _rewards(objective, accuracy, latency_ms)
        for i in range(3):
            assert np.array_equal(_rewards(objective, accuracy[i:i + 1], latency_ms[i:i + 1])[0], together[i])

    def test_equal_arguments_give_equal_rewards(self, objective: Objective) -> None:
        """Nothing is drawn, and nothing is remembered."""
        given = np.array([0.3, 0.9]), np.array([5.0, 80.0])
        assert np.array_equal(_rewards(objective, *given), _rewards(objective, *given))

    def test_accuracy_is_never_punished(self, objective: Objective) -> None:
        """Of two plans of equal latency the more accurate one is not worth less."""
        for latency_ms in (1.0, 80.0, 1e4):
            worse, better = _rewards(objective, np.array([0.4, 0.8]), np.full(2, latency_ms))
            assert (better >= worse).all()


def _rewards(objective: Objective, accuracy: Array, latency_ms: Array) -> Array:
    """Rewards under two deadlines, shape (P, 2)."""
    conditions = [make_conditions(budget_ms=budget) for budget in (50.0, 100.0)]
    stage = np.repeat(latency_ms[:, None], 2, axis=1)
    nothing = np.zeros_like(stage)
    breakdown = LatencyBreakdown.deterministic(
        conditions, device_ms=stage, encode_ms=nothing, uplink_ms=nothing, edge_ms=nothing, downlink_ms=nothing,
        energy_mj=stage / 10)
    return objective.reward(accuracy, breakdown, conditions)
