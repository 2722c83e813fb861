"""Replay: exact here, and one line that names the figure or the file where it is not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from autosplit.core.errors import ReplayMismatchError
from autosplit.pipeline.replay import replay
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
    assert "best.json: not valid JSON" in failure("replay", copy)


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
    assert "differs from the recorded one" in failure("replay", copy)
    shutil.rmtree(tmp_path / "pictures")
    assert "no such folder" in failure("replay", copy)


# --- figures that are not what they were ----------------------------------------------------------------------------


def test_another_accuracy(copy):
    alter(copy, test__correct=lambda n: n + 1)
    line = mismatch(copy)
    assert "error: replay differs from the record: test accuracy " in line
    assert "payload" not in line


def test_another_payload(copy):
    alter(copy, test__payload_bytes_total=lambda n: 2 * n)
    line = mismatch(copy)
    assert "differs from the record: payload " in line
    assert "accuracy" not in line


def test_another_latency(copy):
    data = json.loads(copy.read_text())
    data["comparison"][-1]["latency"]["p50_ms"] *= 1.1
    copy.write_text(json.dumps(data))
    assert "differs from the record: median latency " in mismatch(copy)


def test_another_number_of_images(copy):
    alter(copy, test__images=lambda n: 2 * n, test__correct=lambda n: 2 * n)
    assert "48 test images (recorded 96)" in mismatch(copy)


def test_figures_stand_on_stdout_before_the_mismatch_is_told(copy):
    alter(copy, test__correct=lambda n: n - 2)
    run = invoke("replay", copy, "--json", "--quiet")
    assert run.exit_code == 4
    said = json.loads(run.stdout)
    assert said["exact"] is False
    assert said["test_accuracy"] == pytest.approx(said["recorded_test_accuracy"] + 2 / 48)


def test_within_the_tolerance_is_no_mismatch(copy):
    alter(copy, test__payload_bytes_total=lambda n: n + 1, test__payload_sha256="0" * 64)
    alter(copy, tolerance__payload_percent=1.0)
    played = replay(copy)
    assert not played.exact
    played.check()
    alter(copy, tolerance__payload_percent=0.0)
    with pytest.raises(ReplayMismatchError, match="payload"):
        replay(copy).check()
