"""Finalists: what is fine-tuned in which order, and that nothing is measured twice or taken for what it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autosplit.core.cache import Cache
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.evaluation.objective import InTimeAccuracy, score
from autosplit.pipeline import finalists
from autosplit.pipeline.context import Workshop
from autosplit.pipeline.finalists import Finalists, ranked_heads
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
    makers = Finalists(own, "int8")
    found = {part: makers.measure(plan, part) for part in ("validation", "test")}
    assert evaluated == [(plan, "validation"), (plan, "test")]
    for part, measured in found.items():
        deployment = makers.deployment(plan)
        expected = deployment.measurement(deployment.evaluate(own.data, part), measured.seconds)
        assert measured == expected
    evaluated.clear()
    assert {part: makers.measure(plan, part) for part in found} == found
    assert {part: Finalists(own, "int8").measure(plan, part) for part in found} == found
    assert evaluated == []


def test_arithmetics_are_kept_apart_where_the_device_computes(own, evaluated):
    for arithmetic in ("int8", "fp32", "fp16"):  # half precision is computed as fp32
        for plan in (WHOLE, PNG):
            Finalists(own, arithmetic).measure(plan)
    assert evaluated == [(WHOLE, "validation"), (PNG, "validation"), (WHOLE, "validation")]


def test_without_reuse_nothing_is_taken_from_the_cache(own, evaluated):
    for _ in range(2):
        Finalists(own, "fp32", reuse=False).measure(WHOLE)
    assert len(evaluated) == 2


def test_figures_of_other_code_are_not_taken(own, evaluated, monkeypatch):
    Finalists(own, "fp32").measure(WHOLE)
    monkeypatch.setattr(finalists, "_code", lambda: "other")
    Finalists(own, "fp32").measure(WHOLE)
    assert len(evaluated) == 2


def test_damaged_figures_are_made_again(own, evaluated):
    first = Finalists(own, "fp32").measure(WHOLE)
    (file,) = (own.cache.root / "finalists").iterdir()
    file.write_text(file.read_text()[:50])
    again = Finalists(own, "fp32").measure(WHOLE)
    assert again == first.model_copy(update={"seconds": again.seconds})
    assert len(evaluated) == 2


def test_a_deployment_that_is_no_longer_at_hand_is_made_anew_without_training(own, monkeypatch):
    monkeypatch.setattr(finalists, "_KEPT", 1)
    makers = Finalists(own, "int8")
    first = makers.deployment(CODE)
    assert makers.deployment(CODE) is first
    makers.deployment(WHOLE)
    monkeypatch.setattr(finalists, "finetune", None)
    again = makers.deployment(CODE)
    assert again is not first
    images = own.data.test.images[:5]
    assert again.encode(images) == first.encode(images)


def test_a_space_without_its_device_end_has_the_baseline_all_the_same(world, monkeypatch):
    from autosplit.training.prepare import prepare

    scenario = world.scenario().replace(**{"space.whole_on_device": False})
    found = Finalists(prepare(scenario, cache=Cache(world.cache)), "int8").measure(WHOLE)
    assert found.workload.device.macs > 0


def test_a_workshop_has_one_set_of_finalists_an_arithmetic(own):
    workshop = Workshop(own)
    assert workshop.finalists("int8") is workshop.finalists("int8")
    assert workshop.finalists("int8") is not workshop.finalists("fp32")
    assert workshop.evaluator.space == own.supernet.plan_space
