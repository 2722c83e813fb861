"""`ppo` without its policy: the same initial design, the same model, other candidate plans."""

import numpy as np
import pytest

from autosplit.agents.design import InitialDesign
from autosplit.agents.model import ModelSettings
from autosplit.agents.ppo import PPOAgent, PPOSettings
from autosplit.testing import AgentContract
from benchmarks.model_only import ModelEnumerateAgent, ModelRandomAgent, ShootingSettings
from tests.agents.cases import LARGE, SMALL, optimum, outcomes_of, problem, search

DESIGN = InitialDesign(8, 5)
AGENTS = {
    ModelEnumerateAgent: ModelSettings(round=4),
    ModelRandomAgent: ShootingSettings(round=4, draws=64),
    PPOAgent: PPOSettings(round=4, conditions=8, first_updates=1, updates=1, draws=32),
}


class TestModelOnly(AgentContract):
    @pytest.fixture(params=[ModelEnumerateAgent, ModelRandomAgent])
    def build(self, request):
        settings = {ModelEnumerateAgent: ModelSettings(round=3),
                    ModelRandomAgent: ShootingSettings(round=3, draws=16)}
        return lambda problem: request.param(problem, settings[request.param])


@pytest.mark.parametrize("kind", [ModelEnumerateAgent, ModelRandomAgent])
@pytest.mark.parametrize("budget_ms", [60, 250])
def test_finds_the_enumerated_optimum(kind, budget_ms):
    agent = kind(problem(SMALL, budget_ms, design=DESIGN), AGENTS[kind])
    search(agent, SMALL, 24)
    assert agent.best == optimum(agent)


def test_all_begin_with_the_same_plans():
    designs = [kind(problem(LARGE, 100, seed=3, design=DESIGN), settings).propose(8)
               for kind, settings in AGENTS.items()]
    assert designs[0] == designs[1] == designs[2]
    assert len(set(designs[0])) == 8


def candidates(agent, evaluations):
    """The candidate plans of each round, with the plans that were open then and those that were chosen."""
    found, asked = [], agent.candidate_plans

    def spy(rng):
        found.append([asked(rng), agent.open_numbers()])
        return found[-1][0]

    agent.candidate_plans = spy
    search(agent, LARGE, evaluations)
    numbers = [agent.problem.number[o.plan] for o in agent.outcomes][8:]
    return [(short, still_open, numbers[4 * i:4 * i + 4]) for i, (short, still_open) in enumerate(found)]


@pytest.mark.parametrize("kind", AGENTS)
def test_what_is_measured_is_among_the_candidates(kind):
    for short, still_open, chosen in candidates(kind(problem(LARGE, 150, design=DESIGN), AGENTS[kind]), 20):
        assert len(short) == len(set(short.tolist()))
        assert set(short.tolist()) <= set(still_open.tolist())
        assert set(chosen) <= set(short.tolist())


def test_enumeration_has_all_and_shooting_a_draw():
    everything = ModelEnumerateAgent(problem(LARGE, 150, design=DESIGN), AGENTS[ModelEnumerateAgent])
    for short, still_open, _ in candidates(everything, 16):
        assert (short == still_open).all()
    drawn = candidates(ModelRandomAgent(problem(LARGE, 150, design=DESIGN), AGENTS[ModelRandomAgent]), 16)
    for short, still_open, _ in drawn:
        assert 40 < len(short) <= 64 < len(still_open)
    assert set(drawn[0][0].tolist()) != set(drawn[1][0].tolist())


def test_the_best_by_the_acquisition_is_measured_first():
    agent = ModelEnumerateAgent(problem(LARGE, 150, design=DESIGN), AGENTS[ModelEnumerateAgent])
    agent.observe(outcomes_of(agent, agent.propose(8), LARGE))
    still_open = agent.open_numbers()
    chosen = agent.problem.number[agent.propose(1)[0]]
    ucb_weight = float(np.random.default_rng(agent.seed_for("choose", 1)).exponential(size=4)[0])
    value = agent.estimated_rewards(agent.cores()[0], agent._surrogate, ucb_weight)[:, 0]
    assert value[chosen] == value[still_open].max()
