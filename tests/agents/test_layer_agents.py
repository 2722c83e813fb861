"""Agents that prune layer by layer: state, known answers, equal runs, and what DDPG and the surrogate are made of."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.optimize import check_grad

from autosplit.agents import list_agents, load_agent
from autosplit.agents.layerwise.base import LayerwiseAgent, LayerwiseProblem, LayerwiseRandomAgent
from autosplit.agents.layerwise.ddpg import AmcSettings, EpisodeReplayBuffer, LayerwiseDDPGAgent
from autosplit.agents.layerwise.ppo import LayerPPOSettings, LayerwisePPOAgent
from autosplit.agents.layerwise.surrogate import LayerSurrogate, TrendKernel
from autosplit.agents.logit import accuracy_of, logit
from autosplit.agents.loop import run_search
from autosplit.agents.ppo import PPOAgent
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.agents.trainer import EpisodicPPO
from autosplit.core.errors import ConfigError, PluginError, UnknownNameError
from autosplit.envs.features import PLAN_FEATURES
from autosplit.envs.layers import Choice
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.evaluation.objective import best_outcome, load_objective
from autosplit.evaluation.scorer import Scorer, score
from autosplit.latency import load_latency_model
from tests.layers import LayerTable
from tests.synthetic import make_conditions, small_table

TABLE = LayerTable()
LATENCY, OBJECTIVE = load_latency_model("analytic"), load_objective("in-time-accuracy")
PPO = LayerPPOSettings(first=8, round=8, first_updates=4, updates=2, draws=32, neighbours=64,
                       ppo=EpisodicPPO(episodes=32, hidden=(64, 64), entropy=0.02))
DDPG = AmcSettings(hidden=(32, 32), most_updates=2)
AGENTS = {"random": LayerwiseRandomAgent, "ppo": lambda p: LayerwisePPOAgent(p, PPO),
          "ddpg": lambda p: LayerwiseDDPGAgent(p, DDPG)}


def problem(budget_ms=2.0, seed=0, table=TABLE, **options):
    return LayerwiseProblem.of(table, LATENCY, OBJECTIVE, make_conditions(budget_ms), seed, **options)


def search(agent, evaluations, table=TABLE, **options):
    return run_search(agent, table, Scorer(LATENCY, OBJECTIVE, agent.problem.conditions),
                      evaluations=evaluations, **options)


def optimum(budget_ms):
    return best_outcome(score(TABLE.measure(TABLE.everything()), LATENCY, OBJECTIVE, make_conditions(budget_ms)))


def best_uniform(budget_ms):
    plans = [p for p in TABLE.space.plans() if not isinstance(p.sparsity, tuple)]
    return best_outcome(score(TABLE.measure(plans), LATENCY, OBJECTIVE, make_conditions(budget_ms)))


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_by_granularity():
    assert list_agents("layer") == ["ddpg", "ppo", "random"]
    assert load_agent("ppo", "layer") is LayerwisePPOAgent
    assert load_agent("ppo") is load_agent("ppo", "uniform") is PPOAgent
    assert "exhaustive" in list_agents()
    with pytest.raises(ConfigError, match=r"'exhaustive' prunes whole heads only: .* take ddpg, ppo or random$"):
        load_agent("exhaustive", "layer")
    with pytest.raises(ConfigError, match="whole heads only"):
        load_agent("autosplit.agents.enumerate:RandomAgent", "layer")
    with pytest.raises(ConfigError, match="'ddpg' prunes layer by layer: search with --granularity layer, or"):
        load_agent("ddpg")
    with pytest.raises(UnknownNameError, match="did you mean 'ddpg'"):
        load_agent("dppg", "layer")
    with pytest.raises(PluginError, match=r"not a subclass of autosplit\.agents\.layerwise"):
        load_agent("autosplit.core.plan:Plan", "layer")


# --- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_contract(name):
    agent = AGENTS[name](problem(evaluations=20))
    assert agent.name == name
    assert agent.best is None
    plans = []
    for n in (1, 4, 3):
        found = agent.propose(n)
        assert 1 <= len(found) <= n
        outcomes = score(TABLE.measure(found), LATENCY, OBJECTIVE, agent.problem.conditions)
        assert all(o.feasible for o in outcomes)
        agent.observe(outcomes)
        plans += found
    assert len({agent.problem.space.locate(p) for p in plans}) == len(plans) == len(agent.outcomes)
    assert agent.best == best_outcome(agent.outcomes)
    assert not agent.exhausted
    with pytest.raises(ValueError, match="observed before"):
        agent.observe(agent.outcomes[:1])
    with pytest.raises(ValueError, match="at least one"):
        agent.propose(0)
    stranger = agent.outcomes[0].measurement.plan.model_copy(update={"split": "elsewhere"})
    measured = agent.outcomes[0].measurement.model_copy(update={"plan": stranger})
    with pytest.raises(ValueError, match="not in the search space"):
        agent.observe([agent.outcomes[0].model_copy(update={"measurement": measured})])


@pytest.mark.parametrize("name", AGENTS)
def test_a_small_space_is_measured_once_and_then_the_agent_is_exhausted(name):
    table = LayerTable(channels=(4, 4, 4), ends=False)
    table.measured.clear()
    agent = AGENTS[name](problem(1000, table=table, splits=["middle"], codecs=table.space.codecs["middle"][:2]))
    outcomes = search(agent, 1000, table)
    assert agent.exhausted
    assert agent.propose(3) == []
    assert len(table.measured) == len(set(table.measured)) == len(outcomes) == 4 * 2


def test_where_nothing_fits_only_the_least_late_plans_are_measured():
    agent = LayerwiseRandomAgent(problem(0.01))
    outcomes = search(agent, 20)
    everything = score(TABLE.measure(TABLE.everything()), LATENCY, OBJECTIVE, agent.problem.conditions)
    assert max(o.latency.p95_ms for o in outcomes) <= 1.25 * min(o.latency.p95_ms for o in everything)
    assert best_outcome(outcomes).latency == best_outcome(everything).latency


class Scripted(LayerwiseAgent):
    """Proposes what it is told to."""

    name = "scripted"
    script = ()

    def _propose(self, n):
        return self.script


@pytest.mark.parametrize(("script", "text"), [
    ([Choice(2, (2, 2, 2), 0)] * 2, "proposed before"),
    ([Choice(2, (2, 2, n), 0) for n in (2, 3, 4)], "proposed 3 plans, asked for 2"),
    ([Choice(2, (8, 8, 8), 0)], "no candidate"),
])
def test_an_agent_that_breaks_the_rules_is_named(script, text):
    agent = Scripted(problem(2))
    agent.script = script
    with pytest.raises(PluginError, match=f"scripted.*{text}"):
        agent.propose(2)


def test_evaluators_of_whole_heads_are_refused():
    with pytest.raises(ConfigError, match="layer by layer"):
        problem(table=small_table())


# --- known answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_ms", [2, 3])
def test_ppo_finds_the_enumerated_optimum_which_no_uniform_plan_is(budget_ms):
    agent = LayerwisePPOAgent(problem(budget_ms), PPO)
    search(agent, 48)
    best = optimum(budget_ms)
    assert agent.problem.space.locate(agent.best.plan) == agent.problem.space.locate(best.plan)
    assert best.reward > best_uniform(budget_ms).reward + 0.02


def test_ppo_shares_out_a_budget_among_twelve_groups():
    rng = np.random.default_rng(3)
    channels, positions = (16,) * 4 + (32,) * 4 + (64,) * 4, (1024,) * 4 + (256,) * 4 + (64,) * 4
    table = LayerTable(channels, positions, tuple(rng.uniform(0.02, 0.5, 12) ** 1.5), ends=False)
    only = problem(90, table=table, splits=["output"])
    uniform = [only.space.uniform(0, s) for s in np.linspace(0, 0.75, 100)]
    within = only.core.within(0, np.array(uniform), np.zeros(100, dtype=int))
    plans = [only.space.plan(Choice(0, keep, 0)) for keep, ok in zip(uniform, within, strict=True) if ok]
    best = max(table.accuracy(plan) for plan in plans)
    agent = LayerwisePPOAgent(only, PPO)
    search(agent, 56, table)
    assert agent.best.feasible
    assert agent.best.measurement.accuracy > best + 0.05


def test_ddpg_gets_better_than_its_warm_up():
    settings = AmcSettings(hidden=(32, 32), most_updates=4, actor_lr=1e-3)
    agent = LayerwiseDDPGAgent(problem(2, evaluations=40, splits=["output"]), settings)
    rewards = [o.reward for o in search(agent, 40)]
    assert np.mean(rewards[-16:]) > np.mean(rewards[:5]) + 0.05
    assert agent.best.reward > best_uniform(2).reward


def test_payloads_that_differ_from_the_prediction_are_taken_in():
    table = LayerTable(channels=(8, 8, 8), payload=1.3, ends=False)
    agent = LayerwisePPOAgent(problem(22, table=table, splits=["middle"]), PPO)
    outcomes = search(agent, 40, table)
    assert not all(o.feasible for o in outcomes[:8])
    assert all(o.feasible for o in outcomes[16:])


# --- equal runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_equal_seeds_equal_proposals_whatever_else_draws_and_however_they_are_asked_for(name):
    def plans(seed, batch):
        agent = AGENTS[name](problem(seed=seed, evaluations=20))
        return [o.plan for o in search(agent, 20, batch=batch, on_outcome=lambda _: torch.rand(3))]

    torch.manual_seed(3)
    np.random.seed(3)
    first = plans(0, 4)
    np.random.seed(5)
    assert first == plans(0, 10) == plans(0, 3)
    assert first != plans(1, 4)


@pytest.mark.parametrize("name", ["ppo", "ddpg"])
def test_training_leaves_global_generators_and_the_disk_alone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    search(AGENTS[name](problem(evaluations=16)), 16)
    assert torch.equal(torch.rand(2), expected[0])
    np.testing.assert_array_equal(np.random.rand(2), expected[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", AGENTS)
def test_resumed_search_equals_an_uninterrupted_one(name):
    whole = search(AGENTS[name](problem(evaluations=20)), 20)
    cached = CachedEvaluator(TABLE, known=[o.measurement for o in whole[:13]])
    assert search(AGENTS[name](problem(evaluations=20)), 20, cached) == whole
    assert len(cached.measurements) - 13 == 7


# --- DDPG's parts ---------------------------------------------------------------------------------------------------


def test_replay_copies_the_reward_to_the_whole_episode_and_centres_it():
    buffer = EpisodeReplayBuffer(10, spaces.Box(0, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32),
                                 device="cpu", baseline_rate=0.5)
    for reward in (0.2, 0.8):
        for step in range(3):
            buffer.stage(np.full(2, step / 3), np.full(2, (step + 1) / 3), 0.5, step == 2)
        assert buffer.size() == (0 if reward == 0.2 else 3)
        buffer.finish(reward)
    np.testing.assert_allclose(buffer.rewards[:6, 0], [0.2] * 3 + [0.8] * 3)
    assert buffer.dones[:6, 0].tolist() == [0, 0, 1] * 2
    first = buffer.sample(64)
    assert first.rewards.mean().item() == pytest.approx(0, abs=1e-6)
    assert np.diff(np.unique(first.rewards.numpy())) == pytest.approx(0.6, abs=1e-6)
    baseline = buffer.baseline
    second = buffer.sample(64)
    mean = second.rewards.mean().item() + buffer.baseline
    assert buffer.baseline == pytest.approx(baseline + 0.5 * (mean - baseline))


@pytest.mark.parametrize(("evaluations", "warm_up", "updates"), [
    (800, 100, 1), (100, 12, 8), (8, 1, 16), (1600, 200, 1)])
def test_the_schedule_is_spread_over_the_measurements_asked_for(evaluations, warm_up, updates):
    agent = LayerwiseDDPGAgent(problem(evaluations=evaluations))
    assert (agent._warm_up, agent._updates) == (warm_up, updates)
    rates = [o.param_groups[0]["lr"] for o in _trained(agent)]
    assert rates == [1e-4, 1e-3]
    sizes = [tuple(m.weight.shape) for m in agent._ddpg.actor.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes == [(300, agent.core.observation_size), (300, 300), (1, 300)]
    assert agent._ddpg.buffer_size == 100 * agent.core.longest == 100 * 5
    assert (agent._ddpg.gamma, agent._ddpg.tau) == (1.0, 0.01)


def _trained(agent):
    """Optimisers of actor and critic after an update."""
    choice = agent.problem.space.locate(agent.propose(1)[0])
    agent._remember(choice, 0.5)
    agent._ddpg.train(1, 4)
    return agent._ddpg.actor.optimizer, agent._ddpg.critic.optimizer


# --- the surrogate --------------------------------------------------------------------------------------------------


def test_surrogate_gradient():
    rng = np.random.default_rng(0)
    points = np.concatenate((rng.uniform(0.1, 1, (20, 4)), rng.random((20, 3))), axis=1)
    model, targets = LayerSurrogate(4, 3), rng.normal(size=20)
    inputs = model._inputs(points)
    start = model._hyper + rng.normal(0, 0.3, len(model._hyper))
    squares = TrendKernel(4, start).squares(inputs, inputs)
    error = check_grad(lambda h: TrendKernel(4, h).loss(inputs, squares, targets)[0],
                       lambda h: TrendKernel(4, h).loss(inputs, squares, targets)[1], start)
    assert error < 1e-4 * np.abs(TrendKernel(4, start).loss(inputs, squares, targets)[1]).max()


def test_surrogate_ranks_unmeasured_plans_and_knows_what_it_does_not_know():
    plans = TABLE.everything()
    space = problem().space
    features = space.features([space.locate(p) for p in plans])
    accuracy = np.array([TABLE.accuracy(p) for p in plans])
    order = np.random.default_rng(0).permutation(len(plans))
    known, left = order[:60], order[60:]
    model = LayerSurrogate(len(space.roots), features.shape[1] - len(space.roots))
    with pytest.raises(RuntimeError, match="fit"):
        model.estimate(features)
    model.fit(features[known], accuracy[known])
    ranks = [values.argsort().argsort() for values in (model.estimate(features[left]), accuracy[left])]
    assert np.corrcoef(*ranks)[0, 1] > 0.95
    width = model.estimate(features, 1.0) - model.estimate(features, -1.0)
    assert width[known].mean() < width[left].mean()
    np.testing.assert_allclose(model.estimate(features[known]), accuracy[known], atol=0.02)


def test_the_deviation_is_that_of_a_measurement_as_in_the_other_surrogate():
    """Noise included, in both: what is left of unmeasured plans, in deviations, spreads by one; without, by five."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0.2, 1.0, (400, 2))
    noise = 0.3
    logits = 3.0 * np.log(points[:, 0]) + 2.0 * np.log(points[:, 1]) + 2.0 + noise * rng.normal(size=len(points))
    accuracy, known, left = accuracy_of(logits), np.arange(80), np.arange(80, 400)
    by_layer = LayerSurrogate(2)
    by_layer.fit(points[known], accuracy[known])
    mean, deviation = by_layer.logits(points[left])
    features = np.zeros((len(points), len(PLAN_FEATURES)))
    features[:, :2] = points
    whole = AccuracySurrogate(features)
    whole.fit(known, accuracy[known])
    low, middle, high = (logit(whole.estimate(weight)[left]) for weight in (-1.0, 0.0, 1.0))
    for centre, width in ((mean, deviation), (middle, (high - low) / 2)):
        assert np.std((logits[left] - centre) / width) == pytest.approx(1.0, abs=0.15)
        assert width.min() > 0.8 * noise
