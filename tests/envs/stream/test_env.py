"""`autosplit/Stream-v0`, one and many: what checkers say, and that both are the same."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_sb3

import autosplit.envs
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.stream.env import StreamEnv
from autosplit.envs.stream.vector import VectorStream
from tests.envs.stream.streams import stream


def test_both_checkers_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(autosplit.envs.STREAM)
        check_env(env.unwrapped, skip_render_check=True)
        check_for_sb3(env.unwrapped)


def test_one_copy_is_the_single_environment():
    streams = [stream(20.0), stream(60.0, charge_mj=20.0)]
    single, many = StreamEnv(streams), VectorStream(streams, 1)
    rng = np.random.default_rng(0)
    one, info = single.reset(seed=5)
    all_of_one, infos = many.reset(seed=5)
    assert infos["stream"][0] == info["stream"]
    for _ in range(40):
        assert np.array_equal(one, all_of_one[0])
        action = int(rng.integers(single.core.actions))
        one, reward, over, truncated, _ = single.step(action)
        all_of_one, rewards, overs, truncations, infos = many.step(np.array([action]))
        assert (reward, over, truncated) == (rewards[0], overs[0], truncations[0])
        if over:
            assert np.array_equal(infos["final_obs"][0], one)
            return
    raise AssertionError("no episode ended")


def test_copies_begin_anew_and_say_how_it_went():
    many = gymnasium.make_vec(autosplit.envs.STREAM, num_envs=3, streams=[stream(50.0), stream(5.0, pictures=20)])
    many.reset(seed=0, options={"stream": [0, 1, 1]})
    answered, ended = np.zeros(3), np.zeros(3, dtype=bool)
    while not ended.all():
        observation, reward, over, _, infos = many.step(np.ones(3, dtype=np.int64))
        answered += np.where(ended, 0.0, reward)
        if over.any():
            final = infos["final_info"]
            for i in np.flatnonzero(over & ~ended):
                assert final["answered"][i] == pytest.approx(answered[i] + final["pictures"][i])
                assert final["pictures"][i] == (60 if i == 0 else 20)
                assert final["energy_mj"][i] > 0
                assert not np.array_equal(observation[i], infos["final_obs"][i])
            ended |= over


def test_a_battery_is_felt_at_once_where_energy_is_priced():
    streams = [stream(2.0, charge_mj=60.0)]
    plain, priced = VectorStream(streams, 1), VectorStream(streams, 1, priced=True)
    plain.reset(seed=0)
    priced.reset(seed=0)
    price = priced.core.price(priced._state)[0]
    assert price > 0
    difference = plain.step(np.array([2]))[1] - priced.step(np.array([2]))[1]
    assert difference[0] == pytest.approx(price * priced._state.spent_mj[0])


def test_stable_baselines_takes_it():
    adapter = StableBaselinesVecEnv(VectorStream([stream(50.0, pictures=5)], 4))
    adapter.reset()
    for _ in range(12):
        observations, rewards, dones, infos = adapter.step(np.array([0, 1, 2, 3]))
        for done, info in zip(dones, infos, strict=True):
            assert done == ("terminal_observation" in info)
    assert observations.shape == (4, adapter.observation_space.shape[0])
    assert rewards.dtype == np.float32


@pytest.mark.parametrize("env", [StreamEnv([stream()]), VectorStream([stream()], 2)])
def test_errors(env):
    with pytest.raises(ResetNeeded):
        env.step(0 if isinstance(env, StreamEnv) else np.zeros(2, dtype=np.int64))
    with pytest.raises(IndexError, match="not one of 1"):
        env.reset(options={"stream": 7})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(9 if isinstance(env, StreamEnv) else np.array([9, 0]))


def test_it_can_be_looked_at():
    env = StreamEnv([stream()], render_mode="ansi")
    env.reset(seed=0)
    env.step(0)
    shown = env.render()
    assert "picture 1" in shown
    assert "100% of its mean, 2 mJ" in shown
    assert StreamEnv([stream()]).render() is None
