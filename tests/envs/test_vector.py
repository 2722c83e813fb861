"""The vectorised environment against copies of the single one."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import autosplit.envs
from autosplit.core.errors import ConfigError
from autosplit.envs.coinference import CoInferenceEnv
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.generators import UniformGenerators, pick_conditions
from autosplit.envs.measuring import MeasuringVectorCoInference
from autosplit.envs.vector import VectorCoInference
from autosplit.evaluation.objective import load_objective
from tests.synthetic import PlainLatency, make_conditions, make_scenario, small_table

TABLE = small_table()
SAMPLER = ConditionsSampler(make_conditions(100))
ARGUMENTS = {"scenario": make_scenario(100), "evaluator": TABLE, "latency_model": PlainLatency(), "sampler": SAMPLER,
             "pool_size": 32}
POOLS = [{"sampler": None}, {}, {"pool_episodes": 3, "pool_size": 4}, {"pool_episodes": 1, "pool_size": 1}]


class Heavier:
    """Payloads are measured larger than they were predicted; counts what is measured."""

    space, workloads = TABLE.space, staticmethod(TABLE.workloads)

    def __init__(self):
        self.calls = []

    def measure(self, plans):
        self.calls.append(plans)
        return [m.model_copy(update={"workload": m.workload.model_copy(
            update={"payload_bytes_mean": 1.5 * m.workload.payload_bytes_mean})}) for m in TABLE.measure(plans)]


def make_vec(count, **changes):
    return gymnasium.make_vec(autosplit.envs.COINFERENCE, num_envs=count, **(ARGUMENTS | changes))


def over_array(count, **options):
    core = CoInferenceEnv(**ARGUMENTS).core
    accuracy = np.array([m.accuracy for m in TABLE.measurements])
    return VectorCoInference(core, core.rewards(load_objective("in-time-accuracy"), accuracy), count, **options)


class Copies:
    """Single environments, stepped one by one."""

    def __init__(self, count, **changes):
        self.envs = [CoInferenceEnv(**(ARGUMENTS | changes)) for _ in range(count)]

    def reset(self, which, **options):
        return {i: self.envs[i].reset(**{k: v[i] if isinstance(v, list) else v for k, v in options.items()})
                for i in which}

    def assert_step(self, vector, actions):
        """One step of both; observations, rewards, ends and infos are equal."""
        observed, rewards, terminated, truncated, infos = vector.step(actions)
        assert not truncated.any()
        assert infos["_action_mask"].all()
        for i, env in enumerate(self.envs):
            last, reward, over, _, info = env.step(actions[i])
            assert rewards[i] == reward
            assert terminated[i] == over
            assert over == infos.get("_final_obs", terminated)[i] == infos.get("_conditions", terminated)[i]
            if over:
                np.testing.assert_array_equal(infos["final_obs"][i], last)
                assert infos["final_info"]["plan"][i] == info["plan"]
                assert infos["final_info"]["_plan"][i]
                assert vector.core.plans[info["plan"]] == info["outcome"].plan
                last, info = env.reset()
                assert infos["conditions"][i] == info["conditions"]
            np.testing.assert_array_equal(observed[i], last)
            np.testing.assert_array_equal(infos["action_mask"][i], info["action_mask"])


def assert_begun(observations, infos, singles):
    """What `reset` returned, for the copies that began."""
    assert np.flatnonzero(infos["_conditions"]).tolist() == list(singles)
    for i, (observation, info) in singles.items():
        np.testing.assert_array_equal(observations[i], observation)
        np.testing.assert_array_equal(infos["action_mask"][i], info["action_mask"])
        assert infos["conditions"][i] == info["conditions"]


def random_actions(rng, masks):
    """Half of them anything, half of them allowed."""
    anything = rng.integers(masks.shape[1], size=len(masks))
    allowed = np.where(masks, rng.random(masks.shape), -1).argmax(axis=1)
    return np.where(rng.random(len(masks)) < 0.5, anything, allowed)


@pytest.mark.parametrize("pools", POOLS)
def test_equals_single_environments_step_for_step(pools):
    """2,000 steps with illegal actions; copies out of step with each other from the first partial reset on."""
    count = 5
    vector, copies, rng = make_vec(count, **pools), Copies(count, **pools), np.random.default_rng(3)
    assert_begun(*vector.reset(seed=11), copies.reset(range(count), seed=[11 + i for i in range(count)]))
    for step in range(400):
        np.testing.assert_array_equal(vector.action_masks(), [env.action_masks() for env in copies.envs])
        copies.assert_step(vector, random_actions(rng, vector.action_masks()))
        if step % 50 == 49:
            mask = rng.random(count) < 0.4
            mask[rng.integers(count)] = True
            seeds = rng.integers(100, size=count).tolist() if step % 100 == 99 else None
            assert_begun(*vector.reset(seed=seeds, options={"reset_mask": mask}),
                         copies.reset(np.flatnonzero(mask).tolist(), **({"seed": seeds} if seeds else {})))


def test_equals_gymnasiums_own_vectorisation():
    """Infos included, but for the outcome, which has its number here."""
    vector = make_vec(5)
    synchronous = SyncVectorEnv([lambda: CoInferenceEnv(**ARGUMENTS)] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    assert vector.metadata["autoreset_mode"] == synchronous.metadata["autoreset_mode"]
    assert vector.observation_space == synchronous.observation_space
    assert vector.action_space == synchronous.action_space
    left, right = vector.reset(seed=4), synchronous.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(12):
        for a, b in zip(left[:-1], right[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert left[0] in vector.observation_space
        for infos in (left[-1], right[-1]):
            infos.get("final_info", {}).pop("outcome", None)
            infos.get("final_info", {}).pop("_outcome", None)
        np.testing.assert_equal(as_lists(left[-1]), as_lists(right[-1]))
        actions = rng.integers(vector.single_action_space.n, size=5)
        left, right = vector.step(actions), synchronous.step(actions)


def as_lists(infos):
    return {k: as_lists(v) if isinstance(v, dict) else [None if x is None else x for x in v] for k, v in infos.items()}


def test_array_of_rewards_equals_evaluator():
    array, measuring = over_array(40), make_vec(40)
    np.testing.assert_array_equal(array.reset(seed=1)[0], measuring.reset(seed=1)[0])
    rng = np.random.default_rng(1)
    for _ in range(30):
        actions = random_actions(rng, array.action_masks())
        for a, b in zip(array.step(actions)[:4], measuring.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_equal_seeds_equal_episodes_other_seeds_others():
    def play(seed):
        vector, rng = make_vec(6), np.random.default_rng(0)
        seen = [vector.reset(seed=seed)[0]]
        for _ in range(30):
            observed, rewards, *_ = vector.step(random_actions(rng, vector.action_masks()))
            seen += [observed, rewards[:, None]]
        return np.concatenate(seen, axis=1)

    np.testing.assert_array_equal(play(3), play(3))
    assert not np.array_equal(play(3), play(4))
    assert not np.array_equal(play(None), play(None))


def test_a_plan_is_measured_once_and_together_with_others():
    evaluator, count = Heavier(), 16
    vector, copies = make_vec(count, evaluator=evaluator), Copies(count, evaluator=Heavier())
    vector.reset(seed=0)
    copies.reset(range(count), seed=list(range(count)))
    rng = np.random.default_rng(5)
    for _ in range(60):
        copies.assert_step(vector, random_actions(rng, vector.action_masks()))
    measured = [plan for call in evaluator.calls for plan in call]
    assert len(measured) == len(set(measured)) > 10
    assert len(evaluator.calls) < len(measured)


def test_renewed_pools_measure_nothing_again():
    evaluator = Heavier()
    vector, rng = make_vec(8, evaluator=evaluator, pool_episodes=2, pool_size=3), np.random.default_rng(0)
    vector.reset(seed=0)
    for _ in range(120):
        vector.step(random_actions(rng, vector.action_masks()))
    measured = [plan for call in evaluator.calls for plan in call]
    assert len(measured) == len(set(measured))
    assert set(vector.core.conditions) == set(SAMPLER.pool(3, [0, 20]))


def test_conditions_may_be_chosen():
    vector = make_vec(3)
    _, infos = vector.reset(seed=0, options={"conditions": [4, 0, -1]})
    pool = vector.core.conditions
    assert infos["conditions"].tolist() == [pool[4], pool[0], pool[-1]]
    _, infos = vector.reset(options={"conditions": 7})
    assert infos["conditions"].tolist() == [pool[7]] * 3
    with pytest.raises(IndexError):
        vector.reset(options={"conditions": 32})


def test_made_and_wrapped_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vector = gymnasium.make_vec(f"autosplit.envs:{autosplit.envs.COINFERENCE}", num_envs=4, **ARGUMENTS)
        assert isinstance(vector, MeasuringVectorCoInference)
        assert vector.spec.id == autosplit.envs.COINFERENCE
        wrapped = DictInfoToList(RecordEpisodeStatistics(vector))
        wrapped.reset(seed=0)
        returned = sum(wrapped.step(vector.action_space.sample())[1] for _ in range(3))
        vector.close()
    assert wrapped.env.return_queue
    np.testing.assert_allclose(wrapped.env.return_queue, returned)


def test_what_is_returned_may_be_kept_and_changed():
    one, other = over_array(5), over_array(5)
    kept, rng = [one.reset(seed=2)[0]], np.random.default_rng(0)
    other.reset(seed=2)
    for _ in range(9):
        actions = random_actions(rng, other.action_masks())
        observed, *_, infos = one.step(actions)
        np.testing.assert_array_equal(observed, other.step(actions)[0])
        kept.append(observed)
        for array in (*kept, infos["action_mask"], infos["_action_mask"], infos.get("final_obs", observed)):
            array[...] = 0


def test_share_of_the_first_conditions():
    vector = over_array(1000, first_share=0.5)
    first = np.all(vector.reset(seed=0)[0] == vector.core.observe(np.zeros(1, int), np.zeros(1, int)), axis=1).mean()
    assert 0.47 < first < 0.56
    vector.first_share = 1.0
    assert len(np.unique(vector.reset()[0], axis=0)) == 1


def test_other_conditions_and_rewards_may_be_used():
    vector = over_array(3)
    vector.reset(seed=0)
    core = CoInferenceEnv(**(ARGUMENTS | {"sampler": None})).core
    vector.use(core, np.ones(core.allowed.shape))
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros(3, int))
    assert set(vector.reset()[1]["conditions"]) == set(core.conditions)
    assert sum(vector.step(np.zeros(3, int))[1].sum() for _ in range(3)) == 3
    with pytest.raises(ValueError, match="rewards have shape"):
        vector.use(core, np.zeros((1, 1)))
    other = MeasuringVectorCoInference(1, **(ARGUMENTS | {"evaluator": another_space()})).core
    with pytest.raises(ValueError, match="as before"):
        vector.use(other, np.zeros(other.allowed.shape))


def another_space():
    from tests.synthetic import make_table

    return make_table(splits=("layer1",), widths=(4,), ends=False)


def test_misuse_is_refused():
    vector = over_array(3)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        vector.step(np.zeros(3, int))
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([True, False, False])})
    vector.reset()
    for mask in (np.zeros(3, bool), np.ones(2, bool), np.ones(3)):
        with pytest.raises(ValueError, match="reset_mask"):
            vector.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="2 seeds do not fit 3 copies"):
        vector.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="at least one copy"):
        over_array(0)
    with pytest.raises(ConfigError, match="pool_episodes"):
        make_vec(2, pool_episodes=0)


def test_a_stream_is_that_of_its_generator():
    generators, numbers = UniformGenerators(3), np.arange(3)
    assert generators.seed(slice(None), [7, None, 9]).tolist() == [0, 2]
    expected = {i: seeding.np_random(seed)[0].random(200) for i, seed in ((0, 7), (2, 9))}
    together = np.array([generators.draw(slice(None)) for _ in range(100)])
    alone = np.array([generators.draw(numbers[2:]) for _ in range(50)])
    np.testing.assert_array_equal(together[:, 0], expected[0][:100])
    np.testing.assert_array_equal(np.r_[together[:, 2], alone[:, 0]], expected[2][:150])
    np.testing.assert_array_equal(generators.draw(numbers[:1]), expected[0][100:101])
    assert len(np.unique(together)) == 300


def test_picks_are_uniform_and_within_the_pool():
    drawn = np.linspace(0, 1, 10_000, endpoint=False)
    assert np.bincount(pick_conditions(drawn, 4)).tolist() == [2500] * 4
    assert np.bincount(pick_conditions(drawn, 4, 0.5)).tolist() == [6250, 1250, 1250, 1250]
    assert pick_conditions(np.array([np.nextafter(1, 0)]), 3, 0.9) == 2
