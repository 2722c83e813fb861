"""`autosplit bench link`: real processes over loopback, their table, and what it refuses."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from autosplit.experiments.emulation.bench import to_markdown
from tests.runs import failure, invoke

for package in ("onnx", "onnxruntime", "zmq"):
    pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")

QUICK = ("--loopback", "--images", "4", "--least", "1", "--channel", "wifi4")


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("links")
    return out, invoke("bench", "link", runs["CodePruned"], "--out", out, *QUICK)


def test_a_link_is_crossed_and_held_against_its_prediction(made):
    out, shown = made
    assert shown.exit_code == 0, shown.stderr
    frame = pd.read_csv(out / "links.csv")
    assert len(frame) == 1
    cell = frame.iloc[0]
    assert (cell.link, cell.images, cell.wrong) == ("wifi4", 4, 0)
    assert cell.p50_low_ms <= cell.p50_ms <= cell.p50_high_ms
    assert 0 < cell.encode_ms + cell.link_ms < cell.p95_ms * 2
    assert cell.timed_p50_error_percent == pytest.approx(100 * (cell.timed_p50_ms / cell.p50_ms - 1))
    assert cell.timed_p50_ms > 2, "the access delay of the link alone is that much"
    assert shown.stdout.strip() == (out / "links.md").read_text().strip() == to_markdown(frame)


def test_a_measured_cell_is_not_measured_again(made, runs):
    out, _ = made
    files = [*out.rglob("*.onnx"), *out.glob("*.npy"), *out.glob("bundle-1-*.csv")]
    times = [p.stat().st_mtime_ns for p in files]
    again = invoke("bench", "link", runs["CodePruned"], "--out", out, *QUICK, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)[0]["images"] == 4
    assert times == [p.stat().st_mtime_ns for p in files]


def test_stages_can_be_predicted_too(made, runs):
    out, _ = made
    shown = invoke("bench", "link", runs["CodePruned"], "--out", out, *QUICK, "--device", "stm32l4r5", "--edge",
                   "edge-cpu", "--latency-model", "analytic", "--json")
    assert shown.exit_code == 0, shown.stderr
    (cell,) = json.loads(shown.stdout)
    assert cell["predicted_p50_ms"] != cell["timed_p50_ms"]


def test_a_plan_without_a_link_is_refused(runs, tmp_path):
    assert "there is no link to measure" in failure("bench", "link", runs["Whole"], "--out", tmp_path, *QUICK)


def test_a_folder_of_other_results_is_refused(made, runs):
    assert "holds measurements of other results" in failure("bench", "link", runs["Png"], "--out", made[0], *QUICK)


def test_absent_results_and_channels_are_named(runs, tmp_path):
    assert "no such result file" in failure("bench", "link", tmp_path, "--out", tmp_path / "out", *QUICK)
    assert "unknown channel 'wifi5'" in failure("bench", "link", runs["CodePruned"], "--out", tmp_path, *QUICK[:-1],
                                                "wifi5")
