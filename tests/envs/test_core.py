from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.space import PlanSpace
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.features import _KINDS, CONDITION_BOUNDS, PLAN_FEATURES, condition_features, plan_features
from autosplit.envs.tree import DecisionTree
from autosplit.evaluation.objective import best_outcome, load_objective
from autosplit.evaluation.scorer import score
from autosplit.latency import load_latency_model
from tests.synthetic import PlainLatency, make_conditions, make_table, small_table

TABLE = small_table()
PLANS = TABLE.space.plans()


def core_of(conditions, table=TABLE, model=None):
    space = table.space
    return CoInferenceCore.build(space, table.workloads(space.plans()), model or PlainLatency(), conditions)


def walk(tree, plan_number):
    """The three actions that lead to a plan."""
    actions, node = [], 0
    for _ in range(3):
        hits = [a for a in range(tree.actions) if tree.exists[node, a]
                and tree.first_plan[tree.child[node, a]] <= plan_number < tree.end_plan[tree.child[node, a]]]
        assert len(hits) == 1
        actions.append(hits[0])
        node = tree.child[node, hits[0]]
    return actions, node


def test_every_plan_is_one_path_of_the_tree():
    tree, space = DecisionTree.of(TABLE.space), TABLE.space
    for number, plan in enumerate(PLANS):
        (split, sparsity, codec), leaf = walk(tree, number)
        assert leaf == tree.inner + number
        assert space.splits[split] == plan.split
        assert space.sparsities[plan.split][sparsity] == plan.sparsity
        assert space.codecs[plan.split][codec] == plan.codec


def test_empty_spaces_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        DecisionTree.of(PlanSpace((), {}, {}))
    with pytest.raises(ValueError, match="at least one"):
        DecisionTree.of(PlanSpace(("a",), {"a": (0.0,)}, {"a": ()}))


@given(budget_ms=st.floats(1, 1000), kbps=st.floats(1, 1e4))
def test_masks_allow_exactly_the_feasible_plans(budget_ms, kbps):
    conditions = make_conditions(budget_ms, uplink_kbps=kbps)
    core = core_of([conditions])
    feasible = core.breakdown.p95_ms[:, 0] <= budget_ms
    expected = feasible if feasible.any() else np.ones_like(feasible)
    reached = []
    for number in range(len(PLANS)):
        actions, _ = walk(core.tree, number)
        node, legal = 0, True
        for action in actions:
            legal &= bool(core.masks[0, node, action])
            node = core.tree.child[node, action]
        reached.append(legal)
    np.testing.assert_array_equal(reached, expected)


@pytest.mark.parametrize("model", [PlainLatency(), load_latency_model("analytic")])
def test_the_feasible_optimum_is_never_masked(model):
    sampler = ConditionsSampler(make_conditions())
    for conditions in sampler.pool(20, seed=3):
        outcomes = score(TABLE.measurements, model, load_objective("in-time-accuracy"), conditions)
        best = best_outcome(outcomes)
        if best.feasible:
            assert core_of([conditions], model=model).allowed[PLANS.index(best.plan), 0]


def test_masked_actions_count_as_the_nearest_allowed_one():
    core = core_of([make_conditions(60)])
    tree, zero = core.tree, np.zeros(tree_size := core.tree.actions, dtype=np.int64)
    nodes = core.advance(zero, zero, np.arange(tree_size))
    allowed = np.flatnonzero(core.masks[0, 0])
    for action, node in enumerate(nodes):
        nearest = allowed[np.abs(allowed - action).argmin()]
        assert node == tree.child[0, nearest]


def test_observations_are_bounded_and_tell_plans_apart():
    core = core_of(ConditionsSampler(make_conditions()).pool(50), make_table())
    for part in (core.node_observations, core.condition_observations):
        assert part.dtype == np.float32
        assert part.min() >= 0
        assert part.max() <= 1
    assert len(np.unique(core.node_observations, axis=0)) == len(core.node_observations)
    assert core.condition_observations.shape == (50, len(CONDITION_BOUNDS))


