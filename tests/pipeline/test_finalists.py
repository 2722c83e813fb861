"""Finalists: what is fine-tuned in which order, and that nothing is measured twice or taken for what it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autosplit.core.cache import Cache
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.evaluation.cached import measurement_file
from autosplit.evaluation.objective import InTimeAccuracy
from autosplit.evaluation.scorer import score
from autosplit.pipeline import context
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import ranked_heads
from autosplit.runtime.deployment import Deployment
from tests.synthetic import PlainLatency, make_conditions, small_table

WHOLE = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
RAW = Plan(split="layer2", codec=CodecSetting(kind="raw"))
PNG = Plan(split=INPUT, codec=CodecSetting(kind="png"))
CODE = Plan(split="layer1", sparsity=0.5, codec=CodecSetting(kind="code", width=2, grid=4, bits=2))


@pytest.fixture
def own(prepared, tmp_path):
    """The world's networks with a cache of this test alone."""
    return replace(prepared, cache=Cache(tmp_path))


@pytest.fixture
def evaluated(monkeypatch):
    """Plans and parts in the order in which deployments classified them."""
    seen, real = [], Deployment.evaluate

    def counting(self, data, part):
        seen.append((self.plan, part))
        return real(self, data, part)

    monkeypatch.setattr(Deployment, "evaluate", counting)
    return seen


# --- order ----------------------------------------------------------------------------------------------------------


def outcomes(budget_ms):
    table = small_table()
    return score(table.measure(table.space.plans()), PlainLatency(), InTimeAccuracy(), make_conditions(budget_ms))


def test_heads_are_ranked_by_their_best_feasible_plan():
    found = outcomes(100.0)
    ranked = ranked_heads(found)
    reward = {o.plan: o.reward for o in found}
    feasible = [o for o in found if o.feasible]
    assert 1 < len(feasible) < len(found)
    assert {(p.split, p.sparsity) for p in ranked} == {(o.plan.split, o.plan.sparsity) for o in feasible}
    assert len({(p.split, p.sparsity) for p in ranked}) == len(ranked)
    assert [reward[p] for p in ranked] == sorted((reward[p] for p in ranked), reverse=True)
    for plan in ranked:
        head = [o.reward for o in feasible if (o.plan.split, o.plan.sparsity) == (plan.split, plan.sparsity)]
        assert reward[plan] == max(head)


def test_where_nothing_is_feasible_the_least_late_plan_is_ranked_alone():
    found = outcomes(0.1)
    assert ranked_heads(found) == [min(found, key=lambda o: o.latency.p95_ms).plan]


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [WHOLE, RAW, PNG, CODE], ids=lambda p: p.label)
def test_figures_are_those_of_the_deployment_and_taken_once(own, evaluated, plan):
    makers = SearchContext(own)
    found = {part: makers.measure(plan, "int8", part) for part in ("validation", "test")}
    assert evaluated == [(plan, "validation"), (plan, "test")]
    for part, measured in found.items():
        deployment = makers.deployment(plan, "int8")
        expected = deployment.measurement(deployment.evaluate(own.data, part), measured.seconds)
        assert measured == expected
    evaluated.clear()
    assert {part: makers.measure(plan, "int8", part) for part in found} == found
    assert {part: SearchContext(own).measure(plan, "int8", part) for part in found} == found
    assert evaluated == []


def test_arithmetics_are_kept_apart_where_the_device_computes(own, evaluated):
    for arithmetic in ("int8", "fp32", "fp16"):  # half precision is computed as fp32
        for plan in (WHOLE, PNG):
            SearchContext(own).measure(plan, arithmetic)
    assert evaluated == [(WHOLE, "validation"), (PNG, "validation"), (WHOLE, "validation")]


def test_without_reuse_nothing_is_taken_from_the_cache(own, evaluated):
    for _ in range(2):
        SearchContext(own, reuse=False).measure(WHOLE, "fp32")
    assert len(evaluated) == 2


def test_figures_of_other_code_are_not_taken(own, evaluated, monkeypatch):
    SearchContext(own).measure(WHOLE, "fp32")
    monkeypatch.setattr(context, "source_hash", lambda *modules: "other")
    SearchContext(own).measure(WHOLE, "fp32")
    assert len(evaluated) == 2


def test_pictures_do_not_share_what_was_learnt_of_other_formats(own):
    """One network is taught all formats of a search space, and those of a finalist begin with it."""
    other = replace(own, coded_key="of other formats")
    assert measurement_file(other) != measurement_file(own)
    jpeg = Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=50))
    for tuned in (True, False):
        assert SearchContext(other)._key(jpeg, tuned) != SearchContext(own)._key(jpeg, tuned)
    for plan in (PNG, WHOLE, CODE):
        assert SearchContext(other)._key(plan) == SearchContext(own)._key(plan)


def test_pictures_are_shared_by_searches_with_other_supernets(own):
    other = replace(own, supernet_key="of other codecs")
    jpeg = Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=50))
    for plan, same in ((jpeg, True), (PNG, True), (WHOLE, False), (CODE, False)):
        assert (SearchContext(other)._key(plan) == SearchContext(own)._key(plan)) is same


def test_damaged_figures_are_made_again(own, evaluated):
    first = SearchContext(own).measure(WHOLE, "fp32")
    (file,) = (own.cache.root / "finalists").iterdir()
    file.write_text(file.read_text()[:50])
    again = SearchContext(own).measure(WHOLE, "fp32")
    assert again == first.model_copy(update={"seconds": again.seconds})
    assert len(evaluated) == 2


def test_a_deployment_that_is_no_longer_at_hand_is_made_anew_without_training(own, monkeypatch):
    monkeypatch.setattr(context, "_KEPT", 1)
    makers = SearchContext(own)
    first = makers.deployment(CODE, "int8")
    assert makers.deployment(CODE, "int8") is first
    makers.deployment(WHOLE, "int8")
    monkeypatch.setattr(context, "finetune", None)
    again = makers.deployment(CODE, "int8")
    assert again is not first
    images = own.data.test.images[:5]
    assert again.encode(images) == first.encode(images)


def test_a_space_without_its_device_end_has_the_baseline_all_the_same(world, monkeypatch):
    from autosplit.training.prepare import prepare

    scenario = world.scenario().replace(**{"space.whole_on_device": False})
    found = SearchContext(prepare(scenario, cache=Cache(world.cache))).measure(WHOLE, "int8")
    assert found.workload.device.macs > 0


def test_a_context_has_one_deployment_an_arithmetic(own):
    shared = SearchContext(own)
    assert shared.deployment(WHOLE, "int8") is shared.deployment(WHOLE, "int8")
    assert shared.deployment(WHOLE, "int8") is not shared.deployment(WHOLE, "fp32")
    assert shared.evaluator.space == own.supernet.plan_space
