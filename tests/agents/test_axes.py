"""Plans on axes: levels, distances, neighbours, and reading vectors of parameters."""

import numpy as np
import pytest

from autosplit.agents.axes import PlanAxes
from autosplit.core.plan import CodecSetting, Plan
from autosplit.evaluation.table import TableEvaluator
from autosplit.testing import AgentCase
from tests.agents.cases import LARGE, SMALL, problem


def number(p, **wanted):
    """The one plan with these settings."""
    found = [i for i, plan in enumerate(p.plans)
             if all(getattr(plan, k, getattr(plan.codec, k, None)) == v for k, v in wanted.items())]
    assert len(found) == 1, [p.plans[i].label for i in found]
    return found[0]


@pytest.fixture(scope="module")
def large():
    p = problem(LARGE)
    return p, PlanAxes.of(p)


def test_levels_are_ranks_and_absent_choices_are_marked(large):
    p, axes = large
    assert axes.names == ("split", "sparsity", "image", "quality", "width", "grid", "bits")
    assert axes.sizes == (6, 6, 2, 6, 5, 3, 4)
    assert axes.ordered.tolist() == [True, True, False, True, True, True, True]
    code = number(p, split="layer2", sparsity=0.5, width=8, grid=8, bits=2)
    assert axes.levels[code].tolist() == [3, 2, -1, -1, 2, 2, 0]
    assert axes.levels[number(p, kind="jpeg", quality=90)].tolist() == [0, -1, 0, 4, -1, -1, -1]
    assert axes.levels[number(p, kind="png")].tolist() == [0, -1, 1, -1, -1, -1, -1]
    assert axes.levels[number(p, split="output", sparsity=0.875)].tolist() == [5, 5, -1, -1, -1, -1, -1]


def test_no_two_plans_share_a_point(large):
    for axes in (large[1], PlanAxes.of(AgentCase.usual().problem)):
        assert len(np.unique(axes.levels, axis=0)) == len(axes.levels)


def test_families_and_raw_features_are_kinds_without_an_order():
    case = AgentCase.usual()
    codes = [plan.codec for plan in case.plans if plan.split == "stem" and plan.sparsity == 0]
    more = [Plan(split="stem", sparsity=s, codec=codec.model_copy(update={"family": "aecnn"}))
            for s in (0.0, 0.5) for codec in codes]
    p = AgentCase((*case.plans, *more)).problem
    axes = PlanAxes.of(p)
    axis = axes.names.index("codec")
    assert axes.sizes[axis] == 3
    assert not axes.ordered[axis]
    nested = number(p, split="stem", sparsity=0.5, family="nested", width=8, grid=2, bits=8)
    everywhere = np.ones(len(p.plans), dtype=bool)
    assert list(axes.moves(nested, axis, everywhere).values()) == [
        number(p, split="stem", sparsity=0.5, family="aecnn", width=8, grid=2, bits=8)]
    raw = number(p, split="layer2", sparsity=0.5, kind="raw")
    (found,) = axes.moves(raw, axis, everywhere).values()
    assert p.plans[found].sparsity == 0.5
    assert p.plans[found].codec.kind == "code"


def test_neighbours_differ_by_one_step_in_one_dimension(large):
    p, axes = large
    here = number(p, split="layer2", sparsity=0.5, width=8, grid=4, bits=4)
    around = axes.neighbours(here, np.ones(len(p.plans), dtype=bool))
    assert len(around) == len(set(around)) == 10
    steps = [axes.levels[i] - axes.levels[here] for i in around]
    assert all(np.abs(step).sum() == 1 for step in steps)


def test_what_is_not_allowed_is_stepped_over(large):
    p, axes = large
    here = number(p, split="layer2", sparsity=0.5, width=8, grid=4, bits=4)
    gone = number(p, split="layer2", sparsity=0.5, width=16, grid=4, bits=4)
    next_ = number(p, split="layer2", sparsity=0.5, width=32, grid=4, bits=4)
    allowed = np.ones(len(p.plans), dtype=bool)
    allowed[gone] = False
    around = axes.neighbours(here, allowed)
    assert gone not in around
    assert next_ in around


def test_the_ends_are_reached_from_the_split_points_beside_them(large):
    p, axes = large
    everywhere = np.ones(len(p.plans), dtype=bool)
    deep = number(p, split="layer3", sparsity=0.75, width=2, grid=2, bits=2)
    assert number(p, split="output", sparsity=0.75) in axes.neighbours(deep, everywhere)
    shallow = number(p, split="stem", sparsity=0.0, width=16, grid=8, bits=8)
    image = next(i for i in axes.neighbours(shallow, everywhere) if p.plans[i].split == "input")
    nearest = min((i for i in range(len(p.plans)) if p.plans[i].split == "input"),
                  key=lambda i: abs(axes.payload[i] - axes.payload[shallow]))
    assert image == nearest


@pytest.mark.parametrize(("table", "budget_ms"), [(SMALL, 40), (SMALL, 100), (SMALL, 250), (LARGE, 25)])
def test_all_candidates_are_connected(table, budget_ms):
    """Else there were plans that evolution could not come to from others."""
    p = problem(table, budget_ms)
    axes, allowed = PlanAxes.of(p), p.candidates
    reached, frontier = set(), [int(np.flatnonzero(allowed)[0])]
    while frontier:
        here = frontier.pop()
        if here not in reached:
            reached.add(here)
            for axis in range(len(axes.names)):
                frontier += [i for i in axes.moves(here, axis, allowed).values() if i not in reached]
    assert len(reached) == allowed.sum()


def test_a_vector_of_its_own_levels_is_the_plan(large):
    p, axes = large
    everything = np.arange(len(p.plans))
    for i in range(0, len(p.plans), 37):
        assert axes.settle(lambda axis, i=i: int(axes.levels[i, axis]), everything) == i


def test_levels_that_lead_nowhere_become_the_nearest_that_do_not(large):
    p, axes = large
    candidates = np.flatnonzero(p.candidates)
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(200):
        levels = [int(rng.integers(size)) for size in axes.sizes]
        plan = axes.settle(lambda axis, levels=levels: levels[axis], candidates)
        assert p.candidates[plan]
        found.add(plan)
        offered = np.unique(axes.levels[candidates, 0])
        assert abs(axes.levels[plan, 0] - levels[0]) == np.abs(offered - levels[0]).min()
    assert len(found) > 50


def test_one_plan_has_no_axis():
    case = AgentCase(AgentCase.usual().plans[:1])
    axes = PlanAxes.of(case.problem)
    assert axes.names == axes.sizes == ()
    assert axes.settle(lambda axis: 0, np.arange(1)) == 0
    assert axes.neighbours(0, np.ones(1, dtype=bool)) == []


def test_the_nearest_of_none_is_an_error(large):
    with pytest.raises(ValueError, match="no plans"):
        large[1].nearest(0, np.array([], dtype=np.int64))


def test_raw_alone_is_no_axis():
    plans = [Plan(split="stem", sparsity=s, codec=CodecSetting(kind="raw")) for s in (0.0, 0.5)]
    assert PlanAxes.of(AgentCase(tuple(plans)).problem).names == ("sparsity",)
    assert isinstance(AgentCase(tuple(plans)).evaluator, TableEvaluator)
