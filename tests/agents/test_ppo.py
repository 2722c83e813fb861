"""The default agent against enumeration, and what its policy answers afterwards."""

import json
import tempfile

import numpy as np
import pytest
import torch

from autosplit.agents.design import InitialDesign
from autosplit.agents.policy import CoInferencePolicy
from autosplit.agents.ppo import PPOAgent, PPOSettings
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.core.errors import ResultError
from autosplit.envs.conditions import ConditionsSampler
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import score
from tests.agents.cases import LARGE, LATENCY, OBJECTIVE, SMALL, problem, search
from tests.synthetic import make_conditions

DESIGN = InitialDesign(8, 5)
QUICK = PPOSettings(round=4, conditions=64, first_updates=8, updates=3, last_updates=40)


def agent_on(table, budget_ms, seed=0, settings=None):
    return PPOAgent(problem(table, budget_ms, seed, DESIGN if settings is QUICK else None), settings)


def optimum(table, conditions):
    return best_outcome(score(table.measurements, LATENCY, OBJECTIVE, conditions))


def regret(table, conditions, plan):
    best = optimum(table, conditions).reward
    return best - score(table.measure([plan]), LATENCY, OBJECTIVE, conditions)[0].reward


@pytest.fixture(scope="module")
def searched():
    agent = agent_on(SMALL, 60, settings=QUICK)
    search(agent, SMALL, 24)
    return agent


@pytest.mark.parametrize("budget_ms", [25, 60, 100, 250])
def test_finds_the_enumerated_optimum(budget_ms):
    agent = agent_on(SMALL, budget_ms, settings=QUICK)
    search(agent, SMALL, 24)
    assert agent.best == optimum(SMALL, agent.problem.conditions)


def test_a_full_budget_is_exhaustive():
    agent = agent_on(SMALL, 60, settings=QUICK)
    assert len(search(agent, SMALL, 1000)) == agent.problem.candidates.sum()
    assert agent.exhausted


def test_where_nothing_fits_it_finds_the_least_late():
    agent = agent_on(SMALL, 1, settings=QUICK)
    search(agent, SMALL, 24)
    assert agent.best == optimum(SMALL, agent.problem.conditions)


def test_equal_seeds_equal_proposals_whatever_else_draws_and_however_they_are_asked_for():
    def plans(seed, batch):
        agent = agent_on(SMALL, 100, seed=seed, settings=QUICK)
        return [o.plan for o in search(agent, SMALL, 24, batch=batch, on_outcome=lambda _: torch.rand(3))]

    first = plans(0, 4)
    np.random.seed(5)
    assert first == plans(0, 10) == plans(0, 3)
    assert first != plans(1, 4)


def test_training_leaves_the_global_generators_alone(monkeypatch):
    # torch's exporter, which another test may have used, turns this off for the whole process
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    search(agent_on(SMALL, 60, settings=QUICK), SMALL, 16)
    assert torch.equal(torch.rand(2), expected[0])
    np.testing.assert_array_equal(np.random.rand(2), expected[1])
    with pytest.raises(ValueError, match="constraint"):  # distributions check their arguments as before
        torch.distributions.Categorical(probs=torch.tensor([-1.0, 2.0]))


