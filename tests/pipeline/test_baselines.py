"""Baselines: which plans they have, that they choose as a search does, and the table that sets plans side by side."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.core.answers import Answers
from autosplit.core.comparison import ComparisonRow
from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.scenario import SearchSpace
from autosplit.evaluation.objective import InTimeAccuracy
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.baselines import Baseline, choose, comparison_row, related, simple_baselines
from autosplit.pipeline.context import SearchContext
from tests.synthetic import PlainLatency, make_scenario

SPACE = SearchSpace(jpeg_qualities=(10, 50), webp_qualities=(30,), avif_qualities=(40,))


def code(split, width=4, sparsity=0.0):
    return Plan(split=split, sparsity=sparsity, codec=CodecSetting(kind="code", width=width, grid=4, bits=4))


def measured(plan, accuracy, payload, fidelity="F1", macs=1e6):
    work = Workload(plan=plan, device=StageCost(conv_macs=macs), payload_bytes_mean=payload, payload_bytes_p95=payload)
    labels = np.zeros(1000, dtype=np.int64)
    answers = Answers.of(np.where(np.arange(1000) < round(1000 * accuracy), 0, 1), labels) if fidelity == "F3" else None
    return Measurement(plan=plan, accuracy=accuracy, workload=work, feature_bytes=3072.0, fidelity=fidelity,
                       answers=answers)


class Scripted:
    """Stands for evaluator and finalists: (accuracy, bytes) by plan, and what fine-tuning makes of them."""

    def __init__(self, figures, tuned=()):
        self.figures, self.tuned = figures, dict(tuned)
        self.measured, self.made, self.untuned = [], [], []

    def begin(self, plans, arithmetic):
        self.begun = plans

    def workloads(self, plans):
        return [measured(p, *self.figures[p]).workload for p in plans]

    @property
    def evaluator(self):
        return SimpleNamespace(workloads=self.workloads, measure=self.measure_f1)

    def measure(self, plan, arithmetic, part="validation", title="", tuned=True):
        if not tuned:
            self.untuned.append(plan)
            return measured(plan, *self.figures[plan], fidelity="F3")
        self.made.append(plan)
        return measured(plan, *self.tuned.get(plan, self.figures[plan]), fidelity="F3")

    def sources(self, part):
        return None

    def measure_f1(self, plans):
        self.measured.extend(plans)
        return [measured(p, *self.figures[p]) for p in plans]


def scorer(budget_ms=100.0):
    return Scorer(PlainLatency(), InTimeAccuracy(), make_scenario(budget_ms).conditions)


def chosen(script, everything=False, budget_ms=100.0, **search):
    baseline = Baseline("mine", "mine", tuple(script.figures), everything)
    return choose([baseline], scorer(budget_ms), script, make_scenario().search.model_copy(update=search))[0]


# --- who there is ---------------------------------------------------------------------------------------------------


def on_device(*sparsities, head="pruned"):
    return [Plan(split=OUTPUT, sparsity=s, codec=CodecSetting(kind="none"), head=head) for s in sparsities]


def test_simple_baselines():
    whole = [*on_device(0.0, 0.5), *on_device(0.0, 0.5, head="reduced")]
    found = {c.method: c for c in simple_baselines(SPACE, ("a", "b"), whole)}
    assert list(found) == ["device", "device-pruned", "device-reduced", "png", "jpeg", "jpeg-shared", "webp",
                           "webp-shared", "avif", "avif-shared", "raw"]
    assert [p.label for p in found["device-reduced"].plans] == [
        "output | picture at 1/2", "output | picture at 1/2 | 50% pruned"]
    assert [p.label for p in found["device"].plans] == ["output"]
    assert [p.label for p in found["device-pruned"].plans] == ["output | 50% pruned"]
    assert [p.label for p in found["jpeg"].plans] == [
        "input | JPEG q50", "input | JPEG q10", "input | JPEG q50 at 1/2", "input | JPEG q10 at 1/2"]
    assert [p.label for p in found["webp-shared"].plans][:2] == [
        "input | WebP q30 with shared tables", "input | WebP q30 effort 0 with shared tables"]
    assert [p.label for p in found["avif"].plans] == ["input | AVIF q40 effort 0", "input | AVIF q40 effort 0 at 1/2"]
    assert [p.label for p in found["raw"].plans] == ["a | raw", "b | raw"]
    assert {m for m, c in found.items() if c.everything} == {"device", "png", "raw"}


def test_what_is_not_there_is_no_baseline(monkeypatch):
    """Neither cuts nor a network on the device in the search space, and a Pillow without AVIF."""
    from PIL import features

    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and check(name))
    methods = [c.method for c in simple_baselines(SPACE.model_copy(update={"webp_qualities": ()}), (), ())]
    assert methods == ["device", "png", "jpeg", "jpeg-shared"]


# --- how they choose ------------------------------------------------------------------------------------------------

# 50 kb/s: 100 bytes take 18 ms, 1,000 bytes 168 ms; a MAC is for free
QUICK, BETTER, LATE = code("a"), code("b"), code("c")
FIGURES = {QUICK: (0.7, 50.0), BETTER: (0.8, 100.0), LATE: (0.95, 1000.0)}


def test_what_cannot_be_in_time_is_not_measured():
    script = Scripted(FIGURES)
    choice = chosen(script)
    assert script.measured == [QUICK, BETTER]
    assert choice.best.plan == BETTER
    assert choice.best.measurement.fidelity == "F3"
    assert [o.plan for o in choice.measured] == [QUICK, BETTER]


def test_where_all_is_late_the_least_late_one_is_taken():
    script = Scripted(FIGURES)
    choice = chosen(script, budget_ms=1.0)
    assert script.measured == script.made == [QUICK]
    assert choice.best.plan == QUICK
    assert not choice.best.feasible


def test_everything_is_measured_where_that_is_cheap():
    script = Scripted(FIGURES)
    choice = chosen(script, everything=True, evaluations=1)
    assert script.measured == [QUICK, BETTER, LATE]
    assert choice.best.plan == BETTER


def test_no_more_is_measured_than_a_search_may_and_the_draw_is_that_of_the_seed():
    figures = {code(f"s{i}"): (0.5 + i / 100, 50.0) for i in range(20)}
    draws = []
    for seed in (0, 0, 1):
        script = Scripted(figures)
        chosen(script, evaluations=6, seed=seed)
        draws.append(script.measured)
    assert len(draws[0]) == len(set(draws[0])) == 6
    assert draws[0] == draws[1] != draws[2]


def test_the_best_of_the_finalists_is_chosen_by_what_fine_tuning_made_of_them():
    script = Scripted(FIGURES, {QUICK: (0.9, 50.0)}.items())
    assert chosen(script, finalists=1).best.plan == BETTER
    assert chosen(script, finalists=2).best.plan == QUICK
    assert script.made == [BETTER, BETTER, QUICK]


def test_one_finalist_a_pruned_head():
    wide, narrow, other = code("a", 8), code("a", 4), code("a", 4, sparsity=0.5)
    script = Scripted({wide: (0.9, 100.0), narrow: (0.8, 50.0), other: (0.7, 50.0)})
    chosen(script, finalists=2)
    assert script.made == [wide, other]


def test_further_plans_are_tried_while_fine_tuned_payloads_miss_the_budget():
    script = Scripted(FIGURES, {BETTER: (0.9, 2000.0)}.items())
    choice = chosen(script, finalists=1)
    assert script.made == [BETTER, QUICK]
    assert choice.best.plan == QUICK


def test_a_choice_names_its_codec():
    baseline = next(c for c in simple_baselines(SPACE, (), ()) if c.method == "jpeg")
    script = Scripted({plan: (0.5 + 0.1 * (plan.codec.quality == 50), 70.0) for plan in baseline.plans})
    assert choose([baseline], scorer(), script, make_scenario().search)[0].name == "JPEG q50"


def test_pictures_that_come_too_late_need_no_network_of_their_own():
    baseline = next(c for c in simple_baselines(SPACE, (), ()) if c.method == "webp")
    script = Scripted({plan: (0.5, 2000.0) for plan in baseline.plans})
    (choice,) = choose([baseline], scorer(), script, make_scenario().search)
    assert script.untuned == [choice.best.plan]
    assert not script.made
    assert not choice.tuned
    assert choice.name.endswith(" (not tuned: late)")
    assert choice.best.measurement.fidelity == "F3"


def test_choices_on_a_real_network(prepared):
    """Each baseline's measurement is of real bytes; on an int8 device its head computes in int8."""
    context, scenario = SearchContext(prepared, reuse=False), prepared.scenario
    splits, referee = [p.name for p in prepared.points], Scorer.of(scenario)
    baselines = simple_baselines(scenario.space, splits, on_device(*context.evaluator.space.sparsities[OUTPUT]))
    found = {c.baseline.method: c for c in choose(baselines, referee, context, scenario.search)}
    assert found["raw"].best.plan.codec.kind == "raw"
    assert len(found["raw"].measured) == len(splits)
    for method, choice in found.items():
        deployment = context.deployment(choice.best.plan, "int8", tuned=choice.tuned)
        evaluation = deployment.evaluate(prepared.data, "validation")
        assert choice.best.measurement.accuracy == evaluation.accuracy
        assert choice.best.measurement.workload.payload_bytes_mean == evaluation.payload_mean
        assert deployment.blueprint.arithmetic == ("int8" if method in {"device", "device-pruned", "raw"} else "fp32")
    # a file and what crosses of it where both ends know the rest show the same pictures to the same network
    for kind in ("jpeg", "webp", "avif"):
        setting = found[f"{kind}-shared"].best.plan.codec
        whole = Plan(split=INPUT, codec=setting.model_copy(update={"kind": kind}))
        tuned = found[f"{kind}-shared"].tuned
        assert context.measure(whole, "int8", tuned=tuned).answers == found[f"{kind}-shared"].best.measurement.answers


