"""The adapter to stable-baselines3 against its own `DummyVecEnv` of single environments."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import autosplit.envs
from autosplit.envs.coinference import CoInferenceEnv
from autosplit.envs.sb3 import StableBaselinesVecEnv
from tests.envs.test_vector import ARGUMENTS, random_actions


def make(count, **changes):
    return StableBaselinesVecEnv(gymnasium.make_vec(autosplit.envs.COINFERENCE, num_envs=count, **ARGUMENTS, **changes))


@pytest.mark.parametrize("changes", [{}, {"pool_episodes": 2}])
def test_equals_single_environments_step_for_step(changes):
    count = 5
    adapter = make(count, **changes)
    singles = DummyVecEnv([lambda: CoInferenceEnv(**ARGUMENTS, **changes)] * count)
    assert adapter.observation_space == singles.observation_space
    assert adapter.action_space == singles.action_space
    adapter.seed(11)
    singles.seed(11)
    np.testing.assert_array_equal(adapter.reset(), singles.reset())
    np.testing.assert_equal(adapter.reset_infos, singles.reset_infos)
    rng = np.random.default_rng(2)
    for _ in range(90):
        masks = get_action_masks(adapter)
        np.testing.assert_array_equal(masks, get_action_masks(singles))
        actions = random_actions(rng, masks)
        left, right = adapter.step(actions), singles.step(actions)
        for a, b in zip(left[:3], right[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for info, expected in zip(left[3], right[3], strict=True):
            if "terminal_observation" in expected:
                expected.pop("outcome")
                np.testing.assert_equal(info, expected)
                assert isinstance(info["plan"], int)
            else:
                assert info == {}


def test_infos_may_be_written_to():
    adapter = make(3)
    adapter.reset()
    infos = adapter.step(np.zeros(3, int))[3]
    infos[0]["mine"] = 1
    assert infos[1] == {}
    assert adapter.step(np.zeros(3, int))[3] == [{}] * 3


def test_options_reach_the_environment():
    adapter = make(3)
    adapter.set_options({"conditions": 5})
    adapter.reset()
    assert [i["conditions"] for i in adapter.reset_infos] == [adapter.env.core.conditions[5]] * 3
    adapter.reset()
    assert len({i["conditions"] for i in adapter.reset_infos}) > 1
    adapter.set_options([{"conditions": i} for i in range(3)])
    with pytest.raises(ValueError, match="same options"):
        adapter.reset()


def test_attributes_and_methods_of_copies():
    adapter = make(4)
    assert is_masking_supported(adapter)
    assert adapter.has_attr("action_masks")
    assert not adapter.has_attr("nothing")
    assert adapter.get_attr("first_share", [1, 2]) == [0.0, 0.0]
    assert adapter.render_mode is None
    assert adapter.env_is_wrapped(gymnasium.Wrapper) == [False] * 4
    adapter.reset()
    np.testing.assert_array_equal(adapter.env_method("action_masks", indices=[3, 1]),
                                  adapter.env.action_masks()[[3, 1]])
    with pytest.raises(AttributeError, match="no method"):
        adapter.env_method("reset")
    with pytest.raises(NotImplementedError):
        adapter.set_attr("x", 1)
    adapter.close()
    assert adapter.env.closed


def test_other_ways_of_resetting_are_refused():
    with pytest.raises(ValueError, match="same step"):
        StableBaselinesVecEnv(SyncVectorEnv([lambda: CoInferenceEnv(**ARGUMENTS)]))


def test_maskable_ppo_trains_through_sb3s_own_wrappers():
    venv = VecNormalize(VecMonitor(make(8)), norm_obs=False)
    ppo = MaskablePPO("MlpPolicy", venv, n_steps=3, batch_size=24, n_epochs=1, seed=0, device="cpu")
    ppo.learn(3 * 8 * 4)
    assert len(ppo.ep_info_buffer) == 8 * 4
    assert {episode["l"] for episode in ppo.ep_info_buffer} == {3}
