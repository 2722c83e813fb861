"""A search end to end: what it writes, what it may look at, and that it is the same twice."""

from __future__ import annotations

import csv
import html
import json
import re
from collections import Counter
from contextlib import contextmanager

import jsonschema
import numpy as np
import pytest
from PIL import Image

from autosplit.agents.policy import CoInferencePolicy
from autosplit.core.errors import ConfigError, DataError, UnknownNameError
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.progress import NullProgress
from autosplit.core.result import Result, json_schema
from autosplit.core.scenario import Scenario
from autosplit.data import load_dataset
from autosplit.data.base import ImageDataset
from autosplit.data.stored import StoredFormat
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.latency import load_latency_model
from autosplit.pipeline import context
from autosplit.pipeline.baselines import LOSSY_IMAGES
from autosplit.pipeline.choice import cheapest_within_a_point
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import uncut
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from autosplit.training import prepare as prepare_module
from autosplit.training.loop import accuracy
from tests.runs import f1_plans, invoke, make_pictures, messages


@pytest.fixture(scope="module")
def result(world):
    return Result.load(world.run / "best.json")


# --- the run directory ----------------------------------------------------------------------------------------------


def test_run_directory(world, result):
    names = {p.name for p in world.run.iterdir()}
    assert names >= {"scenario.yaml", LEDGER_FILE, "best.json", "best.safetensors", "pareto.csv", "tradeoff.png",
                     "report.html"}
    assert (world.run / "policy").is_dir()
    recorded = Scenario.from_yaml((world.run / "scenario.yaml").read_text())
    assert recorded == result.scenario == world.scenario().anchored()
    with Image.open(world.run / "tradeoff.png") as picture:
        assert min(picture.size) > 200
    rows = list(csv.DictReader((world.run / "pareto.csv").open()))
    assert rows
    assert not [p for p in world.run.iterdir() if p.suffix == ".tmp"]


def test_best_json_is_what_its_schema_says(world):
    data = json.loads((world.run / "best.json").read_text())
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(data, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"plan": {"split": 3}}, json_schema())
    assert Result.model_validate(data).model_dump(mode="json") == data


def test_best_json_holds_no_path_of_the_run(world, result):
    assert result.stored.weights == "best.safetensors"
    assert str(world.run) not in (world.run / "best.json").read_text()
    assert str(world.cache) not in (world.run / "best.json").read_text()


def test_ledger_holds_the_budget_and_the_finalist(world, result, prepared):
    ledger = Ledger.read(world.run)
    plans = f1_plans(world.run)
    assert len(plans) == len(set(plans)) == result.provenance.evaluations == 8
    finalists = [m.plan for m in ledger.measurements("F3")]
    # one as asked for, the best split where that is none, a cheap split, and what was chosen, maybe from a baseline
    assert len(finalists) <= 4
    proxies = [o for o in ledger.outcomes() if o.measurement.fidelity == "F1" and o.plan.is_split and o.feasible]
    cheap = cheapest_within_a_point(proxies, Scorer.of(result.scenario))
    assert {plan for plan in finalists if plan.is_split and plan.codec.kind == "code"} == {
        best_outcome(proxies).plan, cheap.plan}
    assert result.outcome in ledger.outcomes()
    assert result.plan.label in result.choice.equals
    assert result.choice.images == len(prepared.data.validation)


def test_figures_agree_with_one_another(world, result):
    ours = result.comparison[-1]
    assert ours.chosen
    assert [r.chosen for r in result.comparison] == [False] * (len(result.comparison) - 1) + [True]
    assert [r.method for r in result.comparison if r.method != "finalist"] == [
        "device", "device-pruned", "png", "file", *LOSSY_IMAGES, "raw", "autosplit"]
    assert [r.name for r in result.comparison][:3] == [
        "whole network on device", "pruned network on device", "raw image (PNG)"]
    assert result.feasible == result.outcome.feasible == (result.outcome.latency.p95_ms <= 100)
    fair = [r for r in result.comparison if r.baseline and r.accuracy_loss_points <= 1]
    quickest = min(r.latency.p95_ms for r in fair)
    for row in result.comparison:
        assert row.feasible == (row.latency.p95_ms <= 100)
        assert row.speed_up == pytest.approx(quickest / row.latency.p95_ms)
        assert row.accuracy_loss_points == pytest.approx(100 * (result.backbone_accuracy - row.accuracy))
    assert result.comparison[2].accuracy == result.backbone_accuracy
    assert ours.accuracy == result.test.accuracy == result.test.correct / result.test.images
    assert ours.payload_bytes == pytest.approx(result.test.payload_bytes_total / result.test.images)
    assert result.test.images == 48
    assert result.outcome.measurement.fidelity == "F3"


