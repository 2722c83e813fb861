"""Replay: exact here, and one line that names the figure or the file where it is not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import autosplit.pipeline.replay as module
from autosplit.core.errors import ReplayMismatchError
from autosplit.pipeline.replay import replay
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from tests.runs import KINDS, failure, invoke, messages


@pytest.fixture
def copy(world, tmp_path):
    """Result and weights alone, which may be spoilt."""
    for name in ("best.json", "best.safetensors"):
        shutil.copy(world.run / name, tmp_path / name)
    return tmp_path / "best.json"


def alter(path, **values):
    """Set dotted keys of a JSON file."""
    data = json.loads(path.read_text())
    for key, value in values.items():
        *parents, leaf = key.split("__")
        node = data
        for part in parents:
            node = node[part]
        node[leaf] = value(node[leaf]) if callable(value) else value
    path.write_text(json.dumps(data))


def mismatch(path):
    run = invoke("replay", path)
    assert run.exit_code == 4
    assert len(messages(run)) == 1
    return messages(run)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plan_replays_exactly(runs, kind):
    played = replay(runs[kind] / "best.json")
    played.check()
    assert played.exact
    assert played.latency == played.recorded


def test_result_and_weights_are_all_it_needs(copy):
    run = invoke("replay", copy, "--json")
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["exact"] is True


# --- files that are not what they were ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_result(copy, keep):
    text = copy.read_text()
    copy.write_text(text[: int(keep * len(text)) if keep < 1 else keep])
    assert "best.json: not valid JSON, probably truncated" in failure("replay", copy)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b'"text"'])
def test_json_that_is_no_result(copy, content):
    copy.write_bytes(content)
    assert "best.json: schema version None" in failure("replay", copy)


def test_bytes_that_are_no_text(copy):
    copy.write_bytes(b"\xff\xfe\x00\x01")
    assert "best.json: not UTF-8 text" in failure("replay", copy)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version(copy, version):
    alter(copy, schema_version=version)
    line = failure("replay", copy)
    assert f"best.json: schema version {version!r}, this autosplit reads version 1" in line


@pytest.mark.parametrize(("changes", "where"), [
    ({"test__images": "many"}, "test.images"),
    ({"plan__codec__bits": 99}, "plan.codec.bits"),
    ({"comparison": []}, "comparison: exactly one row"),
    ({"colour": "red"}, "colour"),
])
def test_values_that_make_no_sense(copy, changes, where):
    if "colour" in changes:
        data = json.loads(copy.read_text())
        copy.write_text(json.dumps(data | changes))
    else:
        alter(copy, **changes)
    assert f"best.json: {where}" in failure("replay", copy)


def test_missing_weights(copy):
    copy.with_name("best.safetensors").unlink()
    assert "best.json: weights 'best.safetensors' are missing" in failure("replay", copy)


@pytest.mark.parametrize("place", [100, -1])
def test_altered_weights(copy, place):
    weights = copy.with_name("best.safetensors")
    content = bytearray(weights.read_bytes())
    content[place] ^= 1
    weights.write_bytes(bytes(content))
    assert "best.safetensors' were altered" in failure("replay", copy)


def test_another_split_point(runs, tmp_path):
    for name in ("best.json", "best.safetensors"):
        shutil.copy(runs["Code"] / name, tmp_path / name)
    alter(tmp_path / "best.json", deployment__blueprint__plan__split="layer9")
    assert "unknown split point 'layer9'" in failure("replay", tmp_path)


def test_altered_data(copy, world, tmp_path):
    shutil.copytree(world.pictures, tmp_path / "pictures")
    alter(copy, scenario__dataset=f"image-folder:{tmp_path / 'pictures'}")
    assert invoke("replay", copy).exit_code == 0
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "pictures" / "red" / "000.png")
    assert "differs from the recorded one" in failure("replay", copy, code=4)
    shutil.rmtree(tmp_path / "pictures")
    assert "no such folder" in failure("replay", copy)


# --- figures that are not what they were ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def once():
    """Networks and evaluations are made once for all files that differ in their figures alone."""
    made = {}

    def cached(function, key):
        def call(*args, **kwargs):
            place = (function.__name__, *key(*args))
            if place not in made:
                made[place] = function(*args, **kwargs)
            return made[place]
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "untrained", cached(module.untrained, lambda s, *_: (s.dataset, s.backbone)))
        patch.setattr(Deployment, "evaluate", cached(Deployment.evaluate, lambda self, _, part: (
            self.blueprint.key, self.plan, part)))
        yield


FALSIFIED = {
    "plan.sparsity": 0.25, "plan.split": "layer2", "plan.codec.bits": 4, "plan.codec.width": 8,
    "deployment.blueprint.backbone": None,
    "outcome.measurement.accuracy": 0.999, "outcome.measurement.images": 7,
    "outcome.measurement.workload.device.conv_macs": 5.0, "outcome.measurement.workload.payload_bytes_mean": 3.0,
    "outcome.measurement.workload.payload_bytes_p95": 3.0, "outcome.measurement.plan.sparsity": 0.0,
    "outcome.measurement.feature_bytes": 12.0, "outcome.latency.p50_ms": 1.0, "outcome.latency.p95_ms": 1.0,
    "outcome.latency.p99_ms": 1.0, "outcome.latency.in_time": 0.5, "outcome.latency.energy_mj": 0.01,
    "outcome.latency.uplink_ms": 0.5, "outcome.budget_ms": 5.0, "outcome.reward": 0.9999,
    "backbone_accuracy": 0.1, "test.correct": 7, "test.images": 96, "test.payload_bytes_total": 9,
    "test.payload_bytes_p95": 2.0, "test.payload_sha256": "0" * 64,
    "comparison.-1.accuracy": 1.0, "comparison.-1.plan": "layer2 | 0 % | q1", "comparison.-1.payload_bytes": 3.0,
    "comparison.-1.device_macs": 7.0, "comparison.-1.latency.p50_ms": 1.0, "comparison.-1.latency.energy_mj": 0.1,
    "comparison.-1.ratio_to_feature": 1e4, "comparison.-1.ratio_to_png": 1e4, "comparison.-1.speed_up": 99.0,
    "comparison.-1.accuracy_loss_points": -3.0, "comparison.0.latency.p95_ms": 9e3, "comparison.0.device_macs": 1.0,
    "comparison.1.payload_bytes": 9e4, "comparison.1.latency.p95_ms": 9e3, "comparison.2.payload_bytes": 9e4,
    "provenance.seed": 5, "provenance.agent": "tpe", "provenance.supernet_key": "0" * 16,
    "provenance.backbone_key": "0" * 16, "provenance.data_fingerprint": "0" * 16,
    "tolerance.accuracy_points": 1e9, "tolerance.payload_percent": 1e9,
}


def falsified(path, field, value):
    """Write another value to a dotted field; `None` = another one of the same kind."""
    data = json.loads(path.read_text())
    *parents, leaf = field.split(".")
    node = data
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    before = node[leaf]
    assert before != value
    node[leaf] = value if value is not None else before + 1 if isinstance(before, (int, float)) else before + "x"
    path.write_text(json.dumps(data))
    return before


@pytest.mark.parametrize("field", FALSIFIED)
def test_a_falsified_figure_is_named_with_both_values(runs, tmp_path, once, field):
    for name in ("best.json", "best.safetensors"):
        shutil.copy(runs["CodePruned"] / name, tmp_path / name)
    if field == "deployment.blueprint.backbone":
        field, value = "scenario.backbone", "resnet8"  # a result of another network than its deployment's
    else:
        value = FALSIFIED[field]
    falsified(tmp_path / "best.json", field, value)
    with pytest.raises(ReplayMismatchError) as caught:
        replay(tmp_path / "best.json").check()
    message, leaf = str(caught.value), field.rpartition(".")[2]
    assert caught.value.exit_code == 4
    assert leaf in message
    assert "(recorded " in message
    if value is not None:
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        assert shown[:60] in message


def test_the_files_own_tolerances_forgive_nothing(copy, once):
    alter(copy, test__correct=7, tolerance__accuracy_points=1e9, tolerance__payload_percent=1e9)
    line = mismatch(copy)
    assert "test.correct" in line
    assert "tolerance.accuracy_points" in line


def test_what_cannot_be_made_again_is_said_to_be_unchecked(runs, once):
    run = invoke("replay", runs["CodePruned"], "--json", "--quiet")
    assert run.exit_code == 0, run.stderr
    said = json.loads(run.stdout)
    assert {"provenance.seconds", "provenance.versions", "comparison.png.accuracy"} <= set(said["not_checked"])
    checked = ("plan", "test", "outcome.latency", "tolerance")
    assert not [name for name in said["not_checked"] if name.startswith(checked)]
    text = invoke("replay", runs["CodePruned"]).stdout
    assert "not checked" in text
    assert "provenance.seconds" in text


def test_another_machine_is_given_what_its_arithmetic_explains(runs, tmp_path, once):
    for name in ("best.json", "best.safetensors"):
        shutil.copy(runs["CodePruned"] / name, tmp_path / name)
    path = tmp_path / "best.json"
    alter(path, provenance__processor="another", test__payload_sha256="0" * 64,
          test__payload_bytes_total=lambda n: n + 1)
    played = replay(path)
    assert not played.exact
    assert {d.field for d in played.differences} == {"test.payload_bytes_total", "test.payload_sha256"}
    played.check()
    alter(path, test__payload_bytes_total=lambda n: 2 * n)
    with pytest.raises(ReplayMismatchError, match="payload_bytes_total"):
        replay(path).check()


def test_figures_stand_on_stdout_before_the_mismatch_is_told(copy):
    alter(copy, test__correct=lambda n: n - 2)
    run = invoke("replay", copy, "--json", "--quiet")
    assert run.exit_code == 4
    said = json.loads(run.stdout)
    assert said["exact"] is False
    assert said["test_accuracy"] == pytest.approx(said["recorded_test_accuracy"] + 2 / 48)


# --- somewhere else -------------------------------------------------------------------------------------------------


def test_replay_and_export_work_from_any_folder(world, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    monkeypatch.chdir(world.root)
    scenario = world.scenario(search__agent="agents.py:Png", search__evaluations=1, conditions__budget_ms=1e4,
                              backbone="net.py:network", dataset="image-folder:pictures")
    search(scenario, tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert invoke("replay", tmp_path / "run").exit_code == 0
    assert invoke("export", "../run", "--out", "bundle", "--images", "4", "--quiet").exit_code == 0
    assert invoke("search", "--resume", "../run", "--quiet").exit_code == 0
