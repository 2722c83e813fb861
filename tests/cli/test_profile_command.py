"""`autosplit profile` on a machine whose every time follows a law, and a search's latencies on that machine."""

from __future__ import annotations

import json

import pytest

from autosplit.latency.profiling import run
from tests.latency.profiling.machines import NETWORK, LawfulClock
from tests.runs import failure, invoke, messages


@pytest.fixture(autouse=True)
def _lawful(monkeypatch):
    monkeypatch.setattr(run, "WallClock", LawfulClock)


@pytest.fixture
def network(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return f"{file}:network"


def test_people_read_the_error_and_machines_the_profile(network, tmp_path):
    out = tmp_path / "mine.yaml"
    shown = invoke("profile", "--backbone", network, "--image-shape", "3x32x32", "--threads", 1, "--out", out)
    assert shown.exit_code == 0, shown.stderr
    assert "depthwise" in shown.stdout
    assert "median error" in shown.stdout
    assert "1 thread of" in shown.stdout
    again = invoke("profile", "--backbone", network, "--image-shape", "3x32x32", "--threads", 1, "--out", out, "--json",
                   "--quiet")
    found = json.loads(again.stdout)
    assert found["timings"]["held_out"]["conv"]["shapes"] > 5
    assert messages(again) == []
    assert again.stderr == ""


@pytest.mark.parametrize(("options", "message"), [
    ((), "give either --image-shape"),
    (("--image-shape", "3x32x32", "--dataset", "digits-m"), "give either --image-shape"),
    (("--image-shape", "32x32"), "--image-shape '32x32': write it as"),
    (("--image-shape", "3x0x32"), "write it as channels x height x width"),
    (("--dataset", "digits-n"), "unknown data set 'digits-n'"),
])
def test_bad_options_are_one_line(network, tmp_path, options, message):
    assert message in failure("profile", "--backbone", network, "--out", tmp_path / "mine.yaml", *options)


def test_a_search_plans_with_the_machine(network, warm, tmp_path):
    out = tmp_path / "mine.yaml"
    assert invoke("profile", "--backbone", network, "--image-shape", "3x16x16", "--threads", 1, "--out", out,
                  "--quiet").exit_code == 0
    command = ("search", "--scenario", warm.root / "tiny.yaml", "--latency-model", "profiled", "--dry-run", "--json",
               "--quiet")
    shown = invoke(*command, "--device", out, "--edge", out)
    assert shown.exit_code == 0, shown.stderr
    assert "has timings; make them on that machine: autosplit profile" in failure(*command)
