import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import autosplit.envs
from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ConditionsSampler
from tests.synthetic import PlainLatency, make_conditions, make_scenario, small_table

TABLE = small_table()


def make(**changes):
    arguments = {"scenario": make_scenario(100), "evaluator": TABLE, "latency_model": PlainLatency(),
                 "sampler": ConditionsSampler(make_conditions(100)), "pool_size": 32}
    return gymnasium.make(autosplit.envs.COINFERENCE, **(arguments | changes))


@pytest.mark.parametrize("sampler", [None, ConditionsSampler(make_conditions(100))])
@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_are_silent(check, sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make(sampler=sampler).unwrapped)
        check(make(sampler=sampler, render_mode="ansi").unwrapped)


def test_checkers_are_silent_where_the_pool_changes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(pool_episodes=1).unwrapped)
        check_env_sb3(make(pool_episodes=1).unwrapped)


def test_pools_follow_one_another_and_begin_anew_with_the_seed():
    env = make(pool_episodes=2, pool_size=3).unwrapped
    sampler = env.task.sampler

    def pools():
        first = {"seed": 5}
        found = []
        for _ in range(5):
            env.reset(**first)
            found.append(list(env.core.conditions))
            first = {}
        return found

    once = pools()
    assert once == pools()
    assert once[0] == once[1] == sampler.pool(3, 0)
    assert once[2] == once[3] == sampler.pool(3, [0, 1])
    assert once[4] == sampler.pool(3, [0, 2])


@pytest.mark.parametrize("options", [{"pool_size": 0}, {"pool_episodes": 0}, {"pool_episodes": 1, "sampler": None}])
def test_pools_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match="pool"):
        make(**options)


def test_registered_under_its_module_too():
    env = gymnasium.make(f"autosplit.envs:{autosplit.envs.COINFERENCE}", scenario=make_scenario(), evaluator=TABLE,
                         latency_model=PlainLatency())
    assert env.spec.id == "autosplit/CoInference-v0"
    autosplit.envs.register_envs()


def test_registration_is_light():
    heavy = ("torch", "stable_baselines3", "sklearn", "pandas")
    code = f"import sys, autosplit.envs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_copies_with_one_seed_agree_step_by_step():
    a, b = make(), make()
    rng = np.random.default_rng(0)
    for episode in range(20):
        seed = 7 if episode == 0 else None
        (left, left_info), (right, right_info) = a.reset(seed=seed), b.reset(seed=seed)
        np.testing.assert_array_equal(left, right)
        assert left_info["conditions"] == right_info["conditions"]
        for _ in range(3):
            action = rng.integers(a.action_space.n)
            left, right = a.step(action), b.step(action)
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1:4] == right[1:4]
        assert left[4]["outcome"] == right[4]["outcome"]


def test_last_step_measures_the_plan():
    env = make(sampler=None)
    _, info = env.reset(seed=0)
    total = 0.0
    for step in range(3):
        action = env.action_space.sample(info["action_mask"])
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        assert (terminated, truncated) == (step == 2, False)
    outcome = info["outcome"]
    assert outcome.feasible
    assert total == outcome.reward
    assert outcome.measurement == TABLE.measure([outcome.plan])[0]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_masked_play_is_always_within_the_budget():
    env = make().unwrapped
    rng = np.random.default_rng(1)
    feasible = [(env.core.breakdown.p95_ms[:, i] <= c.budget_ms).any() for i, c in enumerate(env.core.conditions)]
    for i, some_plan_fits in enumerate(feasible):
        env.reset(options={"conditions": i})
        for _ in range(3):
            info = env.step(rng.choice(np.flatnonzero(env.action_masks())))[4]
        assert info["outcome"].feasible == some_plan_fits
        assert info["outcome"].budget_ms == env.core.conditions[i].budget_ms


def test_render_shows_choices_then_the_outcome():
    env = make(sampler=None, render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "? | ? | ?"
    env.step(0)
    assert env.render() == "input | ? | ?"
    env.step(0)
    env.step(1)
    assert "accuracy" in env.render()
    assert "of 100 ms" in env.render()
