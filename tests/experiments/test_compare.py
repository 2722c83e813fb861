"""A comparison end to end: who takes part, by which rules, what is read and measured, and what it writes."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from matplotlib.image import imread

from autosplit.core.comparison import FINALIST
from autosplit.core.errors import ConfigError, DataError, UnknownNameError
from autosplit.core.result import Result
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.scorer import Scorer
from autosplit.experiments.compare import compare, run
from autosplit.experiments.compare.curves import latency_panels, payload_panels, rate_panels, scaled_rate, titles
from autosplit.experiments.compare.files import all_rows, draw_figures, write_tables
from autosplit.experiments.compare.literature import (
    LITERATURE_CODECS,
    codec_baselines,
    student_baseline,
    student_scenario,
    uniform_baseline,
)
from autosplit.pipeline import context
from autosplit.pipeline.baselines import LOSSY_IMAGES
from autosplit.pipeline.context import SearchContext, networks_key
from autosplit.pipeline.ledger import Ledger
from autosplit.training.prepare import prepare

METHODS = ["device", "device-pruned", "png", "file", "jpeg", "jpeg-shared", "webp", "webp-shared", "avif",
           "avif-shared", "raw", "two-step", "aecnn", "bottlenet++", "jalad", "entropic", "uniform",
           "autosplit"]


def scenarios(world):
    """One network under two conditions: another device (fp32), another link."""
    here = {"search.agent": "random", "search.evaluations": 6, "conditions.budget_ms": 60.0}
    first = world.scenario().replace(**here)
    return [first, first.replace(**{"conditions.device": "raspberry-pi-4", "conditions.channel": "ble-1m"})]


@dataclass
class Seen:
    """What was done during a comparison."""

    measured: Counter = field(default_factory=Counter)
    tuned: Counter = field(default_factory=Counter)
    read: list = field(default_factory=list)
    networks: list = field(default_factory=list)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """The report of both scenarios, the folder, and what was done on the way."""
    out, seen = tmp_path_factory.mktemp("compare") / "out", Seen()
    real = {"measure": LiveEvaluator._measure, "tune": context.finetune, "figures": SearchContext.measure}

    def measure(self, plan):
        seen.measured[self._supernet, plan] += 1
        return real["measure"](self, plan)

    def tune(network, teacher, run):
        seen.tuned[run.key] += 1
        return real["tune"](network, teacher, run)

    def figures(self, plan, arithmetic, part="validation", title="finalist", tuned=True):
        seen.read.append((plan, part))
        return real["figures"](self, plan, arithmetic, part, title, tuned)

    def preparing(scenario, *args, **kwargs):
        seen.networks.append(scenario.codecs)
        return prepare(scenario, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        patch.setattr(LiveEvaluator, "_measure", measure)
        patch.setattr(context, "finetune", tune)
        patch.setattr(SearchContext, "measure", figures)
        patch.setattr(run, "prepare", preparing)
        report = compare(scenarios(world), out, on_done=lambda r: write_tables(r.done, out))
    return report, out, seen


@pytest.fixture(scope="module")
def first(made):
    return made[0].done[0]


@pytest.fixture(scope="module")
def literature(world, made):
    from autosplit.core.cache import Cache

    return prepare(world.scenario(codecs=LITERATURE_CODECS), cache=Cache(world.cache))


# --- who takes part -------------------------------------------------------------------------------------------------


def test_every_baseline_has_a_row_in_every_scenario(made):
    report = made[0]
    assert report.failed == []
    for comparison in report.done:
        assert [r.method for r in comparison.rows if r.method != FINALIST] == METHODS
        assert [r.chosen for r in comparison.rows] == [False] * (len(comparison.rows) - 1) + [True]
        assert set(comparison.measured) == set(METHODS)
        assert len({r.name for r in comparison.rows if r.method != FINALIST}) == len(METHODS)
        for r in comparison.rows:
            assert r.accuracy_low <= r.accuracy <= r.accuracy_high
            assert r.difference_low_points <= r.difference_points <= r.difference_high_points


def test_plans_of_the_literature(literature):
    found = {c.method: c.plans for c in codec_baselines(literature.supernet)}
    assert {(p.codec.family, p.codec.bits) for p in found["two-step"]} == {("jalad", 8)}
    assert {(p.split, p.sparsity) for p in found["two-step"]} == {
        (s, x) for s in literature.supernet.points for x in literature.supernet.plan_space.sparsities[s]}
    for family in LITERATURE_CODECS:
        assert {p.codec.family for p in found[family]} == {family}
        assert {p.sparsity for p in found[family]} == {0.0}
        expected = {(s, c) for s in literature.supernet.points for c in literature.supernet.codec(s, family).settings()}
        assert {(p.split, p.codec) for p in found[family]} == expected


def test_entropic_student_has_its_own_encoder_and_every_rate(world, made):
    from autosplit.core.cache import Cache

    supernet = prepare(student_scenario(world.scenario()), cache=Cache(world.cache)).supernet
    plans = student_baseline(supernet).plans
    assert {p.head for p in plans} == {"injected"}
    assert {p.sparsity for p in plans} == {0.0}
    assert {p.split for p in plans} == set(supernet.points)
    for split in supernet.points:
        assert [p.codec.rate for p in plans if p.split == split] == list(range(8))
    assert {s["encoder"] for s in supernet.structures.values()} == {"entropic-student"}


def test_the_uniform_plan_is_nearest_to_the_ratio(prepared):
    supernet = prepared.supernet
    plans = uniform_baseline(supernet).plans
    assert {p.split for p in plans} == set(supernet.points)
    assert {(p.sparsity, p.codec.bits) for p in plans} == {(0.5, 2)}  # of 2 and 8 bits, 2 are nearer to 4

    def away(split, setting):
        codec = supernet.codec(split)
        ratio = 32 * math.prod(codec.shape) / (setting.bits * math.prod(codec.code_shape(setting)))
        return abs(math.log(ratio / 64))

    for plan in plans:
        least = min(away(plan.split, s) for s in supernet.codec(plan.split).settings() if s.bits == 2)
        assert away(plan.split, plan.codec) == pytest.approx(least)


# --- by which rules -------------------------------------------------------------------------------------------------


def test_no_baseline_measures_more_than_a_search_or_what_is_late(made, literature):
    evaluator = LiveEvaluator(literature)
    for comparison in made[0].done:
        scorer = Scorer.of(comparison.scenario)
        for method in METHODS[5:9]:
            plans = [m.plan for m in comparison.measured[method]]
            assert 1 <= len(plans) <= 6
            assert scorer.affordable(evaluator.workloads(plans)) == list(range(len(plans)))


def test_nothing_is_measured_or_fine_tuned_twice_in_a_list(made):
    _, _, seen = made
    assert set(seen.measured.values()) == {1}
    assert set(seen.tuned.values()) <= {1}
    assert seen.tuned
    assert sorted(seen.networks) == sorted([("nested",), LITERATURE_CODECS, ("factorised",)])


def test_test_images_are_read_for_chosen_plans_only(made):
    report, _, seen = made
    tested = {plan for plan, part in seen.read if part == "test"}
    assert {part for _, part in seen.read} == {"validation", "test"}
    assert {p.label for p in tested} <= {r.plan for c in report.done for r in c.rows}


def test_rows_are_what_the_deployments_do_in_the_devices_arithmetic(made, literature):
    for comparison, arithmetic in zip(made[0].done, ("int8", "fp32"), strict=True):
        row = next(r for r in comparison.rows if r.method == "two-step")
        plan = next(m.plan for m in comparison.measured["two-step"] if m.plan.label == row.plan)
        deployment = SearchContext(literature).deployment(plan, arithmetic)
        assert deployment.blueprint.arithmetic == arithmetic
        evaluation = deployment.evaluate(literature.data, "test")
        assert row.accuracy == evaluation.accuracy
        assert row.payload_bytes == evaluation.payload_mean


def test_the_search_takes_part_as_it_is(first):
    result = Result.load(first.run / "best.json")
    ours, searched = first.rows[-1], result.comparison[-1]
    assert result.scenario == first.scenario.anchored()
    same = {"ratio_to_png", "ratio_to_jpeg", "speed_up"}
    assert ours.model_dump(exclude=same) == searched.model_dump(exclude=same)
    assert ours.accuracy_loss_points == pytest.approx(100 * (result.backbone_accuracy - ours.accuracy))
    agents = {m.plan for m in Ledger.read(first.run).measurements("F1")}
    assert agents <= {m.plan for m in first.measured["autosplit"]}


def test_speed_ups_are_over_all_baselines(first):
    fair = [r.latency.p95_ms for r in first.rows if r.baseline and r.accuracy_loss_points <= 1]
    assert [r.speed_up for r in first.rows] == pytest.approx([min(fair) / r.latency.p95_ms for r in first.rows])


def test_scenarios_share_networks_unless_something_else_differs(world):
    one, other = scenarios(world)
    assert networks_key(one) == networks_key(other)
    assert networks_key(one) == networks_key(one.replace(**{"name": "x", "search.agent": "ppo", "search.finalists": 2}))
    for change in ({"search.seed": 1}, {"codecs": ("jalad",)}, {"training.finetune_epochs": 3},
                   {"space.sparsities": (0.0,)}, {"search.validation_images": 9}):
        assert networks_key(one) != networks_key(one.replace(**change))


def test_a_second_comparison_does_nothing_again(world, made, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    report, out, _ = made
    monkeypatch.setattr(LiveEvaluator, "_measure", forbidden)
    monkeypatch.setattr(context, "finetune", forbidden)
    monkeypatch.setattr(context.Deployment, "evaluate", forbidden)
    monkeypatch.setattr(run, "search_scenario", forbidden)
    again = compare(scenarios(world), out)
    assert [c.rows for c in again.done] == [c.rows for c in report.done]
    assert again.done[0].measured == report.done[0].measured


def test_a_run_that_was_interrupted_goes_on(world, made, tmp_path, monkeypatch):
    """The search was killed before its result: the next call resumes it in its folder."""
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    report, out, _ = made
    (out / "runs" / report.done[1].run.name / "best.json").unlink()
    again = compare(scenarios(world)[1:], out)
    assert again.done[0].rows == report.done[1].rows


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_names_are_checked_before_anything_is_done(world, tmp_path):
    wrong = scenarios(world)[0].replace(**{"search.agent": "pppo"})
    with pytest.raises(UnknownNameError, match="did you mean 'ppo'"):
        compare([scenarios(world)[0], wrong], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_scenario_that_fails_leaves_the_others(world, made, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    report, out, _ = made
    good = scenarios(world)[0]
    lost = good.replace(dataset="image-folder:/nowhere")
    kept = []
    found = compare([lost, good], out, on_done=lambda r: kept.append(len(r.done)))
    assert [c.rows for c in found.done] == [report.done[0].rows]
    assert [f.scenario for f in found.failed] == [lost]
    assert "no such folder as /nowhere" in str(found.failed[0].error)
    assert kept == [1]
    with pytest.raises(DataError, match="no such folder"):
        compare([lost, lost], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_no_place_to_write(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose a folder you may write to with --out"):
        compare(scenarios(world), tmp_path / "file" / "out")


# --- what it writes -------------------------------------------------------------------------------------------------


def test_tables(made):
    report, out, _ = made
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    wanted = [r for c in report.done for r in c.rows]
    assert len(rows) == len(wanted)
    assert [r["method"] for r in rows if r["method"] != FINALIST] == METHODS * 2
    assert list(dict.fromkeys((r["device"], r["channel"]) for r in rows)) == [("stm32l4r5", "sub-ghz-fsk-50k"),
                                                                             ("raspberry-pi-4", "ble-1m")]
    for name in ("accuracy", "payload_bytes", "device_macs", "in_time_accuracy", "ratio_to_jpeg", "speed_up"):
        written = [float(r[name]) if r[name] else None for r in rows]
        assert written == [getattr(r, name) for r in wanted]
    assert [float(r["p95_ms"]) for r in rows] == [r.latency.p95_ms for r in wanted]
    page = (out / "comparison.md").read_text()
    assert page.count("| **autosplit** |") == 2
    assert "| stm32l4r5, sub-ghz-fsk-50k, 60 ms |" in page
    assert "in-time-rate.png" in page
    assert not list(out.glob(".*.tmp"))
    assert list(all_rows(report.done[:1]).columns) == list(rows[0])


def test_figures(made, tmp_path):
    paths = draw_figures(made[0].done, tmp_path)
    assert [p.suffix for p in paths] == [".png", ".svg"] * 3
    for path in paths[::2]:
        image = imread(path)
        assert min(image.shape[:2]) > 600
        assert (image[:, :, :3].min(axis=2) < 0.9).mean() > 0.01


# --- curves ---------------------------------------------------------------------------------------------------------


def test_frontiers_hold_the_best_accuracy_with_at_most_so_many_bytes(made):
    (panel,) = payload_panels(made[0].done)  # both scenarios share their networks
    dots = {s.name: s.points for s in panel.dots}
    assert set(dots) == {*LOSSY_IMAGES, "nested", "entropic", *LITERATURE_CODECS}
    for series in panel.lines:
        payloads, accuracies = zip(*series.points, strict=True)
        assert list(payloads) == sorted(payloads)
        assert list(accuracies) == sorted(accuracies)
        for payload, accuracy in dots[series.name]:
            reached = [a for p, a in series.points if p <= payload]
            assert reached[-1] >= accuracy
        assert set(series.points[:-1]) <= set(dots[series.name])
    assert {s.name for s in panel.marks} == set(METHODS) - {"device", "device-pruned"}


def test_latency_panels_show_the_rows(made):
    panels = latency_panels(made[0].done)
    assert [p.title for p in panels] == titles(made[0].done) == ["stm32l4r5, sub-ghz-fsk-50k, 60 ms",
                                                                "raspberry-pi-4, ble-1m, 60 ms"]
    for panel, comparison in zip(panels, made[0].done, strict=True):
        assert panel.limit == 60
        assert [s.points[0] for s in panel.marks] == [(r.latency.p95_ms, r.accuracy) for r in comparison.rows
                                                      if r.method != FINALIST]


def test_faster_links_are_never_worse_and_the_own_rate_is_the_scenarios(first):
    (panel,) = rate_panels([first])
    assert panel.limit == 50
    scorer = Scorer.of(first.scenario)
    for series in panel.lines:
        rates, values = (np.array(column) for column in zip(*series.points, strict=True))
        assert (np.diff(rates) > 0).all()
        assert rates[-1] / rates[0] == pytest.approx(900)
        assert (np.diff(values) >= -1e-12).all()
        pool = first.measured[series.name]
        best = max(m.accuracy * scorer.latency(m).in_time for m in pool)
        assert values[np.argmin(abs(rates - 50))] == pytest.approx(best)
    device = next(s for s in panel.lines if s.name == "device")
    assert len({y for _, y in device.points}) == 1


def test_scaling_changes_the_rates_alone(first):
    before = first.scenario.conditions
    after = scaled_rate(before, 4.0)
    assert after.channel.uplink_kbps.value == 4 * before.channel.uplink_kbps.value
    assert after.channel.downlink_kbps.value == 4 * before.channel.downlink_kbps.value
    same = {"uplink_kbps", "downlink_kbps"}
    assert after.channel.model_dump(exclude=same) == before.channel.model_dump(exclude=same)
    assert after.model_dump(exclude={"channel"}) == before.model_dump(exclude={"channel"})