def test_baselines_are_measured_as_they_would_run(world, result, prepared):
    """On this int8 device the whole network computes in int8; images go to the untouched network."""
    data, plans = prepared.data, {r.method: r for r in result.comparison}
    assert result.scenario.conditions.device.arithmetic == "int8"
    whole = SearchContext(prepared).deployment(Plan(split="output", codec=CodecSetting(kind="none")), "int8")
    assert plans["device"].accuracy == whole.evaluate(data, "test").accuracy
    assert plans["png"].accuracy == accuracy(prepared.backbone, data, data.test)
    assert plans["png"].payload_bytes == data.stored_bytes("test", StoredFormat("png")).double().mean()
    for method in LOSSY_IMAGES:
        quality, effort = (int(found[1]) if (found := re.search(rf"{name}(\d+)", plans[method].plan)) else 4
                           for name in ("q", "effort "))
        sizes = data.stored_bytes("test", StoredFormat(method, quality, effort))
        assert plans[method].payload_bytes == sizes.double().mean()
    assert plans["raw"].ratio_to_feature == 1
    # the user's own files, as long as they are on the disk
    assert plans["file"].payload_bytes == data.test.file_bytes.double().mean() > 0
    assert plans["file"].accuracy == plans["png"].accuracy


def test_latencies_are_the_models_own(result):
    model = load_latency_model("analytic")
    again = model.latency([result.outcome.measurement.workload], [result.scenario.conditions]).summary(0)
    assert again == result.outcome.latency


def test_policy_decides_from_the_files_alone(world, prepared):
    live = LiveEvaluator(prepared)
    policy = CoInferencePolicy.load(world.run / "policy", load_latency_model("analytic"))
    conditions = world.scenario(conditions__budget_ms=40.0).conditions
    assert policy.decide(conditions).plan in live.space.plans()


def test_weights_are_those_of_the_deployment(world, result):
    deployment = Deployment.from_result(result)
    assert isinstance(deployment, Deployment)
    assert deployment.plan == result.plan


# --- determinism ----------------------------------------------------------------------------------------------------


