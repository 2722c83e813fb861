"""A controller that is trained: against the exact optimum of a tiny stream, and the same in numpy as in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from autosplit.agents.control.learned import ControlPPO, train_controller
from autosplit.agents.control.play import play
from autosplit.agents.control.policy import ScoringPolicy
from autosplit.core.errors import ConfigError
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.vector import VectorStream
from autosplit.runtime.standalone.control.network import NetworkController
from autosplit.runtime.standalone.control.rules import Fixed, Myopic
from benchmarks.exact_stream import optimum, tiny_stream
from tests.envs.stream.streams import stream

CHANCE = 0.1


@pytest.fixture(scope="module")
def trained():
    settings = ControlPPO(devices=64, decisions=32, minibatch=512, steps=80_000, learning_rate=2e-3)
    counted = []
    found = train_controller([tiny_stream(CHANCE)], settings, 0, advance=counted.append)
    assert sum(counted) >= settings.steps
    return found


def test_it_comes_near_the_optimum_where_the_rule_it_begins_with_does_not(trained):
    core, which = StreamCore([tiny_stream(CHANCE)], draws=32, seed=5), np.zeros(64, dtype=np.int64)
    best = optimum(CHANCE)
    reached = play(core, trained, which, 1).accuracy
    error = reached.std(ddof=1) / 8
    assert reached.mean() > 0.97 * best
    assert reached.mean() < best + 4 * error
    assert play(core, Myopic(), which, 1).accuracy.mean() < 0.95 * best


def test_numpy_scores_as_torch_does():
    env = VectorStream([stream(), stream(50.0, charge_mj=20.0)], 8)
    policy = PPO(ScoringPolicy, StableBaselinesVecEnv(env), device="cpu", n_steps=8, batch_size=8).policy
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    observations, _ = env.reset(seed=0)
    weights = {name: np.asarray(tensor) for name, tensor in policy.mlp_extractor.state_dict().items()}
    with torch.no_grad():
        logits = policy.mlp_extractor.forward_actor(torch.as_tensor(observations)).numpy()
    assert NetworkController(weights).scores(observations) == pytest.approx(logits, abs=1e-4)
    view = env.core.view(env._state)
    assert NetworkController(weights).decide(view).tolist() == logits.argmax(axis=1).tolist()


def test_it_begins_as_the_myopic_rule():
    env = VectorStream([stream(20.0)], 64)
    policy = PPO(ScoringPolicy, StableBaselinesVecEnv(env), device="cpu", n_steps=8, batch_size=8).policy
    weights = {name: np.asarray(tensor) for name, tensor in policy.mlp_extractor.state_dict().items()}
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.full(64, 2))
    view = env.core.view(env._state)
    same = NetworkController(weights).decide(view) == Myopic().decide(view)
    assert same.mean() > 0.8  # near the deadline it is less sure


def test_devices_that_share_a_link_learn_to_leave_room():
    """The rule sends what is most accurate, which four devices at once cannot; sending less is as good for all."""
    core, which = FleetCore([Fleet("four", (stream(14.0, pictures=50),) * 4)], 16, 9), np.zeros(32, dtype=np.int64)
    found = train_controller(core.streams, ControlPPO(steps=60_000, hidden=32), 0)
    assert play(core, Myopic(), which, 0).accuracy.mean() < 0.65
    less = play(core, Fixed(1), which, 0).accuracy.mean()
    assert less > 0.85
    assert play(core, found, which, 0).accuracy.mean() > less - 0.01


def test_a_controller_is_a_file(trained, tmp_path):
    trained.save(tmp_path / "controller.npz")
    again = NetworkController.load(tmp_path / "controller.npz")
    core = StreamCore([tiny_stream(CHANCE)], draws=2)
    view = core.view(core.begin(np.zeros(8, dtype=np.int64), np.random.default_rng(0)))
    assert again.decide(view).tolist() == trained.decide(view).tolist()
    with pytest.raises(ConfigError, match="nowhere"):
        NetworkController.load(tmp_path / "nowhere")
    (tmp_path / "torn").write_bytes((tmp_path / "controller.npz").read_bytes()[:100])
    with pytest.raises(ConfigError, match="torn"):
        NetworkController.load(tmp_path / "torn")
    for wrong in ({"level.0.bias": trained.weights["level.0.bias"]}, {
            **trained.weights, "skip.4.weight": np.full_like(trained.weights["skip.4.weight"], np.nan)}):
        NetworkController(wrong).save(tmp_path / "other")
        with pytest.raises(ConfigError, match=r"other: no network of a controller \(.*name a file that"):
            NetworkController.load(tmp_path / "other")


def test_equal_seeds_give_equal_controllers():
    settings = ControlPPO(devices=8, decisions=16, minibatch=64, steps=128)
    one, again = (train_controller([stream(50.0)], settings, 3) for _ in range(2))
    assert one.weights.keys() == again.weights.keys()
    assert all(np.array_equal(one.weights[name], again.weights[name]) for name in one.weights)
