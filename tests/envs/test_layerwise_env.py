"""`autosplit/CoInferenceLayerwise-v0`: the checkers, equal copies, conditions, the vectorised form."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import autosplit.envs
from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.layerwise_vector import VectorLayerwise
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import score
from tests.layers import LayerTable
from tests.synthetic import PlainLatency, make_conditions, make_scenario, small_table

TABLE = LayerTable()


def make(**changes):
    arguments = {"scenario": make_scenario(3), "evaluator": TABLE, "latency_model": PlainLatency(),
                 "sampler": ConditionsSampler(make_conditions(3)), "pool_size": 8}
    return gymnasium.make(autosplit.envs.LAYERWISE, **(arguments | changes))


@pytest.mark.parametrize("changes", [{}, {"sampler": None}, {"round_to": 4, "render_mode": "ansi"}])
@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_are_silent(check, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make(**changes).unwrapped)


def test_registered_under_its_module_too():
    env = gymnasium.make(f"autosplit.envs:{autosplit.envs.LAYERWISE}", scenario=make_scenario(), evaluator=TABLE,
                         latency_model=PlainLatency())
    assert env.spec.id == "autosplit/CoInferenceLayerwise-v0"
    autosplit.envs.register_envs()


def test_two_copies_with_one_seed_agree_step_by_step():
    a, b = make(), make()
    rng = np.random.default_rng(0)
    for episode in range(8):
        seed = 7 if episode == 0 else None
        (left, left_info), (right, right_info) = a.reset(seed=seed), b.reset(seed=seed)
        np.testing.assert_array_equal(left, right)
        assert left_info["conditions"] == right_info["conditions"]
        done = False
        while not done:
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            left, right = a.step(action), b.step(action)
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1:4] == right[1:4]
            done = left[2]
        assert left[4]["outcome"] == right[4]["outcome"]


def play(env, action, **options):
    """An episode of one action; gives all steps."""
    env.reset(**options)
    steps = [env.step(np.array([action], dtype=np.float32))]
    while not steps[-1][2]:
        steps.append(env.step(np.array([action], dtype=np.float32)))
    return steps


def test_one_decision_a_group_and_the_plan_is_measured_at_the_end():
    env = make(sampler=None)
    steps = play(env, 1.0, seed=0)
    assert len(steps) == 2 + 3  # the whole network has three groups
    assert [s[1] for s in steps[:-1]] == [0.0] * 4
    assert not any(s[3] for s in steps)
    outcome = steps[-1][4]["outcome"]
    assert outcome == score(TABLE.measure([outcome.plan]), PlainLatency(), load_objective("in-time-accuracy"),
                            make_conditions(3))[0]
    assert steps[-1][1] == outcome.reward
    assert outcome.plan.sparsity == 0.75
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))


def test_bounded_actions_are_told_and_the_plan_is_in_time():
    env = make(sampler=None, scenario=make_scenario(2))
    env.reset()
    taken = [env.step(np.array([a], dtype=np.float32))[4]["action"] for a in (1, -1, -1, -1)]
    assert all(t.shape == (1,) and t.dtype == np.float32 for t in taken)
    assert max(float(t[0]) for t in taken[1:]) > -1  # it asked for nothing to be removed
    outcome = env.step(np.zeros(1, dtype=np.float32))[4]["outcome"]
    assert outcome.feasible


def test_conditions_can_be_named_and_change_what_is_allowed():
    env = make(pool_size=32).unwrapped
    budgets = []
    for i, conditions in enumerate(env.conditions):
        outcome = play(env, -1.0, options={"conditions": i})[-1][4]["outcome"]
        assert outcome.budget_ms == conditions.budget_ms
        assert outcome.feasible == (outcome.latency.p95_ms <= conditions.budget_ms)
        budgets.append(outcome.feasible)
    drawn = {id(env.reset(seed=s)[1]["conditions"]) for s in range(30)}
    assert len(drawn) > 5
    assert any(budgets)


def test_evaluators_of_whole_heads_are_refused():
    with pytest.raises(ConfigError, match="layer by layer"):
        make(evaluator=small_table())


def test_render_shows_choices_then_the_outcome():
    env = make(sampler=None, render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "? | ? | ?"
    for action in (1.0, 1.0):
        env.step(np.array([action], dtype=np.float32))
    assert env.render() == "output | 2/8 ? ? | ?"
    for _ in range(3):
        env.step(np.array([1.0], dtype=np.float32))
    assert "accuracy" in env.render()
    assert "of 3 ms" in env.render()
    assert make(sampler=None).unwrapped.render() is None


def test_vector_equals_single_step_for_step():
    envs = [make(sampler=None).unwrapped for _ in range(5)]
    core, objective = envs[0].core, load_objective("in-time-accuracy")

    def reward(choices):
        measured = TABLE.measure([core.space.plan(c) for c in choices])
        return np.array([o.reward for o in score(measured, PlainLatency(), objective, core.conditions)])

    vector, rng = VectorLayerwise(core, reward, 5), np.random.default_rng(2)
    assert vector.action_space.shape == (5, 1)
    observed, infos = vector.reset(seed=1)
    np.testing.assert_array_equal(observed, np.stack([env.reset()[0] for env in envs]))
    assert observed in vector.observation_space
    assert infos == {}
    ends = 0
    for _ in range(25):
        actions = rng.uniform(-1, 1, (5, 1)).astype(np.float32)
        observed, rewards, terminated, truncated, infos = vector.step(actions)
        assert not truncated.any()
        assert ("final_obs" in infos) == terminated.any()
        for i, env in enumerate(envs):
            o, r, over, _, info = env.step(actions[i])
            assert rewards[i] == r
            assert terminated[i] == over
            if over:
                ends += 1
                assert infos["_final_obs"][i]
                np.testing.assert_array_equal(infos["final_obs"][i], o)
                assert core.space.plan(infos["final_info"]["choice"][i]) == info["outcome"].plan
                o = env.reset()[0]
            np.testing.assert_array_equal(observed[i], o)
    assert ends > 20


def nothing(choices):
    return np.zeros(len(choices))


def test_vector_for_stable_baselines3():
    env = make(sampler=None).unwrapped
    adapter = StableBaselinesVecEnv(VectorLayerwise(env.core, nothing, 3))
    first = adapter.reset()
    dones = np.zeros(3, dtype=bool)
    while not dones.any():
        observed, rewards, dones, infos = adapter.step(np.ones((3, 1), dtype=np.float32))
    assert rewards.dtype == np.float32
    assert env.space.plan(infos[0]["choice"]).split == "output"
    assert infos[0]["terminal_observation"].shape == first[0].shape
    np.testing.assert_array_equal(observed, first)


def test_vector_refuses_what_does_not_fit():
    core = make(sampler=None).unwrapped.core
    vector = VectorLayerwise(core, nothing, 3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros((3, 1), dtype=np.float32))
    with pytest.raises(ValueError, match="at least one copy"):
        VectorLayerwise(core, nothing, 0)
    fewer = make(sampler=None, evaluator=LayerTable(ends=False)).unwrapped.core
    with pytest.raises(ValueError, match="observations have size"):
        vector.use(fewer, nothing)


def test_gymnasium_makes_many_at_once():
    envs = gymnasium.make_vec(autosplit.envs.LAYERWISE, num_envs=2, scenario=make_scenario(3), evaluator=TABLE,
                              latency_model=PlainLatency())
    observed, _ = envs.reset(seed=0)
    assert observed.shape == (2, *envs.single_observation_space.shape)
