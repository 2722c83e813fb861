"""Every registered agent keeps the contract; and the contract notices who does not."""

import importlib.util
import random
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from autosplit.agents import list_agents, load_agent
from autosplit.agents.amortise import PolicySettings, train_policy
from autosplit.agents.enumerate import ExhaustiveAgent, RandomAgent
from autosplit.agents.live import PPOLiveSettings
from autosplit.agents.ppo import PPOSettings
from autosplit.agents.trainer import PPOHyperparameters
from autosplit.envs.conditions import ConditionsSampler
from autosplit.testing import AgentCase, AgentContract

TINY = PPOHyperparameters(episodes=16, minibatches=1, epochs=1, hidden=(8,))
SHORT = {
    "evolution": {"population": 6},
    "ppo": {"settings": PPOSettings(round=3, conditions=8, first_updates=1, updates=1, draws=16, ppo=TINY)},
    "ppo-live": {"settings": PPOLiveSettings(patience=2, ppo=TINY)},
}
"""Settings with which an agent learns within a few measurements."""


@cache
def usual_policy():
    """A policy, hardly trained, on the plans that agents are tried on."""
    case = AgentCase.usual()
    problem = case.problem
    return train_policy(case.evaluator, problem.latency_model, problem.objective, ConditionsSampler(problem.conditions),
                        PolicySettings(conditions=4, steps=100, trials=2, ppo=TINY))


class TestRegistered(AgentContract):
    @pytest.fixture(params=[name for name in list_agents() if name != "gp"])
    def build(self, request):
        name = request.param
        if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
            pytest.skip("an extra: pip install '.[cmaes]'")
        agent = load_agent(name)
        assert agent.name == name
        if agent.needs_policy:
            return lambda problem: agent(replace(problem, policy=usual_policy()))
        return lambda problem: agent(problem, **SHORT.get(name, {}))


class TestGP(AgentContract):
    """Slow, so that a search ends a few measurements after the process was fitted first."""

    evaluations = 22

    @pytest.fixture
    def build(self):
        return lambda problem: load_agent("gp")(problem, startup=20)


# --- the contract can fail --------------------------------------------------------------------------------------------


class Contract(AgentContract):
    __test__ = False


class Greedy(ExhaustiveAgent):
    """More than it was asked for."""

    def _propose(self, n):
        return list(self.open_numbers()[:n + 1])


class Blind(ExhaustiveAgent):
    """Plans that are too late as well."""

    def __init__(self, problem):
        super().__init__(problem)
        self._open[:] = True


class Lazy(ExhaustiveAgent):
    """Not to the end."""

    def _observe(self, outcomes):
        if len(self._outcomes) > 20:
            self._open[:] = False


class Impatient(ExhaustiveAgent):
    """Cannot be asked again before an outcome is in."""

    asked = False

    def _propose(self, n):
        assert not self.asked
        self.asked = True
        return super()._propose(n)

    def _observe(self, outcomes):
        self.asked = False


class Orderly(ExhaustiveAgent):
    """Expects the outcomes that it asked for, in that order."""

    plans = ()

    def propose(self, n):
        self.plans = super().propose(n)
        return self.plans

    def _observe(self, outcomes):
        assert [o.plan for o in outcomes] == self.plans


class Demanding(ExhaustiveAgent):
    """Needs a choice."""

    def __init__(self, problem):
        super().__init__(problem)
        assert len({plan.split for plan in problem.plans}) > 1


class Moody(ExhaustiveAgent):
    """Draws from a generator that is not its own."""

    def _propose(self, n):
        return np.random.permutation(self.open_numbers())[:n]


class Seeder(ExhaustiveAgent):
    """Seeds a generator that is not its own."""

    def _propose(self, n):
        torch.manual_seed(self.problem.seed)
        random.seed(self.problem.seed)
        return super()._propose(n)


class Talker(ExhaustiveAgent):
    """Prints."""

    def _propose(self, n):
        print("thinking", file=sys.stderr)
        return super()._propose(n)


class Rounded(RandomAgent):
    """Another order for another number."""

    def _propose(self, n):
        return list(self.open_numbers()[-n:])


@pytest.mark.parametrize(("agent", "test", "arguments"), [
    (Greedy, "test_proposals_are_candidates_and_new", ()),
    (Blind, "test_proposals_are_candidates_and_new", ()),
    (Lazy, "test_every_candidate_is_measured_in_the_end", (0.0,)),
    (Impatient, "test_plans_can_be_asked_for_before_outcomes_are_in", ()),
    (Orderly, "test_outcomes_may_come_in_any_order_and_in_parts", ()),
    (Orderly, "test_outcomes_measured_elsewhere_are_taken_in", ()),
    (Demanding, "test_a_tiny_space_is_searched", (1,)),
    (Moody, "test_equal_seeds_give_equal_proposals", ()),
    (Rounded, "test_the_number_asked_for_does_not_matter", ()),
])
def test_a_broken_promise_is_noticed(agent, test, arguments):
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(Contract(), test)(agent, *arguments)
    getattr(Contract(), test)(ExhaustiveAgent, *arguments)


@pytest.mark.parametrize("agent", [Moody, Seeder, Talker])
def test_traces_are_noticed(agent, capfd):
    with pytest.raises(AssertionError):
        Contract().test_global_state_is_left_alone(agent, capfd)
    Contract().test_global_state_is_left_alone(ExhaustiveAgent, capfd)


def test_the_case_has_all_that_can_happen():
    """Plans that are too late, plans that turn out so, and none in time."""
    case = AgentCase.usual(surprise=0.5)
    problem = case.problem
    assert 0 < problem.candidates.sum() < len(case.plans)
    late = [not o.feasible for o in case.outcomes(problem, case.plans)]
    assert (np.array(late) & problem.candidates).any()
    assert len({plan.codec.kind for plan in case.plans}) == 5
