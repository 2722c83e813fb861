"""Plain PPO: episodes that are measured are the episodes that are learnt from; and it learns."""

import numpy as np
import pytest

from autosplit.agents.design import InitialDesign
from autosplit.agents.live import PPOLiveAgent, PPOLiveSettings
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import STEPS
from tests.agents.cases import LARGE, SMALL, outcomes_of, problem, search

TINY = PPOHyperparameters(episodes=24, minibatches=1, epochs=2, hidden=(16,))


def core_of(p):
    return CoInferenceCore.build(p.space, p.workloads, p.latency_model, [p.conditions])


def recorded(trainer):
    """The plans that the episodes of a trainer's environment end in, from now on."""
    plans, step = [], trainer._adapter.step_wait

    def spy():
        result = step()
        plans.extend(info["plan"] for info in result[3] if info)
        return result

    trainer._adapter.step_wait = spy
    return plans


@pytest.mark.parametrize("masks", [True, False])
def test_visits_are_the_episodes_of_the_training_to_come(masks):
    core = core_of(problem(LARGE, 60))
    trainer = PolicyTrainer(core, PPOHyperparameters(episodes=24, epochs=2, hidden=(16,), masks=masks), seed=3)
    rewards = np.random.default_rng(0).random(core.allowed.shape)
    for seed in (5, 6):  # also after weights have changed
        visits = trainer.visits(core, seed)
        assert core.allowed[visits, 0].all()
        assert (trainer.visits(core, seed) == visits).all()
        plans = recorded(trainer)
        trainer.train(core, rewards, 1, seed)
        assert plans == visits.tolist()
    assert (trainer.visits(core, 7) != visits).any()
    assert trainer._ppo.num_timesteps == 24 * STEPS


def test_an_update_uses_measured_rewards_and_no_others():
    agent, given = PPOLiveAgent(problem(LARGE, 100), PPOLiveSettings(ppo=TINY)), []
    train = agent._trainer.train

    def spy(core, rewards, updates, seed):
        given.append((agent._visited.copy(), rewards[:, 0]))
        train(core, rewards, updates, seed)

    agent._trainer.train = spy
    search(agent, LARGE, 60)
    assert len(given) >= 2
    for visited, rewards in given:
        assert np.isfinite(rewards[visited]).all()
    visited, rewards = given[-1]
    known = np.flatnonzero(np.isfinite(rewards))
    assert rewards[known].tolist() == [agent._outcomes[i].reward for i in known.tolist()]
    assert len(known) <= 60


def test_plans_that_nobody_measured_are_proposed_where_the_policy_repeats_itself():
    """With two episodes an update the policy soon comes back to what it knows, `patience` times."""
    settings = PPOLiveSettings(patience=2, ppo=PPOHyperparameters(episodes=2, epochs=1, hidden=(8,)))
    agent, chosen = PPOLiveAgent(problem(SMALL, 60), settings), []
    made = agent._forced_choice
    agent._forced_choice = lambda: chosen.append(made()) or chosen[-1]
    outcomes = search(agent)
    assert len(outcomes) == agent.problem.candidates.sum()
    assert 0 < len(chosen) < len(outcomes)


def test_outcomes_that_are_not_in_yet_are_not_waited_for():
    agent = PPOLiveAgent(problem(SMALL, 100, design=InitialDesign(0, 0)), PPOLiveSettings(ppo=TINY))
    first = agent.propose(50)
    assert agent._updates == 0
    agent.propose(1)
    assert agent._updates == 0
    agent.observe(outcomes_of(agent, first))
    agent.propose(1)
    assert agent._updates == 1


def test_it_learns():
    """The policy's own episodes earn more in the end than in the beginning, by more than chance gives."""
    p = problem(LARGE, 150, design=InitialDesign(0, 0))
    agent = PPOLiveAgent(p)
    truth = np.array([o.reward for o in outcomes_of(agent, p.plans, LARGE)])
    earned = []
    visits = agent._trainer.visits
    agent._trainer.visits = lambda *a: earned.append(visits(*a)) or earned[-1]
    search(agent, LARGE, 45)
    before, after = (np.concatenate(part) for part in (earned[:3], earned[-3:]))
    assert truth[after].mean() > truth[before].mean() + 3 * truth[before].std() / np.sqrt(len(before))
