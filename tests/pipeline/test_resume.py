"""A search that is killed or finished, and goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from autosplit.core.errors import ResumeError
from autosplit.core.result import Result
from autosplit.core.scenario import Scenario
from autosplit.evaluation.live import LiveEvaluator
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from autosplit.pipeline.search import search_scenario as search
from tests.runs import PROGRESS, f1_plans, invoke, messages

SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from autosplit.evaluation.live import LiveEvaluator
real = LiveEvaluator._measure
def slow(self, plan):
    time.sleep(0.25)
    return real(self, plan)
LiveEvaluator._measure = slow
from autosplit.cli import main
main()
"""


@contextmanager
def slow_search(world, *args):
    """A process of its own whose measurements take a while; gone in the end whatever happens."""
    command = [sys.executable, "-c", SLOW, "search", *map(str, args)]
    environment = os.environ | {"AUTOSPLIT_CACHE": str(world.cache), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_records(process, run, count):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        if (run / LEDGER_FILE).exists() and (run / LEDGER_FILE).read_text().count('"measurement"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the search did not get there")


@pytest.fixture(scope="module")
def interrupted(world, tmp_path_factory):
    """A run that was stopped by Ctrl-C, resumed, and killed with SIGKILL, all in the middle of measuring."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    changes = ("--scenario", world.root / "tiny.yaml", "--agent", world.agent("Quick"), "--evaluations", 16)
    with slow_search(world, *changes, "--no-reuse", "--out", run) as process:
        wait_for_records(process, run, 2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
        code = process.returncode
    before = Ledger.read(run).measurements("F1")
    with slow_search(world, "--resume", run, "--no-reuse") as process:
        wait_for_records(process, run, len(before) + 5)
        process.kill()
        process.wait()
    return run, code, said, before, Ledger.read(run).measurements("F1")


def test_ctrl_c_leaves_with_130_and_says_how_to_go_on(interrupted):
    run, code, said, before, _ = interrupted
    assert code == 130
    assert said.splitlines()[-1] == f"interrupted; every finished measurement is kept: autosplit search --resume {run}"
    assert "Traceback" not in said
    assert 2 <= len(before) < 16


def test_show_of_an_unfinished_run(interrupted):
    run, *_, killed = interrupted
    shown = json.loads(invoke("show", run, "--json").stdout)
    assert shown["finished"] is False
    assert shown["measurements"] == len(killed)
    assert f"{len(killed)} of 16 measurements, not finished" in invoke("show", run).stdout


def test_replay_of_an_unfinished_run(interrupted):
    run = invoke("replay", interrupted[0])
    assert run.exit_code == 2
    assert "no such result file" in messages(run)[0]


def test_resume_refuses_another_scenario(interrupted):
    run = interrupted[0]
    refused = invoke("search", "--resume", run, "--budget-ms", 50)
    assert refused.exit_code == 5
    assert len(messages(refused)) == 1
    assert "conditions.budget_ms was 100.0, now 50.0" in refused.stderr


def test_resume_loses_nothing_and_ends_as_if_never_killed(interrupted, warm, tmp_path, monkeypatch):
    run, _, _, before, killed = interrupted
    assert len(before) + 5 <= len(killed) < 16
    assert killed[: len(before)] == before
    measured = []
    real = LiveEvaluator._measure

    def recording(self, plan):
        measured.append(plan)
        return real(self, plan)

    monkeypatch.setattr(LiveEvaluator, "_measure", recording)
    done = invoke("search", "--resume", run, "--no-reuse", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["evaluations"] == 16
    resumed = Ledger.read(run).measurements("F1")
    assert resumed[: len(killed)] == killed
    assert len(resumed) == len({m.plan for m in resumed}) == 16
    assert not {m.plan for m in killed if m.plan.codec.kind == "code"} & set(measured)

    whole = search(Scenario.from_yaml((run / "scenario.yaml").read_text()), tmp_path / "whole", reuse=False)
    straight = Ledger.read(tmp_path / "whole").measurements("F1")
    assert [m.plan for m in resumed] == [m.plan for m in straight]
    assert [m.accuracy for m in resumed] == [m.accuracy for m in straight]
    assert Result.load(run / "best.json").plan == whole.plan
    assert Result.load(run / "best.json").test == whole.test


def test_a_finished_run_resumes_with_a_larger_budget(warm, tmp_path):
    agent = {"search.agent": warm.agent("Quick")}
    search(warm.scenario(search__evaluations=4).replace(**agent), tmp_path / "run")
    first = f1_plans(tmp_path / "run")
    more = search(warm.scenario(search__evaluations=9).replace(**agent), tmp_path / "run", resume=True)
    assert more.provenance.evaluations == 9
    assert f1_plans(tmp_path / "run")[:4] == first
    assert len(f1_plans(tmp_path / "run")) == 9


def test_search_refuses_a_folder_that_holds_a_run(world):
    with pytest.raises(ResumeError, match=f"--resume {world.run}"):
        search(world.scenario(), world.run)


# --- nothing that happens makes a run worse ---------------------------------------------------------------------------


def content(run):
    return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and not p.name.startswith(".")}


def refused(*args, code):
    """The message of a resume that ends before anything is trained or measured."""
    run = invoke("search", "--resume", *args)
    assert run.exit_code == code, run.stderr
    done = [line for line in run.stderr.splitlines() if PROGRESS.fullmatch(line)]
    assert not [line for line in done if not line.startswith(("load data", "look into the network"))]
    return messages(run)[-1]


def test_a_full_disk_leaves_a_run_that_opens_and_goes_on(warm, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(warm.run, run)
    before = content(run)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("autosplit.core.files.os.fsync", full)
        assert "No space left on device" in refused(run, code=2)
    assert content(run) == before
    assert invoke("show", run).exit_code == 0
    assert invoke("search", "--resume", run, "--quiet").exit_code == 0


def test_new_weights_lie_beside_those_that_the_result_names(warm, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(warm.run, run)
    before, weights = content(run), Result.load(run).stored.weights
    other = warm.scenario(search__agent=warm.agent("Whole"), search__evaluations=1)
    search(other, tmp_path / "other")
    monkeypatch.setattr("autosplit.runtime.deployment.Deployment.to_bytes",
                        lambda self: (tmp_path / "other" / "best.safetensors").read_bytes())
    monkeypatch.setattr(Result, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # killed in between
    with pytest.raises(KeyboardInterrupt):
        search(warm.scenario(), run, resume=True)
    assert (run / weights).read_bytes() == before[weights]
    assert (run / "best.json").read_bytes() == before["best.json"]


def test_changed_code_is_refused_before_training(world, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "empty"))
    shutil.copytree(world.run, tmp_path / "run")
    other = tmp_path / "net.py"
    other.write_text((world.root / "net.py").read_text().replace("width=4", "width=8"))
    message = refused(tmp_path / "run", "--backbone", f"{other}:network", code=5)
    assert "code.net.py:network was" in message


def test_changed_data_are_refused_before_training(world, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "empty"))
    shutil.copytree(world.run, tmp_path / "run")
    shutil.copytree(world.pictures, tmp_path / "pictures")
    moved = ("--dataset", f"image-folder:{tmp_path / 'pictures'}")
    (tmp_path / "pictures" / "red" / "000.png").unlink()
    assert "begun with other data or weights" in refused(tmp_path / "run", *moved, code=5)