def test_same_seed_same_result_in_a_fresh_cache(world, result, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    again = search(world.scenario(), tmp_path / "run")
    assert again.plan == result.plan
    assert again.test == result.test
    assert again.stored == result.stored  # the very same weights
    assert again.comparison == result.comparison
    assert f1_plans(tmp_path / "run") == f1_plans(world.run)
    accuracies = [[m.accuracy for m in Ledger.read(run).measurements()] for run in (tmp_path / "run", world.run)]
    assert accuracies[0] == accuracies[1]


def test_a_second_search_takes_everything_from_the_cache(warm, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(LiveEvaluator, "_measure", forbidden)
    monkeypatch.setattr(context, "finetune", forbidden)
    again = search(warm.scenario(search__agent=warm.agent("Quick"), search__evaluations=5), tmp_path / "run")
    assert again.provenance.evaluations == 5


def test_another_seed_is_another_search(warm, tmp_path, result):
    other = search(warm.scenario(search__seed=1, search__agent="random"), tmp_path / "run")
    assert other.provenance.data_fingerprint != result.provenance.data_fingerprint
    assert other.provenance.backbone_key != result.provenance.backbone_key


# --- agents and budgets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["random", "exhaustive"])
def test_agents_without_learning(warm, tmp_path, agent):
    found = search(warm.scenario(search__agent=agent, search__evaluations=7), tmp_path / "run")
    plans = f1_plans(tmp_path / "run")
    assert len(plans) == len(set(plans)) == found.provenance.evaluations == 7
    assert not (tmp_path / "run" / "policy").exists()


def test_exhaustive_ends_where_nothing_is_left(warm, tmp_path):
    small = {"space.sparsities": (0.0,), "space.widths": (2,), "space.bits": (2,), "space.grid_levels": 1}
    scenario = warm.scenario(search__agent="exhaustive", search__evaluations=150, conditions__budget_ms=1e4)
    found = search(scenario.replace(**small), tmp_path / "run")
    # PNG, two JPEGs and their bodies, WebP at two efforts, AVIF, the whole network, and one code at each of stem,
    # layer1, layer2, layer3
    assert found.provenance.evaluations == 13
    assert len({p.split for p in f1_plans(tmp_path / "run")}) == 6


def test_no_plan_is_measured_twice_even_without_the_cache(warm, tmp_path, monkeypatch):
    seen = Counter()
    real = LiveEvaluator._measure

    def counting(self, plan):
        seen[plan] += 1
        return real(self, plan)

    monkeypatch.setattr(LiveEvaluator, "_measure", counting)
    scenario = warm.scenario(search__agent="exhaustive", search__evaluations=20, conditions__budget_ms=1e4)
    search(scenario, tmp_path / "run", reuse=False)
    assert set(seen.values()) == {1}
    assert len(seen) >= 20


def test_several_finalists_differ_in_their_heads(warm, tmp_path):
    search(warm.scenario(search__agent="random", search__evaluations=20, search__finalists=3), tmp_path / "run")
    plans = [m.plan for m in Ledger.read(tmp_path / "run").measurements("F3")]
    searched, heads = plans[:3], [(p.split, p.sparsity) for p in plans]
    assert len(set(heads[:3])) == 3
    assert sum(not uncut(p) for p in searched) >= 2
    assert any(p.is_split for p in plans)
    assert len(plans) == len(set(plans))


@pytest.mark.parametrize("key", ["space.whole_on_device", "space.whole_on_edge"])
def test_a_space_without_one_of_its_ends(warm, tmp_path, key):
    found = search(warm.scenario(search__agent="random").replace(**{key: False}), tmp_path / "run")
    end = "output" if key.endswith("device") else "input"
    assert end not in {p.split for p in f1_plans(tmp_path / "run")}
    methods = {row.method for row in found.comparison}
    assert methods >= {"device", "png", *LOSSY_IMAGES, "raw"}  # it is compared with all the same
    assert ("device-pruned" in methods) is (end == "input")
    assert found.plan.split != end  # and not chosen


def test_pictures_are_as_good_a_baseline_where_they_are_no_candidate(warm, tmp_path):
    with_pictures = warm.scenario(search__agent="random")
    without = with_pictures.replace(**{"space.whole_on_edge": False})
    rows = [{r.method: r.accuracy for r in search(s, tmp_path / str(i)).comparison if r.method in LOSSY_IMAGES}
            for i, s in enumerate((with_pictures, without))]
    assert rows[0] == rows[1]


def test_every_cut_may_be_searched(warm, tmp_path):
    found = search(warm.scenario(search__agent="random", space__splits="all"), tmp_path / "run")
    assert found.provenance.evaluations == 8


# --- data discipline ------------------------------------------------------------------------------------------------


class Watch(NullProgress):
    """Knows the phase that a search is in."""

    def __init__(self):
        self.phases = ["none"]

    @contextmanager
    def phase(self, title, total=None):
        self.phases.append(title)
        with super().phase(title, total) as advance:
            yield advance
        self.phases.pop()


def test_test_images_are_read_in_the_last_phase_only(warm, tmp_path, monkeypatch):
    watch, reads = Watch(), []

    class Guarded(ImageDataset):
        def __getattribute__(self, name):
            if name in {"test", "validation", "calibration", "train"}:
                reads.append((name, watch.phases[-1]))
            return super().__getattribute__(name)

    def load(*args, **kwargs):
        data = load_dataset(*args, **kwargs)
        object.__setattr__(data, "__class__", Guarded)
        return data

    monkeypatch.setattr(prepare_module, "load_dataset", load)
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    search(warm.scenario(search__agent="random", search__evaluations=4), tmp_path / "run", progress=watch)
    assert {phase for name, phase in reads if name == "test"} == {"read the test set"}
    chosen_on = {name for name, phase in reads if phase in {"search with random", "measure the baselines"}}
    assert "validation" in chosen_on
    trained_on = {name for name, phase in reads if phase.startswith("train the")}
    assert trained_on == {"train"}


def test_f1_uses_the_validation_images_asked_for(warm, tmp_path, prepared):
    search(warm.scenario(search__agent="random", search__evaluations=2, search__validation_images=10), tmp_path / "run")
    ledger = Ledger.read(tmp_path / "run")
    assert {m.images for m in ledger.measurements("F1")} == {10}
    assert {m.images for m in ledger.measurements("F3")} == {len(prepared.data.validation)}


def test_broken_files_and_unequal_shapes_are_told(warm, tmp_path, capsys):
    make_pictures(tmp_path / "pictures", 12)
    (tmp_path / "pictures" / "red" / "000.png").write_bytes(b"no picture")
    for i in range(1, 6):
        Image.fromarray(np.full((20 + i, 40, 3), 90, np.uint8)).save(tmp_path / "pictures" / "red" / f"{i:03d}.png")
    run = invoke("search", "--scenario", warm.root / "tiny.yaml", "--dataset", f"image-folder:{tmp_path / 'pictures'}",
                 "--image-size", 16, "--agent", "random", "--evaluations", 2, "--out", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    careful = [line for line in run.stdout.splitlines() if line.startswith("Careful: ")]
    assert any("skipped 1 of 36 files" in line and "red/000.png" in line for line in careful)
    assert any("resized" in line for line in careful)
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert all(warning in page for warning in Result.load(tmp_path / "run" / "best.json").warnings)


# --- nothing feasible -----------------------------------------------------------------------------------------------


def test_infeasible_budget(warm, tmp_path):
    scenario = ("--scenario", warm.root / "tiny.yaml", "--agent", "random")
    run = invoke("search", *scenario, "--budget-ms", 0.001, "--evaluations", 3, "--out", tmp_path / "run", "--quiet")
    assert run.exit_code == 3
    assert len(messages(run)) == 1
    assert "nothing is feasible within 0.001 ms" in run.stderr
    found = Result.load(tmp_path / "run" / "best.json")
    assert not found.feasible
    assert not any(row.feasible for row in found.comparison)
    assert found.comparison[-1].latency.p95_ms == min(row.latency.p95_ms for row in found.comparison)
    assert found.choice.equals == ()
    assert invoke("replay", tmp_path / "run").exit_code == 0


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"search.agent": "pppo"}, UnknownNameError, "unknown agent 'pppo'; did you mean 'ppo'"),
    ({"objective": "in-time"}, UnknownNameError, "unknown objective 'in-time'; did you mean 'in-time-accuracy'"),
    ({"latency_model": "analytics"}, UnknownNameError, "unknown latency model 'analytics'; did you mean 'analytic'"),
    ({"codecs": ("nestled",)}, UnknownNameError, "unknown codec 'nestled'; did you mean 'nested'"),
    ({"space.splits": ("layer1", "layr2")}, UnknownNameError, "unknown split point 'layr2'; did you mean 'layer2'"),
    ({"dataset": "digits"}, UnknownNameError, "unknown data set 'digits'; did you mean 'digits-m'"),
    ({"dataset": "image-folder:/nowhere"}, DataError, "no such folder as /nowhere"),
    ({"weights": "gone.safetensors"}, ConfigError, r"weights '/.*/gone\.safetensors': no such file"),
])
def test_errors_cost_no_training_and_leave_no_run_behind(world, tmp_path, monkeypatch, changes, error, message):
    def forbidden(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(prepare_module, "train_backbone", forbidden)
    monkeypatch.setattr(prepare_module, "train_supernet", forbidden)
    with pytest.raises(error, match=message):
        search(world.scenario().replace(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_held_something_stays(world, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        search(world.scenario(dataset="image-folder:/nowhere"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("spoil", [
    lambda content: content[:100],
    lambda content: content[:-5] + bytes([content[-5] ^ 64]) + content[-4:],
    lambda content: re.sub(rb'"accuracy": ?[0-9.]+', b'"accuracy":0.111', content),
], ids=["half", "one bit", "another accuracy"])
def test_a_spoilt_finalist_in_the_cache_is_made_again(warm, tmp_path, spoil):
    scenario = warm.scenario(search__agent=warm.agent("CodePruned"), conditions__budget_ms=1e4)
    before = search(scenario, tmp_path / "one")
    for file in (warm.cache / "finalists").iterdir():  # weights, and what was measured on them
        file.write_bytes(spoil(file.read_bytes()))
    after = search(scenario, tmp_path / "two")
    assert after.stored.sha256 == before.stored.sha256
    assert after.comparison == before.comparison


def test_a_cache_that_cannot_be_written_costs_time_only(world, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "file" / "cache"))
    search(world.scenario(search__agent="random", search__evaluations=2), tmp_path / "run")
    assert (tmp_path / "run" / "best.json").is_file()


def test_dropout_does_not_make_a_finalist_depend_on_what_was_drawn_before(warm, tmp_path, monkeypatch):
    import torch

    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def network(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),\n"
        "                         nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, num_classes))\n")
    scenario = warm.scenario(backbone=f"{tmp_path / 'net.py'}:network", search__agent="random", search__evaluations=2,
                             conditions__budget_ms=1e4, space__splits=("2",))
    scenario = scenario.replace(**{"space.whole_on_device": False, "space.whole_on_edge": False})
    hashes = []
    for draws in (0, 7):
        torch.manual_seed(draws)
        real = LiveEvaluator._measure

        def drawing(self, plan, real=real, draws=draws):
            torch.rand(draws)
            return real(self, plan)

        monkeypatch.setattr(LiveEvaluator, "_measure", drawing)
        hashes.append(search(scenario, tmp_path / f"run{draws}", reuse=False).stored.sha256)
        monkeypatch.setattr(LiveEvaluator, "_measure", real)
    assert hashes[0] == hashes[1]
