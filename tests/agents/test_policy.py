"""Policies for many conditions: what they answer, what they know of other spaces, who starts from them."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from autosplit.agents.amortise import PolicySettings, train_policy
from autosplit.agents.base import SearchProblem
from autosplit.agents.latency_estimates import counts_of, landmarks, plausible
from autosplit.agents.loop import run_search
from autosplit.agents.network import by_likelihood, rollout
from autosplit.agents.policy import Knowledge, Origin, tensors_of_workloads, workloads_of_tensors
from autosplit.agents.policy_agent import PolicyAgent
from autosplit.agents.prior import expected_accuracy
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.agents.trainer import PPOHyperparameters
from autosplit.agents.transfer import predicted_accuracy
from autosplit.core.errors import ConfigError
from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile
from autosplit.envs.conditions import ConditionsSampler, ProfilesSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import condition_features
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import Scorer, score
from autosplit.testing import make_workload
from benchmarks.model_only import ModelEnumerateAgent
from tests.synthetic import PlainLatency, make_conditions, make_table

LATENCY, OBJECTIVE = PlainLatency(), load_objective("in-time-accuracy")
TABLE = make_table(splits=("stem", "layer2", "layer3"), widths=(2, 8, 32), bits=(2, 8), sparsities=(0.0, 0.5, 0.75))
OTHER = make_table(splits=("layer1", "layer3"), widths=(4, 16), bits=(4, 6), noise=0.01, seed=3)
AROUND = ConditionsSampler(make_conditions(80))
QUICK = PolicySettings(conditions=256, steps=100_000, trials=60,
                       ppo=PPOHyperparameters(hidden=(64, 64), target_share=0.0))


@pytest.fixture(scope="module")
def policy(one_thread):
    return train_policy(TABLE, LATENCY, OBJECTIVE, AROUND, QUICK, origin=Origin(table="made up"))


def problem(table, budget_ms=80, policy=None):
    return SearchProblem.of(table, LATENCY, OBJECTIVE, make_conditions(budget_ms), policy=policy)


def test_decisions_under_conditions_never_met_are_nearly_the_best(policy):
    """Against enumeration by hand, not by the policy's own account."""
    unseen = AROUND.pool(60, seed=991)
    regrets = []
    # nothing counts as better than the uncut network, whatever a measurement says by chance
    uncut = max(m.accuracy for m in TABLE.measurements if m.plan.lossless)
    measured = [m.model_copy(update={"accuracy": min(m.accuracy, uncut)}) for m in TABLE.measurements]
    for conditions in unseen:
        outcomes = score(measured, LATENCY, OBJECTIVE, conditions)
        in_time = [o.reward for o in outcomes if o.feasible]
        found = policy.decide(conditions, among=64)
        if in_time:
            assert found.feasible
            regrets.append(1 - found.reward / max(in_time))
        else:
            assert found.plan == min(outcomes, key=lambda o: o.latency.p95_ms).plan
            regrets.append(0.0)
    assert np.median(regrets) <= 0.02
    assert np.quantile(regrets, 0.95) <= 0.06
    assert policy.regret(unseen, among=64) == pytest.approx(regrets)


def test_without_strictness_a_good_plan_may_be_late_now_and_then(policy):
    conditions, accuracy = make_conditions(100), policy.knowledge.accuracy
    poor, good = int(accuracy.argmin()), int(accuracy.argmax())
    times = LATENCY.latency([policy.knowledge.workloads[i] for i in (poor, good)], [conditions])
    late = replace(times, p50_ms=np.full((2, 1), 50.0), p95_ms=np.array([[60.0], [101.0]]),
                   p99_ms=np.array([[60.0], [101.0]]), in_time=np.array([[1.0], [0.94]]))
    chosen = [policy._best(np.array([poor, good]), late, conditions, strict).plan for strict in (True, False)]
    assert chosen == [policy.knowledge.plans[poor], policy.knowledge.plans[good]]


