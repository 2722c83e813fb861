"""Local search and regularised evolution do what their papers say."""

from itertools import pairwise

import numpy as np
import pytest

from autosplit.agents.axes import PlanAxes
from autosplit.agents.design import InitialDesign
from autosplit.agents.enumerate import RandomAgent
from autosplit.agents.evolution import EvolutionAgent
from autosplit.agents.local import LocalSearchAgent
from tests.agents.cases import LARGE, SMALL, optimum, outcomes_of, problem, regret, search

NONE = InitialDesign(0, 0)  # so that the method itself is seen from the first plan on


def climb(agent, table, evaluations):
    """Number and reward of each measured plan, in order."""
    outcomes = search(agent, table, evaluations)
    return [(agent.problem.number[o.plan], o.reward) for o in outcomes]


# --- local search -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "first"), [(0, 0), (1, 0), (2, 8)])
def test_a_climb_measures_neighbours_of_where_it_stands_and_never_goes_down(seed, first):
    p = problem(LARGE, seed=seed, design=InitialDesign(first, 0))
    axes = PlanAxes.of(p)
    path = climb(LocalSearchAgent(p, starts=3), LARGE, 60)
    begin = first or 3  # plans of the initial design, or random ones
    measured = dict(path[:begin])
    at, restarts = max(measured, key=measured.get), 0
    for number, reward in path[begin:]:
        around = axes.neighbours(at, p.candidates)
        while (better := [n for n in around if measured.get(n, -1) > measured[at]]):
            at = max(better, key=measured.get)
            around = axes.neighbours(at, p.candidates)
        if number not in around:  # then there was nothing left to try
            assert set(around) <= set(measured)
            at, restarts = number, restarts + 1
        measured[number] = reward
    assert restarts < 10


def test_a_local_optimum_of_a_known_hill_is_reached():
    """On one split point without pruning and noise the hill has one top: the climb ends there."""
    from tests.synthetic import make_table

    table = make_table(splits=("layer2",), sparsities=(0.0,), ends=False, noise=0.0)
    agent = LocalSearchAgent(problem(table, 400, seed=4, design=NONE), starts=1)
    path = climb(agent, table, 40)
    assert agent.best == optimum(agent, table)
    top = next(i for i, (_, reward) in enumerate(path) if reward == agent.best.reward)
    assert top < 25 < len(table.measurements)


def test_known_neighbours_are_looked_up():
    """What was measured elsewhere moves the climb without a measurement."""
    p = problem(LARGE, seed=1, design=NONE)
    agent = LocalSearchAgent(p, starts=1)
    agent.observe(outcomes_of(agent, agent.propose(1), LARGE))
    (start,) = agent._outcomes
    axes = PlanAxes.of(p)
    around = axes.neighbours(start, p.candidates)
    agent.observe(outcomes_of(agent, [p.plans[i] for i in around], LARGE))
    best = max(around, key=lambda i: agent._outcomes[i].reward)
    assert agent._outcomes[best].reward > agent._outcomes[start].reward
    (proposed,) = agent.propose(1)
    assert p.number[proposed] in axes.neighbours(agent._at, p.candidates)
    assert agent._at != start


# --- regularised evolution --------------------------------------------------------------------------------------------


def test_the_oldest_dies_even_if_it_is_the_best():
    p = problem(LARGE, design=NONE)
    agent = EvolutionAgent(p, population=4, tournament=2)
    best = optimum(agent, LARGE)
    agent.observe([best])
    for age in range(1, 6):
        alive = [p.plans[i] for i in agent.population]
        assert (best.plan in alive) == (age <= 4)
        assert len(alive) == min(age, 4)
        agent.observe(outcomes_of(agent, agent.propose(1), LARGE))
    assert agent.best == best


def test_a_child_differs_from_a_living_plan_in_one_choice():
    p = problem(LARGE, design=NONE)
    agent, axes = EvolutionAgent(p, population=5, tournament=2), PlanAxes.of(p)
    search(agent, LARGE, 5)
    changed = []
    for _ in range(30):
        alive = agent.population
        outcome, = outcomes_of(agent, agent.propose(1), LARGE)
        child = p.number[outcome.plan]
        ways = {axes.names[axis] for parent in alive for axis in range(len(axes.names))
                if axes.levels[parent, axis] != axes.levels[child, axis]
                and (axes.names[axis] == "split" or (np.delete(axes.levels[parent], axis)
                                                     == np.delete(axes.levels[child], axis)).all())}
        assert ways
        changed.append(ways)
        agent.observe([outcome])
    assert len(set().union(*changed)) >= 4


def test_in_a_tournament_of_all_the_best_is_the_parent():
    p = problem(LARGE, seed=2, design=NONE)
    agent, axes = EvolutionAgent(p, population=6, tournament=6), PlanAxes.of(p)
    search(agent, LARGE, 6)
    parent = max(agent.population, key=lambda i: agent._outcomes[i].reward)
    children = {m for axis in range(len(axes.names)) for m in axes.moves(parent, axis, agent._open).values()}
    (child,) = agent.propose(1)
    assert p.number[child] in children


@pytest.mark.parametrize("sizes", [{"population": 0}, {"tournament": 0}])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        EvolutionAgent(problem(), **sizes)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LocalSearchAgent, EvolutionAgent])
def test_better_than_chance(kind):
    """Mean regret over three budgets and two seeds after 50 measurements on a space of 1,453 plans."""

    def mean(agent_class):
        agents = [agent_class(problem(LARGE, budget_ms, seed, NONE)) for seed in (0, 1)
                  for budget_ms in (100, 150, 250)]
        for agent in agents:
            search(agent, LARGE, 50)
        return np.mean([regret(agent, LARGE) for agent in agents])

    assert mean(kind) < mean(RandomAgent) / 2


@pytest.mark.parametrize("kind", [LocalSearchAgent, EvolutionAgent])
def test_one_at_a_time(kind):
    agent = kind(problem(SMALL, 250, design=NONE))
    assert [len(agent.propose(n)) for n in (1, 5, 20)] == [1, 1, 1]
    assert all(a != b for a, b in pairwise(agent.propose(1) for _ in range(5)))
