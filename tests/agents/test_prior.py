"""What is expected of plans before a measurement."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.agents import list_agents, load_agent
from autosplit.agents.axes import PlanAxes
from autosplit.agents.design import InitialDesign, spread
from autosplit.agents.prior import expected_accuracy
from autosplit.core.measurement import Workload
from autosplit.core.plan import CodecSetting, Plan
from tests.agents.cases import LARGE, LATENCY, OBJECTIVE, SMALL, outcomes_of, problem, search


def work(split, sparsity, payload_bytes):
    kind = {"input": "png", "output": "none"}.get(split, "raw")
    plan = Plan(split=split, sparsity=sparsity, codec=CodecSetting(kind=kind))
    return Workload(plan=plan, payload_bytes_mean=payload_bytes)


def test_the_formula():
    found = expected_accuracy([work("a", 0.0, 800.0), work("a", 0.0, 100.0), work("a", 0.5, 800.0),
                               work("output", 0.0, 0.0)])
    logits = np.log(found / (1 - found))
    assert logits == pytest.approx([4.0, 4.0 - 3 * 0.25, 4.0 - 1.0, 4.0])


def test_smaller_pictures_cost_something():
    head = Workload(plan=Plan.at("output+reduced", 0.5, CodecSetting(kind="none")))
    found = expected_accuracy([head, work("output", 0.5, 0.0)])
    assert np.diff(np.log(found / (1 - found))) == pytest.approx(0.5)


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


# --- the initial design -----------------------------------------------------------------------------------------------


def test_the_design_is_the_best_by_the_prior_and_then_plans_spread_over_the_space():
    p = problem(LARGE, 100, seed=2)
    candidates = np.flatnonzero(p.candidates)
    design = np.array(p.initial_design)
    assert len(set(design)) == 10
    assert p.candidates[design].all()
    assert sorted(p.prior_rewards[design[:5]]) == sorted(p.prior_rewards[candidates])[-5:]
    assert (np.diff(p.prior_rewards[design[:5]]) <= 0).all()


def test_plans_that_are_spread_lie_far_apart():
    """Of three groups of alike plans each gives one, the small ones too."""
    group = np.repeat([0, 1, 2], [90, 6, 4])
    points = np.eye(3)[group] + 1e-3 * np.random.default_rng(0).random((100, 3))
    for seed in range(10):
        assert set(group[spread(points, 3, np.random.default_rng(seed))]) == {0, 1, 2}
    assert sorted(spread(np.zeros((4, 3)), 9, np.random.default_rng(0))) == [0, 1, 2, 3]


def test_the_prior_rewards_are_those_of_the_objective_under_the_conditions():
    p = problem(LARGE, 100)
    expected = OBJECTIVE.reward(p.prior, LATENCY.latency(p.workloads, [p.conditions]), [p.conditions])[:, 0]
    np.testing.assert_array_equal(p.prior_rewards, expected)
    assert (p.prior_rewards[~p.candidates] < p.prior_rewards[p.candidates].max()).all()


def test_seeds_change_what_is_spread_and_not_what_is_best():
    first, second = (problem(LARGE, 100, seed=seed).initial_design for seed in (0, 1))
    assert first[:5] == second[:5]
    assert first[5:] != second[5:]


@pytest.mark.parametrize(("size", "guesses", "expected"), [(0, 5, 0), (3, 5, 3), (10**6, 5, None), (4, 0, 4)])
def test_designs_of_other_sizes(size, guesses, expected):
    p = problem(SMALL, 60, design=InitialDesign(size, guesses))
    count = int(p.candidates.sum()) if expected is None else expected
    assert len(p.initial_design) == len(set(p.initial_design)) == count


LEARNERS = [name for name in list_agents() if name not in {"exhaustive", "policy", "prior-only", "cmaes"}]


@pytest.mark.parametrize("name", [*LEARNERS, "benchmarks/model_only.py:ModelEnumerateAgent",
                                  "benchmarks/model_only.py:ModelRandomAgent", "examples/agent.py:SplitCorrector"])
def test_every_method_begins_with_the_same_plans(name):
    p = problem(LARGE, 100, seed=4)
    expected = [p.plans[i] for i in p.initial_design]
    agent = load_agent(name)(p)
    assert [*agent.propose(4), *agent.propose(100), *agent.propose(1)][:10] == expected


def test_a_design_of_which_some_was_measured_elsewhere_goes_on_with_the_rest():
    p = problem(SMALL, 250)
    agent = load_agent("tpe")(p)
    agent.observe(outcomes_of(agent, [p.plans[i] for i in p.initial_design[1:4]]))
    assert agent.propose(100) == [p.plans[i] for i in (p.initial_design[0], *p.initial_design[4:])]


def test_prior_only_measures_in_the_order_of_the_prior_and_learns_nothing():
    p = problem(LARGE, 100)
    candidates = np.flatnonzero(p.candidates)
    order = candidates[np.argsort(-p.prior_rewards[candidates], kind="stable")]
    agent = load_agent("prior-only")(p)
    outcomes = search(agent, LARGE, 30, batch=7)
    assert [p.number[o.plan] for o in outcomes] == order[:30].tolist()


def test_methods_learn_from_the_design():
    """Local search climbs from its best plan, evolution breeds from it, and a process is fitted on it at once."""
    p = problem(LARGE, 100)
    axes = PlanAxes.of(p)
    climber, breeder, process = (load_agent(name)(p) for name in ("local-search", "evolution", "gp"))
    for agent in (climber, breeder, process):
        agent.observe(outcomes_of(agent, agent.propose(10), LARGE))
    rewards = {p.number[o.plan]: o.reward for o in climber.outcomes}
    top = max(rewards, key=rewards.get)
    assert p.number[climber.propose(1)[0]] in axes.neighbours(top, p.candidates)
    child = p.number[breeder.propose(1)[0]]
    assert any(child in axes.moves(parent, axis, p.candidates).values()
               for parent in p.initial_design for axis in range(len(axes.names)))
    asked = []
    process._study.sampler.sample_independent = lambda *_: asked.append(1)
    process.propose(1)
    assert not asked