def test_a_restricted_policy_goes_by_new_measurements(policy):
    conditions = make_conditions(400)
    few = [m for m in TABLE.measurements if m.plan.split == "layer2"][:6]
    restricted = policy.restricted([m.model_copy(update={"accuracy": 0.5 + 0.05 * i}) for i, m in enumerate(few)])
    assert restricted.decide(conditions).plan == few[-1].plan
    assert restricted.decide(conditions).accuracy == pytest.approx(0.75)
    assert sorted(restricted.ranked(conditions)) == sorted(policy.knowledge.plans.index(m.plan) for m in few)


@pytest.mark.parametrize("budget_ms", [0.01, 12.0, 20.0, 400.0])
def test_a_restricted_policy_looks_at_no_other_plan(policy, budget_ms):
    allowed = TABLE.measurements[::3]
    found = policy.restricted(allowed).decide(make_conditions(budget_ms), among=4)
    assert found.plan in {m.plan for m in allowed}
    assert found.considered <= len(allowed)


def test_a_decision_says_what_the_latency_model_says(policy):
    conditions = make_conditions(100)
    found = policy.decide(conditions)
    outcome = score(TABLE.measure([found.plan]), LATENCY, OBJECTIVE, conditions)[0]
    assert (found.latency, found.reward, found.budget_ms) == (outcome.latency, outcome.reward, 100)
    assert found.accuracy == outcome.measurement.accuracy
    assert found.payload_bytes == outcome.measurement.workload.payload_bytes_mean
    assert found.considered <= 128


def test_the_latency_model_is_asked_about_a_few_plans_only(policy, monkeypatch):
    asked = []
    monkeypatch.setattr(PlainLatency, "latency", lambda self, w, c, of=PlainLatency.latency: (
        asked.append(len(w)), of(self, w, c))[1])
    policy.decide(make_conditions(400), among=16)
    assert asked == [16]
    asked.clear()
    found = policy.decide(make_conditions(0.01), among=16)  # nothing is in time, and the estimate says so
    assert asked[0] == 16
    assert sum(asked) == found.considered <= 16 + 64
    assert not found.feasible


def test_where_latency_does_not_follow_from_work_every_plan_is_looked_at(policy, monkeypatch):
    def moody(self, workloads, conditions, of=PlainLatency.latency):
        found = of(self, workloads, conditions)
        times_ms = np.array([[1e3 + zlib.crc32(w.plan.label.encode()) % 10**6] for w in workloads], dtype=np.float64)
        return replace(found, p50_ms=times_ms, p95_ms=times_ms, p99_ms=times_ms)

    monkeypatch.setattr(PlainLatency, "latency", moody)
    found = policy.decide(make_conditions(500), among=16)
    assert found.considered == len(TABLE.space)


def test_a_tight_deadline_is_met_by_the_best_plan_that_meets_it(policy):
    """Few plans are in time, and none of the likeliest: those are found that the estimate points at."""
    everything = TABLE.measurements
    for budget_ms in (12.0, 15.0, 20.0, 30.0, 50.0):
        conditions = make_conditions(budget_ms)
        outcomes = [o for o in score(everything, LATENCY, OBJECTIVE, conditions) if o.feasible]
        found = policy.decide(conditions, among=4)
        assert found.feasible == bool(outcomes), budget_ms
        if 0 < len(outcomes) <= 8:
            assert found.reward == max(o.reward for o in outcomes)


def test_estimates_tell_plans_in_time_from_those_that_may_be():
    """`PlainLatency` is linear in work and bytes, so the estimate is exact and the tiers are told by the deadline."""
    workloads = [m.workload for m in TABLE.measurements]
    counts, budget_ms = counts_of(workloads), 60.0
    p95_ms = LATENCY.latency(workloads, [make_conditions(budget_ms)]).p95_ms[:, 0]
    known = landmarks(counts)
    likely, others = plausible(counts, known, p95_ms[known], budget_ms)
    unknown = np.setdiff1d(np.arange(len(workloads)), known)
    assert set(likely) == set(unknown[p95_ms[unknown] <= budget_ms])
    assert set(others) == set(unknown[(p95_ms[unknown] > budget_ms) & (p95_ms[unknown] <= 1.5 * budget_ms)])
    assert len(likely) > 0
    assert len(others) > 0


