"""`benchmarks/ablations.py`: each takes away what it says, keeps the agent's contract, and loads by path."""

import numpy as np
import pytest

from autosplit.agents import load_agent
from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.ppo import PPOAgent, PPOSettings
from autosplit.agents.trainer import PPOHyperparameters
from autosplit.core.errors import ConfigError
from autosplit.evaluation.objective import load_objective
from autosplit.testing import AgentContract
from benchmarks.ablations import (
    NoConditions,
    NoMasks,
    NoPrior,
    NoPriorEvolution,
    NoPriorGP,
    NoPriorLive,
    NoPriorLocalSearch,
    NoPriorNSGA2,
    NoPriorRandom,
    NoPriorTPE,
    NoRelabelling,
)
from tests.agents.cases import LARGE, LATENCY, SMALL, problem, search
from tests.synthetic import make_conditions

SHORT = PPOSettings(round=3, conditions=8, first_updates=1, updates=1, last_updates=1, draws=16,
                    ppo=PPOHyperparameters(episodes=16, minibatches=1, epochs=1, hidden=(8,)))
ABLATIONS = [NoConditions, NoRelabelling, NoMasks, NoPrior]
PEERS = [NoPriorEvolution, NoPriorGP, NoPriorLive, NoPriorLocalSearch, NoPriorNSGA2, NoPriorRandom, NoPriorTPE]


class TestAblations(AgentContract):
    @pytest.fixture(params=ABLATIONS)
    def build(self, request):
        return lambda problem: request.param(problem, SHORT)


@pytest.mark.parametrize("kind", [*ABLATIONS, *PEERS])
def test_they_load_by_path_and_need_no_settings(kind):
    loaded = load_agent(f"benchmarks/ablations.py:{kind.__name__}")
    assert issubclass(loaded, Agent)
    assert loaded.name == kind.name != PPOAgent.name
    assert 1 <= len(loaded(problem(SMALL)).propose(5)) <= 5


def searched(kind, table=SMALL, budget_ms=60, evaluations=12):
    agent = kind(problem(table, budget_ms), SHORT)
    search(agent, table, evaluations)
    return agent


def test_without_conditions_the_policy_sees_one():
    pools = {kind: searched(kind).cores()[1].conditions for kind in (PPOAgent, NoConditions)}
    assert len(set(pools[PPOAgent])) == SHORT.conditions
    assert pools[NoConditions] == (make_conditions(60),)


@pytest.mark.parametrize("kind", [NoRelabelling, PPOAgent])
def test_the_surrogate_learns_rewards_or_accuracies(kind):
    agent = kind(problem(SMALL, 60), SHORT)
    fit, given = agent._surrogate.fit, []
    agent._surrogate.fit = lambda plans, values: given.append(values.tolist()) or fit(plans, values)
    outcomes = search(agent, SMALL, 12)
    rewards, accuracies = [o.reward for o in outcomes], [o.measurement.accuracy for o in outcomes]
    assert rewards != accuracies
    seen = given[-1]
    assert seen == (accuracies if kind is PPOAgent else rewards)[:len(seen)]


def test_without_relabelling_latency_changes_no_estimate():
    agent = searched(NoRelabelling)
    rewards = agent.estimated_rewards(agent.cores()[0], agent._surrogate, 0.0)
    elsewhere = agent.cores()[0].under([make_conditions(5)], agent.problem.workloads, LATENCY)
    assert (agent.estimated_rewards(elsewhere, agent._surrogate, 0.0) == rewards).all()
    for number, outcome in agent._outcomes.items():
        assert rewards[number, 0] == outcome.reward
    other = searched(PPOAgent)
    assert (other.estimated_rewards(elsewhere, other._surrogate, 0.0) < 0.5).all()


def test_without_relabelling_rewards_must_be_what_the_surrogate_takes():
    p = SearchProblem.of(SMALL, LATENCY, load_objective("amc"), make_conditions())
    with pytest.raises(ConfigError, match=r"ppo-no-relabelling.*in-time-accuracy.*amc"):
        NoRelabelling(p)


@pytest.mark.parametrize(("kind", "masked"), [(PPOAgent, True), (NoMasks, False)])
def test_without_masks_the_policy_is_trained_on_all_actions(kind, masked):
    agent = searched(kind, LARGE, 40)
    assert not agent.problem.candidates.all()
    seen = agent.trainer._ppo.rollout_buffer.action_masks
    assert (seen.min() == 0) == masked


def test_without_masks_what_is_drawn_becomes_the_nearest():
    """Proposals are the draws of the unmasked policy, each brought inside by the environment's own rule."""
    agent = searched(NoMasks, LARGE, 40)
    here = agent.cores()[0]
    inside = here.restricted(agent._open)
    drawn = agent.drawn(here, np.random.default_rng(0))
    rng, nodes, expected = np.random.default_rng(0), None, set()
    network = agent.trainer.network
    for temperature in SHORT.temperatures:
        nodes = conditions = np.zeros(SHORT.draws, dtype=np.int64)
        for _ in range(3):
            logits = network.get_distribution(
                network.obs_to_tensor(inside.observe(nodes, conditions))[0]).distribution.logits.detach().numpy()
            actions = (logits.astype(np.float64) / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
            nodes = inside.advance(nodes, conditions, actions)
        expected |= set((nodes - inside.tree.inner).tolist())
    assert set(drawn.tolist()) == expected
    assert agent._open[drawn].all()


def test_without_a_prior_the_first_round_is_spread_over_the_space():
    agents = [kind(problem(LARGE, 200), SHORT) for kind in (PPOAgent, NoPrior)]
    guesses = [agent.propose(10)[:5] for agent in agents]
    prior, number = agents[0].problem.prior_rewards, agents[0].problem.number
    with_it, without = (np.mean([prior[number[p]] for p in plans]) for plans in guesses)
    assert with_it == pytest.approx(np.sort(prior[agents[0].problem.candidates])[-5:].mean())
    assert without < with_it


@pytest.mark.parametrize("kind", PEERS)
def test_peers_without_the_prior_are_the_same_methods_but_for_the_initial_design(kind):
    primed, = (base for base in kind.__bases__ if issubclass(base, Agent))
    assert kind.name == f"{primed.name}-no-prior"
    p = problem(LARGE, 200)
    design = [p.plans[i] for i in p.initial_design]
    with_it, without = (agent(p) for agent in (primed, kind))
    assert with_it.propose(10) == design
    assert not set(design[:5]) & set(without.propose(1))