def test_training_leaves_no_files(tmp_path, monkeypatch):
    """stable-baselines3's own logger makes a folder for each training."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    search(agent_on(SMALL, 60, settings=QUICK), SMALL, 16)
    assert not list(tmp_path.iterdir())


def test_near_optimal_on_a_large_space():
    agent = agent_on(LARGE, 60)
    search(agent, LARGE, 60)
    best = optimum(LARGE, agent.problem.conditions).reward
    assert agent.best.reward >= 0.98 * best


def test_progress_is_told():
    agent, lines = agent_on(SMALL, 60, settings=QUICK), []
    agent.on_progress = lines.append
    search(agent, SMALL, 12)
    assert any("round 1" in line for line in lines)


class Surprising:
    """The small table with payloads that are a multiple of what was predicted."""

    space, workloads = SMALL.space, staticmethod(SMALL.workloads)

    def __init__(self, factor):
        self.factor = factor

    def measure(self, plans):
        return [m.model_copy(update={"workload": m.workload.model_copy(
            update={"payload_bytes_mean": self.factor * m.workload.payload_bytes_mean})}) for m in SMALL.measure(plans)]


def test_payloads_that_differ_from_the_prediction_are_taken_in():
    agent = agent_on(SMALL, 60, settings=QUICK)
    search(agent, Surprising(1.5), 24)
    assert agent.best.feasible
    assert agent.policy.knowledge.workloads != agent.problem.workloads


def test_a_plan_that_turns_out_in_time_where_none_was_expected_does_not_end_the_search():
    """Then the plans left to propose are not among those that the conditions allow."""
    p95_ms = LATENCY.latency(problem(SMALL).workloads, [make_conditions()]).p95_ms
    agent = PPOAgent(problem(SMALL, 0.99 * p95_ms.min(), design=InitialDesign(2, 2)),
                     PPOSettings(round=1, conditions=8, first_updates=1, updates=1, draws=16))
    outcomes = search(agent, Surprising(0.5), 1000)
    assert len(outcomes) == agent.problem.candidates.sum() > 4
    assert agent.best.feasible


def test_policy_answers_for_conditions_it_never_saw(searched):
    around = ConditionsSampler(make_conditions(60), device=1.5, channel=1.5, access=2, budget_ms=(25, 60))
    unseen = around.pool(40, seed=77)
    plans = [searched.policy.decide(c).plan for c in unseen]
    outcomes = [score(SMALL.measure([p]), LATENCY, OBJECTIVE, c)[0] for p, c in zip(plans, unseen, strict=True)]
    assert [o.feasible for o in outcomes] == [optimum(SMALL, c).feasible for c in unseen]
    assert len(set(plans)) > 3
    assert np.median([regret(SMALL, c, p) for p, c in zip(plans, unseen, strict=True)]) < 0.05


def test_training_the_policy_does_not_change_the_search(searched):
    again = agent_on(SMALL, 60, settings=QUICK)
    search(again, SMALL, 12)
    assert again.policy is again.policy
    search(again, SMALL, 24)
    assert again.outcomes == searched.outcomes


def test_policy_needs_outcomes():
    with pytest.raises(ValueError, match="at least two"):
        _ = agent_on(SMALL, 60, settings=QUICK).policy


def test_saved_policy_decides_the_same(searched, tmp_path):
    searched.policy.save(tmp_path / "policy")
    assert sorted(f.name for f in (tmp_path / "policy").iterdir()) == ["policy.json", "policy.safetensors"]
    loaded = CoInferencePolicy.load(tmp_path / "policy", LATENCY)
    unseen = ConditionsSampler(make_conditions(80)).pool(50, seed=5)
    assert [loaded.decide(c) for c in unseen] == [searched.policy.decide(c) for c in unseen]
    assert loaded.sha256 == searched.policy.sha256
    assert loaded.origin == searched.policy.origin


def test_damaged_policies_are_refused(searched, tmp_path):
    with pytest.raises(ResultError, match="no such file"):
        CoInferencePolicy.load(tmp_path / "absent", LATENCY)
    searched.policy.save(tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    for change in ({"schema_version": 99}, {"hidden": [3]}, {"space": {}}, {"actions": "many"}, {"origin": 3}):
        (tmp_path / "policy.json").write_text(json.dumps(description | change))
        with pytest.raises(ResultError, match="policy"):
            CoInferencePolicy.load(tmp_path, LATENCY)
    (tmp_path / "policy.json").write_text(json.dumps(description))
    weights = (tmp_path / "policy.safetensors").read_bytes()
    (tmp_path / "policy.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ResultError, match=r"policy\.safetensors: cannot be read"):
        CoInferencePolicy.load(tmp_path, LATENCY)
    (tmp_path / "policy.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ResultError, match="was altered"):
        CoInferencePolicy.load(tmp_path, LATENCY)


def test_surrogate_ranks_unmeasured_plans_and_knows_what_it_does_not_know():
    accuracy = np.array([m.accuracy for m in LARGE.measurements])
    order = np.random.default_rng(0).permutation(len(accuracy))
    surrogate = AccuracySurrogate(problem(LARGE).features)
    surrogate.fit(order[:60], accuracy[order[:60]])
    left = order[60:]
    ranks = [values.argsort().argsort() for values in (surrogate.estimate()[left], accuracy[left])]
    assert np.corrcoef(*ranks)[0, 1] > 0.95
    width = surrogate.estimate(1) - surrogate.estimate(-1)
    assert (width > 0).all()
    assert width[order[:60]].mean() < width[left].mean()
