"""Run directories of strangers: no command runs the code that one of their files names, unless it is told to."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from autosplit.core import trust
from tests.runs import invoke, messages

FIELDS = {
    "backbone": (("deployment", "blueprint", "backbone"),),
    "scenario": (("scenario", "backbone"),),
    "latency model": (("scenario", "latency_model"),),
    "agent": (("scenario", "search", "agent"),),
    "codec": (("deployment", "blueprint", "plan", "codec", "family"), ("scenario", "codecs", 0)),
}


@pytest.fixture
def foreign(runs, tmp_path, monkeypatch):
    """Makes a run whose files name code in one field; the code leaves a mark."""
    monkeypatch.setattr(trust, "_named", {})
    monkeypatch.setattr(trust, "_vouched", set())

    def make(field):
        run = tmp_path / "theirs"
        shutil.copytree(runs["Code"], run)
        (run / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef f(*a, **k): raise SystemExit(7)\n")
        result = json.loads((run / "best.json").read_text())
        scenario = yaml.safe_load((run / "scenario.yaml").read_text())
        for path in FIELDS[field]:
            for data in (result, {"scenario": scenario}):
                node = data
                for part in path[:-1]:
                    node = node.get(part) if isinstance(node, dict) else node
                    if node is None:
                        break
                else:
                    node[path[-1]] = f"{run / 'evil.py'}:f"
        (run / "best.json").write_text(json.dumps(result))
        (run / "scenario.yaml").write_text(yaml.safe_dump(scenario))
        return run

    return make


@pytest.mark.parametrize("field", FIELDS)
def test_no_command_runs_it(foreign, field, tmp_path):
    run = foreign(field)
    for command in (["replay", run], ["show", run], ["report", run, "--out", tmp_path / "r.html"],
                    ["export", run, "--out", tmp_path / "b", "--images", "10"], ["search", "--resume", run],
                    ["adapt", run, "--out", tmp_path / "a"],
                    ["search", "--scenario", run / "scenario.yaml", "--dry-run"],
                    ["search", "--scenario", run / "scenario.yaml", "--out", tmp_path / "new"]):
        if field == "backbone" and "scenario" in str(command):
            continue
        if field == "codec" and command[0] == "search":
            continue
        if field in ("agent", "latency model", "codec") and "--dry-run" in command:
            continue
        done = invoke(*command)
        assert not (tmp_path / "mark").exists(), command
        assert done.exception is None or isinstance(done.exception, SystemExit), command
        assert not (tmp_path / "new").exists()
        refused = [line for line in messages(done) if "--trust-code" in line]
        if done.exit_code == 2 and refused:
            assert "evil.py" in refused[0]
            assert len(refused[0]) <= 500


@pytest.mark.parametrize("field", ["backbone", "latency model"])
def test_trust_code_runs_it(foreign, field, tmp_path):
    run = foreign(field)
    refused = invoke("replay", run)
    assert refused.exit_code == 2
    assert "--trust-code" in messages(refused)[-1]
    assert not (tmp_path / "mark").exists()
    invoke("replay", run, "--trust-code")
    assert (tmp_path / "mark").exists()


def test_ones_own_result_replays_without_being_asked(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_named", {})
    monkeypatch.setattr(trust, "_vouched", set())
    monkeypatch.chdir(tmp_path)
    assert invoke("replay", runs["Code"]).exit_code == 0