def test_every_kind_of_codec_has_features_and_a_body_is_an_image():
    kinds = get_args(CodecSetting.model_fields["kind"].annotation)
    assert set(_KINDS) == set(kinds)
    plans = [Plan(split="input", codec=CodecSetting(kind=kind, quality=50)) for kind in ("jpeg", "jpeg-shared")]
    space = PlanSpace(("input",), {"input": (0.0,)}, {"input": tuple(p.codec for p in plans)})
    work = [Workload(plan=p, payload_bytes_mean=size) for p, size in zip(plans, (800.0, 200.0), strict=True)]
    file, body = plan_features(space, work)
    names = [*PLAN_FEATURES, "input"]
    assert file[names.index("is_image")] == body[names.index("is_image")] == 1
    assert [n for n, a, b in zip(names, file, body, strict=True) if a != b] == ["payload_bytes"]


def test_conditions_beyond_the_bounds_are_cut():
    features = condition_features([make_conditions(1e9, uplink_kbps=1e-3)])
    names = list(CONDITION_BOUNDS)
    assert features[0, names.index("budget_ms")] == 1
    assert features[0, names.index("uplink_kbps")] == 0


def test_plan_features_mean_the_same_in_another_space():
    small, large = TABLE.space, make_table().space
    a = plan_features(small, TABLE.workloads(small.plans()))
    b = plan_features(large, make_table().workloads(large.plans()))
    plan = next(p for p in PLANS if p.split == "layer2")
    columns = [i for i, name in enumerate(PLAN_FEATURES) if name != "position"]  # depends on the splits offered
    np.testing.assert_allclose(a[PLANS.index(plan)][columns], b[large.plans().index(plan)][columns])


def test_revised_equals_built_anew():
    conditions = ConditionsSampler(make_conditions()).pool(10)
    core = core_of(conditions)
    work = TABLE.workloads(PLANS)
    changed = {n: work[n].model_copy(update={"payload_bytes_mean": work[n].payload_bytes_mean * 3}) for n in (9, 30)}
    new = [changed.get(i, w) for i, w in enumerate(work)]
    anew = CoInferenceCore.build(TABLE.space, new, PlainLatency(), conditions)
    revised = core.revised(changed, PlainLatency())
    np.testing.assert_array_equal(revised.breakdown.p95_ms, anew.breakdown.p95_ms)
    np.testing.assert_array_equal(revised.masks, anew.masks)
    np.testing.assert_array_equal(revised.allowed, anew.allowed)


def test_under_equals_built_anew():
    first, second = ConditionsSampler(make_conditions()).pool(10), ConditionsSampler(make_conditions()).pool(7, seed=1)
    moved, anew = core_of(first).under(second, TABLE.workloads(PLANS), PlainLatency()), core_of(second)
    for name in ("allowed", "masks", "node_observations", "condition_observations"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(anew, name))
    assert moved.conditions == anew.conditions


def test_joined_equals_built_over_both_pools():
    pools = [ConditionsSampler(make_conditions()).pool(size, seed=size) for size in (4, 3)]
    joined, anew = CoInferenceCore.joined([core_of(pool) for pool in pools]), core_of(pools[0] + pools[1])
    for name in ("allowed", "masks", "node_observations", "condition_observations"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(anew, name))
    np.testing.assert_array_equal(joined.breakdown.in_time, anew.breakdown.in_time)
    assert joined.conditions == anew.conditions


def test_sampler_is_deterministic_and_stays_in_range():
    base = make_conditions(80)
    sampler = ConditionsSampler(base, device=2, budget_ms=(10, 20))
    pool = sampler.pool(200, seed=5)
    assert pool == sampler.pool(200, seed=5)
    assert pool != sampler.pool(200, seed=6)
    factors = np.array([c.device.conv_mmacs.value / base.device.conv_mmacs.value for c in pool])
    assert 0.5 <= factors.min() < 0.6 < 1.8 < factors.max() <= 2
    assert all(10 <= c.budget_ms <= 20 for c in pool)
    depthwise = [c.device.depthwise_mmacs.value / c.device.conv_mmacs.value for c in pool]
    np.testing.assert_allclose(depthwise, depthwise[0])


@pytest.mark.parametrize("options", [{"device": 0.5}, {"channel": float("inf")}, {"budget_ms": (20, 10)}])
def test_sampler_refuses_nonsense(options):
    with pytest.raises(ConfigError, match="conditions sampler"):
        ConditionsSampler(make_conditions(), **options)
