"""Layer-wise plans as numbers, their bounding against enumeration, and latency in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.core.errors import ConfigError
from autosplit.core.plan import CodecSetting, Plan
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.episodes import LayerwiseCore
from autosplit.envs.layers import LAYER_FEATURES, AffineLatency, Choice, LayerwiseSpace, PredictedLatency
from autosplit.latency import load_latency_model
from autosplit.latency.base import LatencyBreakdown
from tests.layers import LayerTable
from tests.synthetic import PlainLatency, make_conditions

TABLE = LayerTable()
SPACE = LayerwiseSpace.of(TABLE)
ANALYTIC = load_latency_model("analytic")


class Steps:
    """A black box whose latency is neither a sum nor growing: blocks of four channels, odd blocks are slow."""

    def latency(self, workloads, conditions):
        plain = PlainLatency().latency(workloads, conditions)
        slow = 1 + 0.2 * (np.array([w.device.weight_elements // 97 for w in workloads]) % 2)[:, None]
        return LatencyBreakdown(**{**vars(plain), "p95_ms": plain.p95_ms * slow})


def random_plays(core, count, seed=0):
    rng = np.random.default_rng(seed)
    return core.choices(core.play(rng.random(count), rng.random((count, core.space.groups)), rng.random(count)))


# --- choices ----------------------------------------------------------------------------------------------------------


def test_plans_and_choices_are_each_other():
    for plan in TABLE.everything():
        choice = SPACE.locate(plan)
        found = SPACE.plan(choice)
        assert SPACE.locate(found) == choice
        assert TABLE.keep(found) == list(choice.keep)
        assert (found.split, found.codec) == (plan.split, plan.codec)
    assert len({SPACE.locate(p) for p in TABLE.everything()}) == len(TABLE.everything())


def test_uniform_plans_are_a_part_of_it_and_keep_their_form():
    for plan in TABLE.space.plans():
        assert SPACE.plan(SPACE.locate(plan)) == plan
    same = Plan(split="output", sparsity=(0.5, 0.5, 0.5), codec=CodecSetting(kind="none"))
    assert SPACE.plan(SPACE.locate(same)).sparsity == 0.5
    assert SPACE.uniform(SPACE.locate(same).split, 0.5) == (4, 4, 4)
    assert "29% pruned by layer" in SPACE.plan(Choice(2, (2, 8, 7), 0)).label


@pytest.mark.parametrize("change", [{"split": "elsewhere"}, {"sparsity": (0.5,)}])
def test_strangers_are_refused(change):
    plan = TABLE.space.plans()[-1].model_copy(update=change)
    with pytest.raises(ValueError, match="not in the search space"):
        SPACE.locate(plan)


def test_a_part_of_the_space():
    part = LayerwiseSpace.of(TABLE, splits=["middle"], codecs=TABLE.space.codecs["middle"][1:2])
    assert [s.name for s in part.splits] == ["middle"]
    assert len(part.splits[0].codecs) == 1
    with pytest.raises(ConfigError, match="no such split points"):
        LayerwiseSpace.of(TABLE, splits=["nowhere"])
    with pytest.raises(ConfigError, match="multiple"):
        LayerwiseSpace.of(TABLE, round_to=0)


def test_multiples_of_channels():
    space = LayerwiseSpace.of(LayerTable(channels=(32, 48, 10)), round_to=8)
    core = LayerwiseCore(space, PlainLatency(), make_conditions(30))
    whole = len(space.splits) - 1
    assert [o.tolist() for o in space.splits[whole].options] == [[8, 16, 24, 32], [16, 24, 32, 40, 48], [8, 10]]
    for choice in random_plays(core, 200):
        assert all(k % 8 == 0 or k == n for k, n in zip(choice.keep, space.splits[choice.split].channels, strict=True))


def test_features_tell_plans_apart_and_scale_codecs():
    choices = [SPACE.locate(p) for p in TABLE.everything()]
    features = SPACE.features(choices)
    assert len(np.unique(features, axis=0)) == len(choices)
    codecs = features[:, len(SPACE.roots):]
    np.testing.assert_array_equal((codecs.min(axis=0), codecs.max(axis=0)), (0 * codecs[0], 0 * codecs[0] + 1))
    middle = [c for c in choices if SPACE.splits[c.split].name == "middle"]
    assert (SPACE.features(middle)[:, SPACE.roots.index("conv2")] == 1).all()  # runs on the edge, whole


# --- bounding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("model", [PlainLatency(), ANALYTIC, Steps()])
@pytest.mark.parametrize("budget_ms", [1.6, 3, 30, 150])
def test_random_play_is_always_within_the_budget(model, budget_ms, quick):
    conditions = make_conditions(budget_ms)
    core = LayerwiseCore(SPACE, model, conditions, quick=quick)
    choices = random_plays(core, 200)
    p95_ms = model.latency(TABLE.workloads([SPACE.plan(c) for c in choices]), [conditions]).p95_ms[:, 0]
    everything = model.latency(TABLE.workloads(TABLE.everything()), [conditions]).p95_ms[:, 0]
    assert (everything <= budget_ms).any()
    assert (p95_ms <= budget_ms).all()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("budget_ms", [2, 30])
def test_every_plan_within_the_budget_can_be_played_and_none_other(budget_ms, quick):
    conditions = make_conditions(budget_ms)
    core = LayerwiseCore(SPACE, ANALYTIC, conditions, quick=quick)
    plans = TABLE.everything()
    choices = [SPACE.locate(p) for p in plans]
    within = ANALYTIC.latency(TABLE.workloads(plans), [conditions]).p95_ms[:, 0] <= budget_ms
    played = core.choices(core.play(*core.actions_of(choices)))
    same = np.array([a == b for a, b in zip(choices, played, strict=True)])
    np.testing.assert_array_equal(same, within)


def test_what_is_beyond_the_bound_counts_as_the_nearest_within():
    core = LayerwiseCore(SPACE, ANALYTIC, make_conditions(2))
    episodes = core.play(np.ones(1), np.zeros((1, 3)), np.zeros(1))  # wants the whole network, unpruned
    (choice,) = core.choices(episodes)
    split = SPACE.splits[choice.split]
    assert split.name == "output"
    keep = np.array(choice.keep)
    for group in range(3):  # one channel more in any group cannot be completed
        more = np.where(np.arange(3) <= group, keep, split.least)
        more[group] += 1
        if keep[group] < split.channels[group]:
            assert not core.within(choice.split, more[None], np.zeros(1, int))[0]


def test_where_nothing_fits_the_bound_is_near_the_least_late():
    core = LayerwiseCore(SPACE, ANALYTIC, make_conditions(0.01))
    every = ANALYTIC.latency(TABLE.workloads(TABLE.everything()), [make_conditions(0.01)]).p95_ms[:, 0]
    assert core.limit_ms == pytest.approx(1.25 * every.min())
    found = core.latency.breakdown(random_plays(core, 100)).p95_ms[:, 0]
    assert every.min() <= found.max() <= core.limit_ms


def test_actions_are_reported_as_they_were_taken():
    core = LayerwiseCore(SPACE, ANALYTIC, make_conditions(2))
    first, again = core.begin(50), core.begin(50)
    rng = np.random.default_rng(0)
    while not core.done(first).all():
        taken = core.advance(first, rng.random(50))
        np.testing.assert_allclose(core.advance(again, taken), taken)
    assert core.choices(first) == core.choices(again)
    assert first.last.min() >= 0
    assert first.last.max() <= 1


# --- observations ---------------------------------------------------------------------------------------------------


def test_observations_are_bounded_and_follow_the_episode():
    core = LayerwiseCore(SPACE, ANALYTIC, make_conditions(3))
    episodes, names = core.begin(1), len(SPACE.splits)
    at = {name: 4 + names + i for i, name in enumerate((*LAYER_FEATURES, "removed", "removable", "latency", "last"))}
    seen = [core.observe(episodes)[0]]
    for action in (1.0, 0.6, 0.0, 0.0, 0.5):
        core.advance(episodes, np.array([action]))
        seen.append(core.observe(episodes)[0])
    table = np.array(seen)
    assert table.shape == (6, core.observation_size)
    assert table.dtype == np.float32
    assert table.min() >= 0
    assert table.max() <= 1
    steps = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert table[:, :3].tolist() == steps
    assert table[1:4, at["index"]].tolist() == [0, 0.5, 1]
    assert table[1:4, at["conv"]].tolist() == [1, 1, 1]
    assert table[1, at["removed"]] == 0 < table[2, at["removed"]]
    assert table[1, at["removable"]] > table[3, at["removable"]] > table[4, at["removable"]] == 0
    assert (np.diff(table[1:5, at["latency"]]) >= 0).all()
    whole = TABLE.workloads([TABLE.space.plans()[-4]])[0].device.macs
    (choice,) = core.choices(episodes)
    assert table[5, at["removed"]] == pytest.approx(1 - SPACE.splits[-1].head.stage_cost(choice.keep).macs / whole)


# --- latency in closed form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [PlainLatency(), ANALYTIC])
def test_affine_latency_is_the_models_own(model):
    exact = PredictedLatency(SPACE, model, make_conditions(50))
    quick = AffineLatency.of(exact)
    assert quick is not None
    rng = np.random.default_rng(1)
    for number, split in enumerate(SPACE.splits):
        keep = rng.integers(split.least, split.channels + 1, (100, split.groups))
        codec = rng.integers(len(split.codecs), size=100)
        known, found = exact.p95_ms(number, keep, codec), quick.p95_ms(number, keep, codec)
        np.testing.assert_allclose(found, known, rtol=3e-6)
        assert (found >= known).all()


def test_a_model_of_another_kind_is_not_put_in_that_form():
    assert AffineLatency.of(PredictedLatency(SPACE, Steps(), make_conditions(50))) is None


def test_other_payloads_change_codes_alone():
    scaled = SPACE.with_payloads([2.0] * len(SPACE.splits))
    for before, after in zip(SPACE.splits, scaled.splits, strict=True):
        factor = 2.0 if before.name == "middle" else 1.0
        assert [w.payload_bytes_p95 for w in after.workloads] == [factor * w.payload_bytes_p95
                                                                 for w in before.workloads]


def test_many_conditions():
    for conditions in ConditionsSampler(make_conditions(30)).pool(5, seed=1):
        core = LayerwiseCore(SPACE, ANALYTIC, conditions, quick=True)
        found = core.latency.breakdown(random_plays(core, 50)).p95_ms[:, 0]
        assert (found <= core.limit_ms).all()