# --- the table ------------------------------------------------------------------------------------------------------


def row(method, accuracy, payload, macs=1e6, budget_ms=100.0, plan=None):
    default = Plan(split=INPUT, codec=CodecSetting(kind="png")) if payload else Plan(
        split=OUTPUT, codec=CodecSetting(kind="none"))
    found = measured(plan or default, accuracy, payload, "F3", macs)
    against = measured(default, 0.93, 100.0, "F3")
    return comparison_row(method, method, found, against, scorer(budget_ms), 0.95, None)


@pytest.fixture
def table():
    rows = [row("device", 0.95, 0.0, 12e6), row("png", 0.95, 2000.0), row("jpeg", 0.945, 800.0),
            row("jpeg-shared", 0.90, 200.0), row("autosplit", 0.93, 100.0)]
    return {r.method: r for r in related(rows)}


def test_rows_hold_what_was_measured(table):
    assert [r.accuracy_loss_points for r in table.values()] == pytest.approx([0.0, 0.0, 0.5, 5.0, 2.0])
    assert [r.chosen for r in table.values()] == [False] * 4 + [True]
    assert table["device"].device_macs == 12e6
    for r in table.values():
        assert r.in_time_accuracy == r.accuracy * r.latency.in_time
        assert r.accuracy_low < r.accuracy < r.accuracy_high
        assert r.difference_points == pytest.approx(100 * (r.accuracy - 0.93))
        assert r.difference_low_points < r.difference_points < r.difference_high_points or not r.difference_points
    assert table["jpeg-shared"].difference_high_points < 0 < table["png"].difference_low_points
    assert table["png"].balanced_accuracy == table["png"].least_recall == 0.95  # of the only class


