"""The arithmetic of `autosplit.experiments.bench.summary`."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.errors import ConfigError
from autosplit.experiments.bench.runs import Run, agent_names
from autosplit.experiments.bench.summary import summarise


def run(method, scenario, seed, *regret):
    return Run("t", scenario, method, seed, regret, 1.0)


@pytest.fixture
def frame():
    ours = [run("a", s, seed, 0.5, 0.02 if s else 0.005, 0.0) for s in range(6) for seed in range(2)]
    theirs = [run("b", s, seed, 0.9, 0.3, 0.1 + 0.01 * s) for s in range(6) for seed in range(2)]
    return summarise([*ours, *theirs], "a", 3).set_index("method")


def test_regret_and_measurements_to_one_percent(frame):
    assert frame.loc["a", "median_3"] == 0.0
    assert frame.loc["b", "median_3"] == pytest.approx(0.125)
    assert frame.loc["b", "p90_3"] == pytest.approx(np.percentile(np.repeat(0.1 + 0.01 * np.arange(6), 2), 90))
    assert frame.loc["a", "to_1_percent"] == 3  # in one scenario of six after 2
    assert frame.loc["b", "to_1_percent"] == 4  # never
    assert frame.loc["b", "reached_1_percent"] == 0
    assert frame.loc["a", "mean_to_1_percent"] == pytest.approx((5 * 3 + 2) / 6)
    assert frame.loc["a", "to_best"] == frame.loc["a", "mean_to_0.1_percent"] == 3


def test_ranks_and_the_test_against_the_reference(frame):
    assert frame.loc["a", "mean_rank"] == 1
    assert frame.loc["b", "mean_rank"] == 2
    assert tuple(frame.loc["b", ["better", "equal", "worse"]]) == (0, 0, 6)
    assert frame.loc["b", "p_value"] == pytest.approx(2 / 2**6)  # the smallest that six scenarios can give


def test_a_search_that_ran_out_of_plans_keeps_what_it_found():
    found = summarise([run("a", 0, 0, 0.5, 0.2), run("b", 0, 0, 0.5, 0.4, 0.1)], "a", 3).set_index("method")
    assert found.loc["a", "median_3"] == 0.2
    assert found.loc["b", "mean_rank"] == 1


def test_p_values_are_adjusted_for_their_number():
    runs = [run(m, s, 0, r + 0.001 * s) for m, r in (("a", 0.0), ("b", 0.1), ("c", 0.2)) for s in range(6)]
    found = summarise(runs, "a", 1).set_index("method")
    assert found.loc["b", "p_value"] == found.loc["c", "p_value"] == pytest.approx(2 * 2 / 2**6)


def test_agents_of_one_name_are_refused():
    assert agent_names(["tpe", "benchmarks/ablations.py:NoPriorTPE", "tpe"]) == {
        "tpe": "tpe", "tpe-no-prior": "benchmarks/ablations.py:NoPriorTPE"}
    with pytest.raises(ConfigError, match=r"'tpe' and 'autosplit\.agents\.samplers:TPEAgent' are both named 'tpe'"):
        agent_names(["tpe", "autosplit.agents.samplers:TPEAgent"])
