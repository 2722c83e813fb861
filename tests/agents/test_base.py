"""The state that every agent tracks, the search loop, and the agents that do not learn."""

import pytest

from autosplit.agents import list_agents, load_agent
from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.loop import run_search
from autosplit.core.errors import PluginError, UnknownNameError
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer, score
from tests.agents.cases import LATENCY, OBJECTIVE, SMALL, outcomes_of, problem, search
from tests.synthetic import make_conditions


class Scripted(Agent):
    """Proposes what it is told to."""

    name = "scripted"
    primed = False
    script = ()

    def _propose(self, n):
        return self.script


def test_names():
    assert list_agents() == ["cmaes", "evolution", "exhaustive", "gp", "local-search", "nsga2",
                             "policy", "ppo", "ppo-live", "prior-only", "random", "tpe"]
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        load_agent("randon")
    with pytest.raises(PluginError, match="not a subclass"):
        load_agent("autosplit.core.plan:Plan")


def test_what_was_observed_is_kept_and_nonsense_refused():
    agent = load_agent("random")(problem())
    assert agent.best is None
    agent.observe(outcomes_of(agent, agent.propose(5)))
    assert agent.best == best_outcome(agent.outcomes)
    with pytest.raises(ValueError, match="observed before"):
        agent.observe(agent.outcomes[:1])
    with pytest.raises(ValueError, match="at least one"):
        agent.propose(0)


@pytest.mark.parametrize("name", ["exhaustive", "random"])
def test_a_full_budget_measures_every_feasible_plan_and_no_other(name):
    agent = load_agent(name)(problem(budget_ms=60))
    outcomes = search(agent, evaluations=1000, batch=7)
    assert agent.exhausted
    assert agent.propose(3) == []
    assert {o.plan for o in outcomes} == {p for p, ok in zip(agent.problem.plans, agent.problem.candidates, strict=True)
                                          if ok}
    everything = score(SMALL.measurements, LATENCY, OBJECTIVE, agent.problem.conditions)
    assert best_outcome(outcomes) == best_outcome(everything)
    assert all(o.feasible for o in outcomes)


def test_where_nothing_fits_only_the_least_late_plans_are_measured():
    agent = load_agent("exhaustive")(problem(budget_ms=1))
    outcomes = search(agent, evaluations=1000)
    everything = score(SMALL.measurements, LATENCY, OBJECTIVE, agent.problem.conditions)
    assert 1 <= len(outcomes) < len(everything) / 2
    assert agent.best == best_outcome(everything)


def test_random_is_seeded():
    def plans(seed):
        return [o.plan for o in search(load_agent("random")(problem(seed=seed)), evaluations=20)]

    assert plans(1) == plans(1) != plans(2)


@pytest.mark.parametrize(("script", "text"), [
    ((), "proposed 0 plans"), ((0, 1, 2), "proposed 3 plans"), ((0, 0), "no candidate"), ((10_000,), "no candidate"),
    ((-1,), "no candidate"),
])
def test_an_agent_that_breaks_the_rules_is_named(script, text):
    agent = Scripted(problem(budget_ms=1000))
    agent.script = script
    with pytest.raises(PluginError, match=f"scripted.*{text}"):
        agent.propose(2)


def test_foreign_plans_are_refused_and_known_ones_are_not_proposed_again():
    agent = load_agent("exhaustive")(problem(budget_ms=1000))
    stranger = SMALL.measurements[0].plan.model_copy(update={"split": "elsewhere"})
    outcome = outcomes_of(agent, [SMALL.measurements[0].plan])[0]
    foreign = outcome.model_copy(update={"measurement": outcome.measurement.model_copy(update={"plan": stranger})})
    with pytest.raises(ValueError, match="not in the search space"):
        agent.observe([foreign])
    agent.observe([outcome])
    assert outcome.plan not in agent.propose(1000)


def test_loop_reports_in_order_and_counts_the_budget_as_a_total():
    agent, seen = load_agent("random")(problem(budget_ms=1000)), []
    first = search(agent, evaluations=13, batch=5, on_outcome=seen.append)
    for start in (0, 5, 10):  # within a batch in the order of measuring, plans of one head after each other
        batch, reported = first[start:start + 5], seen[start:start + 5]
        assert sorted(batch, key=lambda o: (o.plan.split, str(o.plan.sparsity))) == reported
    assert len(first) == 13
    assert len(search(agent, evaluations=20, batch=5)) == 20
    with pytest.raises(ValueError, match="at least 1"):
        search(agent, evaluations=20, batch=0)


def test_resumed_search_equals_an_uninterrupted_one():
    whole = search(load_agent("random")(problem()), evaluations=30)
    cached = CachedEvaluator(SMALL, known=[o.measurement for o in whole[:17]])
    agent = load_agent("random")(problem())
    resumed = run_search(agent, cached, Scorer(LATENCY, OBJECTIVE, agent.problem.conditions), evaluations=30)
    assert resumed == whole
    assert len(cached.measurements) - 17 == 13


def test_problem_needs_a_workload_a_plan():
    with pytest.raises(ValueError, match="do not describe"):
        SearchProblem(SMALL.space, (), LATENCY, OBJECTIVE, make_conditions())
