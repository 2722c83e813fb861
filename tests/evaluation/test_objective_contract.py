"""The contract of objectives, on the package's own and on a user's function."""

from __future__ import annotations

import pytest

from autosplit.core.errors import PluginError, UnknownNameError
from autosplit.evaluation.objective import list_objectives, load_objective
from autosplit.testing.objectives import ObjectiveContract


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("""
import numpy as np
from dataclasses import dataclass
from autosplit.evaluation.objective import Objective

def reward(accuracy, latency, budget_ms):
    return accuracy - np.minimum(latency.p95_ms / budget_ms, 10) * 0.1

@dataclass(frozen=True)
class Mine(Objective):
    name = "mine"
    def _reward(self, accuracy, breakdown, budget_ms):
        return accuracy - 0 * breakdown.p95_ms

def broken(accuracy, latency, budget_ms):
    return [1, 2, 3, 4, 5]

def endless(accuracy, latency, budget_ms):
    return accuracy / 0

number = 3
""")
    return path


class TestOwn(ObjectiveContract):
    @pytest.fixture(params=list_objectives())
    def name(self, request):
        return request.param


class TestOfAFile(ObjectiveContract):
    @pytest.fixture(params=["reward", "Mine"])
    def name(self, request, file):
        return f"{file}:{request.param}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "message"), [
    ("broken", r"gives no array of shape \(3, 2\)"), ("endless", "rewards that are not finite"),
])
def test_wrong_rewards_name_the_objective(file, name, message):
    with pytest.raises(PluginError, match=rf"mine\.py:{name}'.*{message}"):
        ObjectiveContract().test_rewards_are_finite_and_have_a_row_a_plan(load_objective(f"{file}:{name}"))


def test_what_is_no_objective(file):
    with pytest.raises(PluginError, match="is a int; it must be an Objective, or a function"):
        load_objective(f"{file}:number")
    with pytest.raises(UnknownNameError, match="unknown objective 'tardyness'"):
        load_objective("tardyness")
