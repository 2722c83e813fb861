"""What a policy expects: what was measured, twins alike, never more than the uncut network, and how sure it is."""

import numpy as np
import pytest

from autosplit.agents.expectations import Expectations, expectations, twins_of
from autosplit.agents.ppo import PPOAgent
from autosplit.core.measurement import Measurement, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from tests.agents.cases import LATENCY, SMALL, search
from tests.agents.test_ppo import QUICK, agent_on
from tests.synthetic import make_conditions

PNG = Plan(split=INPUT, codec=CodecSetting(kind="png"))
FILE, BODY = (Plan(split=INPUT, codec=CodecSetting(kind=kind, quality=30)) for kind in ("jpeg", "jpeg-shared"))
SPLIT, PRUNED = (Plan(split="layer1", sparsity=s, codec=CodecSetting(kind="code", width=4, grid=4, bits=2))
                 for s in (0.0, 0.5))
PLANS = (PNG, FILE, BODY, SPLIT, PRUNED)


def measured(plan, accuracy, images=1000):
    return Measurement(plan=plan, accuracy=accuracy, workload=Workload(plan=plan), images=images)


def guessed(*accuracy):
    values = np.array(accuracy)
    return Expectations(values, values - 0.1, np.minimum(values + 0.1, 1))


def test_what_was_measured_is_what_is_expected():
    """A coded image was expected at 99.6 % that had been measured at 97.7: the baselines were not known."""
    known = {0: measured(PNG, 0.982), 1: measured(FILE, 0.977)}
    found = expectations(PLANS, guessed(0.99, 0.996, 0.996, 0.9, 0.8), known)
    assert found.accuracy.tolist() == [0.982, 0.977, 0.977, 0.9, 0.8]
    assert (found.low[1], found.high[1]) == pytest.approx((0.9657, 0.982), abs=2e-4)  # Wilson's, cut above
    assert (found.low[2], found.high[2]) == (found.low[1], found.high[1])
    assert (found.low[3], found.high[3]) == pytest.approx((0.8, 0.982))  # an estimate, cut at the uncut network's


def test_twins_have_one_expectation_also_where_neither_was_measured():
    found = expectations(PLANS, guessed(0.9, 0.7, 0.8, 0.6, 0.5), {})
    assert found.accuracy.tolist() == [0.9, 0.7, 0.7, 0.6, 0.5]


def test_nothing_is_expected_to_be_better_than_the_uncut_network():
    lucky = measured(SPLIT, 0.99)
    found = expectations(PLANS, guessed(0.9, 0.999, 0.999, 0.5, 0.999), {0: measured(PNG, 0.98), 3: lucky})
    assert found.accuracy.max() == found.high.max() == 0.98
    assert expectations(PLANS, guessed(0.9, 0.7, 0.7, 0.5, 0.999), {3: lucky}).accuracy.max() == 0.999  # not measured


def test_a_plan_without_a_twin_is_its_own():
    assert twins_of(PLANS) == [[1, 2]]
    guess = guessed(0.9, 0.7, 0.7, 0.6, 0.4)
    assert expectations(PLANS, guess, {3: measured(SPLIT, 0.5)}).accuracy.tolist() == [0.9, 0.7, 0.7, 0.5, 0.4]
    assert expectations(PLANS, guess, {2: measured(BODY, 0.5)}).accuracy.tolist() == [0.9, 0.5, 0.5, 0.6, 0.4]


def test_a_searchs_policy_knows_its_baselines():
    agent = agent_on(SMALL, 60, settings=QUICK)
    search(agent, SMALL, 12)
    plans = agent.problem.plans
    before = agent.policy
    others = [m for m in SMALL.measure(plans) if m.plan.split in (INPUT, OUTPUT)]
    agent.inform([*others, measured(Plan(split="elsewhere", codec=CodecSetting(kind="raw")), 0.1)])
    policy, known = agent.policy, {m.plan: m for m in others}
    uncut = max(m.accuracy for m in others if m.plan.lossless)
    assert policy is not before
    for plan, accuracy in zip(plans, policy.knowledge.accuracy, strict=True):
        if plan in known:
            assert accuracy == min(known[plan].accuracy, uncut)
    for budget_ms in (10, 40, 60, 100, 400):
        decision = policy.decide(make_conditions(budget_ms))
        assert decision.accuracy <= uncut
        assert decision.accuracy_low <= decision.accuracy <= decision.accuracy_high <= uncut


def test_intervals_are_stored_with_the_policy(tmp_path):
    agent = agent_on(SMALL, 60, settings=QUICK)
    search(agent, SMALL, 12)
    agent.policy.save(tmp_path)
    again = type(agent.policy).load(tmp_path, LATENCY)
    assert isinstance(agent, PPOAgent)
    for number in range(len(agent.problem.plans)):
        assert again.knowledge.interval(number) == agent.policy.knowledge.interval(number)
    assert again.decide(make_conditions()) == agent.policy.decide(make_conditions())
