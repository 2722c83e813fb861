"""Optuna's samplers: what they suggest, what they are told, what they are spared."""

import importlib.util
import logging
import warnings

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from autosplit.agents import load_agent
from autosplit.agents.design import InitialDesign
from autosplit.agents.enumerate import RandomAgent
from autosplit.agents.samplers import GPAgent, NSGA2Agent, SamplerAgent, TPEAgent
from autosplit.core.errors import PluginError
from autosplit.core.plan import Plan
from tests.agents.cases import LARGE, SMALL, optimum, outcomes_of, problem, regret, search

KINDS = [TPEAgent, NSGA2Agent]  # the quick ones


def told(agent):
    """Parameters and value of every trial that the sampler may learn from."""
    return [(t.params, t.value) for t in agent._study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]


@pytest.mark.parametrize("kind", KINDS)
def test_each_measured_plan_is_told_once_with_its_reward(kind):
    agent = kind(problem(LARGE, 60))
    outcomes = search(agent, LARGE, 40)
    assert sorted(value for _, value in told(agent)) == sorted(o.reward for o in outcomes)
    assert all(o.feasible for o in outcomes)


def test_trials_of_tpe_are_the_plans_themselves():
    """And only the choices that a plan has: a space with conditions."""
    agent = TPEAgent(problem(LARGE, 250))
    search(agent, LARGE, 40)
    axes, p = agent._axes, agent.problem
    names = {}
    for (parameters, value), number in zip(told(agent), agent._outcomes, strict=True):
        levels = dict(zip(axes.names, axes.levels[number].tolist(), strict=True))
        assert parameters == {name: level for name, level in levels.items() if level >= 0}
        assert value == agent._outcomes[number].reward
        names.setdefault(p.plans[number].codec.kind, set()).add(frozenset(parameters))
    assert names["code"] == {frozenset({"split", "sparsity", "width", "grid", "bits"})}
    assert names["jpeg"] == {frozenset({"split", "image", "quality"})}


@pytest.mark.parametrize("kind", KINDS)
def test_a_suggestion_always_stands_for_a_plan_in_time(kind):
    p = problem(LARGE, 40)
    assert p.candidates.mean() < 0.4
    agent, read = kind(p), []
    real = agent._read
    agent._read = lambda trial: read.append(real(trial)) or read[-1]
    search(agent, LARGE, 30)
    assert len(read) >= 20  # the first ten are the initial design
    assert p.candidates[read].all()


class Stubborn(BaseSampler):
    """Suggests the highest level of everything, always."""

    asked = 0

    def infer_relative_search_space(self, study, trial):
        self.asked += 1
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return distribution.choices[-1] if hasattr(distribution, "choices") else distribution.high


class StubbornAgent(SamplerAgent):
    name = "stubborn"

    def _sampler(self, seed):
        return Stubborn()


@pytest.mark.parametrize("generations", [False, True])
def test_a_repeated_suggestion_is_taken_back_and_then_the_nearest_plan_is_measured(generations):
    class Repeating(StubbornAgent):
        pass

    Repeating.generations = generations
    agent = Repeating(problem(SMALL, 250, design=InitialDesign(0, 0)))
    (first,) = agent.propose(3)
    assert agent._study.sampler.asked == 1
    agent.observe(outcomes_of(agent, [first]))
    asked = agent._study.sampler.asked
    (second,) = agent.propose(3)
    assert agent._study.sampler.asked == asked + agent.attempts
    number = agent.problem.number
    others = np.array([i for i in np.flatnonzero(agent.problem.candidates) if i != number[first]])
    assert number[second] == agent._axes.nearest(number[first], others)
    agent.observe(outcomes_of(agent, [second]))
    assert [value for _, value in told(agent)] == [o.reward for o in agent.outcomes]


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_measured_elsewhere_are_learnt_from(kind):
    agent = kind(problem(SMALL, 100))
    plans = [plan for plan, ok in zip(agent.problem.plans, agent.problem.candidates, strict=True) if ok][::3]
    agent.observe(outcomes_of(agent, plans))
    assert [value for _, value in told(agent)] == [o.reward for o in agent.outcomes]
    if agent.generations:
        assert len(agent._study.sampler.get_population(agent._study, 0)) == len(plans)


def test_nsga2_breeds_from_the_best():
    agent = NSGA2Agent(problem(LARGE, 100))
    rewards = [o.reward for o in search(agent, LARGE, 50)]
    parents = agent._study.sampler.get_parent_population(agent._study, 2)
    assert sorted(t.value for t in parents) == sorted(rewards[:40])[20:]


@pytest.mark.parametrize("kind", KINDS)
def test_better_than_chance(kind):
    """Mean regret over three budgets after 40 measurements on a space of 1,453 plans."""

    def mean(agent_class):
        agents = [agent_class(problem(LARGE, budget_ms, design=InitialDesign(0, 0))) for budget_ms in (100, 150, 250)]
        for agent in agents:
            search(agent, LARGE, 40)
        return np.mean([regret(agent, LARGE) for agent in agents])

    assert mean(kind) < mean(RandomAgent) / 2


def test_gp_finds_the_enumerated_optimum():
    agent = GPAgent(problem(SMALL, 250))
    assert agent.problem.candidates.sum() > 40
    search(agent, SMALL, 22)
    assert agent.best == optimum(agent)


def test_optuna_is_quiet_and_as_it_was(capfd):
    level, filters = optuna.logging.get_verbosity(), list(warnings.filters)
    handlers = list(logging.getLogger("optuna").handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            search(kind(problem(SMALL, 100)), SMALL, 15)
    assert optuna.logging.get_verbosity() == level
    assert list(warnings.filters) == filters
    assert logging.getLogger("optuna").handlers == handlers
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is not None, reason="the package is installed")
def test_without_its_package_cmaes_says_what_to_install():
    with pytest.raises(PluginError, match=r"^agent 'cmaes' needs the package cmaes: pip install cmaes$"):
        load_agent("cmaes")


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="an extra: pip install '.[cmaes]'")
def test_cmaes_has_numbers_only():
    agent = load_agent("cmaes")(problem(LARGE, 100))
    search(agent, LARGE, 40)
    assert all(isinstance(value, int) for parameters, _ in told(agent) for value in parameters.values())
    assert {len(parameters) for parameters, _ in told(agent)} == {len(agent._axes.names)}
    generations = {t.system_attrs.get("cma:generation") for t in agent._study.get_trials(deepcopy=False)}
    assert len(generations - {None}) >= 3


def test_a_sampler_of_ones_own():
    class Mine(SamplerAgent):
        name = "mine"
        conditional = True

        def _sampler(self, seed):
            return TPESampler(seed=seed, n_startup_trials=3)

    agent = Mine(problem(SMALL, 100))
    assert all(isinstance(o.plan, Plan) for o in search(agent, SMALL, 10))