def test_a_second_tier_is_looked_at_only_where_nothing_is_in_time(policy, monkeypatch):
    """A few plans in time are enough, if those that are by the estimate have all been looked at."""
    conditions = make_conditions(15.0)
    everything = np.arange(len(TABLE.space))
    monkeypatch.setattr("autosplit.agents.policy.plausible",
                        lambda counts, numbers, *rest: (np.array([], int), np.setdiff1d(everything, numbers)))
    assert 0 < sum(o.feasible for o in score(TABLE.measurements, LATENCY, OBJECTIVE, conditions)) < 8
    assert policy.decide(conditions, among=64).considered <= 128 < len(TABLE.space)
    assert policy.decide(make_conditions(0.01), among=64).considered == len(TABLE.space)


def test_decisions_need_a_plan_to_choose_from(policy):
    with pytest.raises(ValueError, match="at least one"):
        policy.decide(make_conditions(), among=0)


def test_plans_in_the_order_of_likelihood_are_what_the_policy_would_draw(policy):
    """Drawn often, the first plans come as often as the product of their decisions' probabilities says."""
    known, conditions = policy.knowledge, make_conditions(80)
    order = by_likelihood(policy.network, known.tree, known.node_observations, condition_features([conditions])[0])
    assert sorted(order) == list(range(len(known.plans)))
    core = CoInferenceCore.build(known.space, known.workloads, LATENCY, [conditions])
    everything = core.restricted(np.ones(len(known.plans), dtype=bool))
    drawn = rollout(policy.network, everything, np.zeros(20_000, dtype=np.int64), temperature=1.0,
                    rng=np.random.default_rng(0))
    often = np.bincount(drawn, minlength=len(known.plans))[order]
    assert often[0] == often.max() or often[0] > 0.9 * often.max()
    assert often[:20].sum() > 3 * often[-20:].sum()
    halves = often[: len(often) // 2].sum(), often[len(often) // 2:].sum()
    assert halves[0] > halves[1]


def test_where_the_deadline_is_short_likely_plans_are_in_time_more_often_than_others(policy):
    known, shares = policy.knowledge, []
    for conditions in AROUND.pool(40, seed=992):
        in_time = LATENCY.latency(known.workloads, [conditions]).p95_ms[:, 0] <= conditions.budget_ms
        order = by_likelihood(policy.network, known.tree, known.node_observations, condition_features([conditions])[0])
        if 0 < in_time.mean() < 0.5:  # where it matters
            shares.append(in_time[order[:16]].mean() / in_time.mean())
    assert np.mean(shares) > 1.3


def test_knowledge_describes_every_plan():
    workloads = tuple(TABLE.workloads(TABLE.space.plans()))
    with pytest.raises(ValueError, match="do not describe"):
        Knowledge(TABLE.space, workloads, np.zeros(3))


def test_what_a_policy_stores_of_a_workload_is_all_of_it():
    work = make_workload("layer1")
    plain = work.model_copy(update={stage: getattr(work, stage).model_copy(update={"by_type": None})
                                    for stage in ("device", "encode", "edge")})
    given = (work, plain, work)
    stored = tensors_of_workloads(given)
    assert len(stored["stages"]) == len({getattr(w, s) for w in given for s in ("device", "encode", "edge")}) < 9
    assert workloads_of_tensors([w.plan for w in given], stored) == given


def test_what_was_trained_is_on_record(policy):
    origin = policy.origin
    assert (origin.table, origin.conditions, origin.seed) == ("made up", 256, 0)
    assert origin.steps >= 100_000
    assert origin.unseen_regret[0] <= origin.unseen_regret[1] < 0.1


def test_equal_seeds_train_equal_policies():
    short = PolicySettings(conditions=16, steps=1000, trials=5, ppo=PPOHyperparameters(episodes=64, hidden=(8,)))
    first, again, other = (train_policy(TABLE, LATENCY, OBJECTIVE, AROUND, short, seed=s).sha256 for s in (4, 4, 5))
    assert first == again != other


def test_profiles_are_drawn_with_their_neighbourhood():
    drawn = ProfilesSampler.named(budget_ms=(20, 200)).pool(200, seed=1)
    assert {c.device.name for c in drawn} == {n for n in list_profiles(DeviceProfile) if not n.startswith("edge-")}
    assert {c.channel.name for c in drawn} == {
        n for n in list_profiles(ChannelProfile) if load_profile(ChannelProfile, n).constant}
    assert all(20 <= c.budget_ms <= 200 for c in drawn)
    rates = [c.channel.uplink_kbps.value for c in drawn if c.channel.name == "ble-1m"]
    assert max(rates) / min(rates) <= 4
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("change", [{"factor": 0.5}, {"budget_ms": (5.0, 1.0)}, {"devices": ()}])
def test_senseless_distributions_are_refused(change):
    sampler = ProfilesSampler.named()
    options = {"devices": sampler.devices, "edges": sampler.edges, "channels": sampler.channels}
    with pytest.raises(ConfigError, match="sampler"):
        ProfilesSampler(**options | change)


def test_accuracies_of_another_space_are_ranked(policy):
    workloads = OTHER.workloads(OTHER.space.plans())
    predicted = predicted_accuracy(policy.knowledge, OTHER.space, workloads)
    true = np.array([m.accuracy for m in OTHER.measurements])
    ranks = [a.argsort().argsort() for a in (predicted, true)]
    assert np.corrcoef(*ranks)[0, 1] > 0.7
    assert predicted_accuracy(policy.knowledge, TABLE.space, policy.knowledge.workloads) is policy.knowledge.accuracy


def test_a_table_that_misleads_leaves_what_is_expected(policy):
    """Accuracies dealt out at random say nothing of other plans."""
    known = policy.knowledge
    dealt = replace(known, accuracy=np.random.default_rng(0).permutation(known.accuracy))
    workloads = OTHER.workloads(OTHER.space.plans())
    ranks = [a.argsort().argsort() for a in (predicted_accuracy(dealt, OTHER.space, workloads),
                                             expected_accuracy(workloads))]
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_a_prior_shifts_and_stretches_to_what_was_measured():
    """A prior that is right up to level and spread of the log-odds makes three measurements enough."""
    true = np.array([m.accuracy for m in OTHER.measurements])
    logits = np.log(true / (1 - true))
    prior = 1 / (1 + np.exp(-(logits * 0.8 + 1)))
    features = problem(OTHER).features
    measured = np.array([0, 40, 90])
    errors = []
    for surrogate in (AccuracySurrogate(features), AccuracySurrogate(features, prior=prior)):
        surrogate.fit(measured, true[measured])
        errors.append(np.abs(surrogate.estimate() - true).mean())
    assert errors[1] < errors[0] / 3


def test_an_agent_with_a_policy_measures_its_best_plans_first(policy):
    agent = ModelEnumerateAgent(problem(TABLE, policy=policy))
    first = agent.propose(10)
    rewards = {o.plan: o.reward for o in score(TABLE.measurements, LATENCY, OBJECTIVE, agent.problem.conditions)
               if o.feasible}
    assert first[:5] == sorted(rewards, key=lambda p: -rewards[p])[:5]
    cold = ModelEnumerateAgent(problem(TABLE))
    assert cold.propose(10) != first


def test_the_agent_policy_measures_the_decision_first(policy):
    agent = PolicyAgent(problem(TABLE, policy=policy))
    conditions = agent.problem.conditions
    outcomes = run_search(agent, TABLE, Scorer(LATENCY, OBJECTIVE, conditions), evaluations=1000)
    assert outcomes[0].plan == policy.decide(conditions).plan
    rewards = [o.reward for o in outcomes[1:]]
    assert rewards == sorted(rewards, reverse=True)  # the table is what the policy was trained on
    elsewhere = PolicyAgent(problem(OTHER, policy=policy))
    assert len(elsewhere.propose(3)) == 3


def test_the_agent_policy_needs_one():
    with pytest.raises(ValueError, match="policy"):
        PolicyAgent(problem(TABLE))
