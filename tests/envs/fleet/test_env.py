"""A fleet as PettingZoo has it."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest

from autosplit.envs.fleet.fleet import Fleet
from tests.envs.stream.streams import stream

pettingzoo = pytest.importorskip("pettingzoo", reason="an extra: pip install '.[fleet]'")


@pytest.fixture
def env():
    from autosplit.envs.fleet.env import FleetEnv

    fleets = [Fleet(name, (stream(per_s, pictures=10),) * 3) for name, per_s in (("slow", 20.0), ("quick", 60.0))]
    return FleetEnv(fleets, render_mode="ansi")


def test_the_checker_of_pettingzoo_is_silent(env):
    from pettingzoo.test import parallel_api_test

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(env, num_cycles=200)


def test_an_episode_counts_every_picture_once(env):
    _, infos = env.reset(seed=0, options={"fleet": 1})
    rng, total, turns = np.random.default_rng(0), 0.0, set()
    assert {told["fleet"] for told in infos.values()} == {1}
    while env.agents:
        (acts,) = [agent for agent, told in infos.items() if told["turn"]]
        assert infos[acts]["action_mask"].tolist() == [1, 1, 1, 1]
        assert all(told["action_mask"].tolist() == [0, 0, 0, 1] for agent, told in infos.items() if agent != acts)
        turns.add(acts)
        assert "decides about picture" in env.render()
        actions = dict.fromkeys(env.agents, 3) | {acts: int(rng.integers(3))}
        _, rewards, _, _, infos = env.step(actions)
        assert len(set(rewards.values())) == 1
        total += rewards[acts]
    assert turns == {"device_0", "device_1", "device_2"}
    assert -30 <= total < -1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step({})


def test_equal_seeds_are_equal_episodes(env):
    seen = []
    for _ in range(2):
        env.reset(seed=5)
        steps = [env.step(dict.fromkeys(env.agents, 1)) for _ in range(8)]
        seen.append([np.append(step[0]["device_1"], step[1]["device_0"]) for step in steps])
    assert np.array_equal(*seen)


def test_wrong_actions_and_fleets_are_refused(env):
    with pytest.raises(IndexError, match="fleet"):
        env.reset(options={"fleet": 2})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 4 is not one of 0 to 3"):
        env.step(dict.fromkeys(env.agents, 4))


def test_the_examples_run():
    from autosplit.envs.fleet.env import FleetEnv

    env = FleetEnv()
    env.reset(seed=0)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