def test_speed_ups_are_over_the_quickest_baseline_that_loses_a_point_at_most(table):
    p95 = {m: r.latency.p95_ms for m, r in table.items()}
    assert p95["jpeg-shared"] < p95["jpeg"] < p95["device"] < p95["png"]
    for method, r in table.items():
        assert r.speed_up == pytest.approx(p95["jpeg"] / p95[method])


def test_the_chosen_plan_is_no_baseline_to_itself():
    alone = related([row("jpeg", 0.5, 800.0), row("autosplit", 0.95, 100.0)])
    assert [r.speed_up for r in alone] == [None, None]


@pytest.mark.parametrize(("budget_ms", "expected"), [(100.0, True), (10.0, False)])
def test_feasibility_is_that_of_the_95th_percentile(budget_ms, expected):
    found = row("a", 0.9, 200.0, budget_ms=budget_ms)
    assert found.feasible is expected is (found.latency.p95_ms <= budget_ms)


def test_ratios(table):
    nothing = table["device"]
    assert nothing.ratio_to_feature is nothing.ratio_to_png is nothing.ratio_to_jpeg is None
    ours = table["autosplit"]
    assert (ours.ratio_to_png, ours.ratio_to_jpeg, ours.ratio_to_feature) == (20.0, 8.0, 30.72)
    assert table["jpeg"].ratio_to_jpeg == 1.0


def test_rows_of_an_older_file_need_no_method():
    data = row("a", 0.9, 200.0).model_dump()
    del data["method"]
    assert ComparisonRow.model_validate(data).method == ""
