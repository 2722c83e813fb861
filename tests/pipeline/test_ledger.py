"""The ledger: exact round trips, survival of `kill -9`, exclusive use, and refusals that say why."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError, PluginError, ResumeError
from autosplit.core.measurement import LatencySummary, Measurement, Outcome, StageCost, Workload
from autosplit.core.parameters import Parameter
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.profiles import ChannelProfile, DeviceProfile
from autosplit.core.scenario import Scenario, SearchSpace
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from autosplit.pipeline.optuna_study import write_study


def _profile(kind, **fixed):
    figures = {n: {"value": 5.0, "source": "test"} for n, f in kind.model_fields.items() if f.annotation is Parameter}
    return kind(name="x", title="X", **figures, **fixed)


def make_scenario(budget_ms=100.0):
    device = _profile(DeviceProfile, arithmetic="int8")
    conditions = Conditions(device=device, edge=device, channel=_profile(ChannelProfile), budget_ms=budget_ms)
    return Scenario(name="tiny", backbone="resnet8", dataset="digits-m", conditions=conditions)


PLANS = [
    Plan(split="layer1", sparsity=0.1, codec=CodecSetting(kind="code", width=64, grid=4, bits=2)),
    Plan(split="layer2", sparsity=(0.1, 1 / 3), codec=CodecSetting(kind="code", width=2, grid=1, bits=8)),
    Plan(split="layer3", codec=CodecSetting(kind="raw")),
    Plan(split="input", codec=CodecSetting(kind="jpeg", quality=75)),
    Plan(split="input", codec=CodecSetting(kind="png")),
    Plan(split="output", codec=CodecSetting(kind="none")),
    Plan(split="input", codec=CodecSetting(kind="avif", quality=0, effort=0, downscale=2)),
]


def make_outcome(i, fidelity="F1", p95_ms=None, reward=None):
    plan = PLANS[i % len(PLANS)]
    work = Workload(plan=plan, device=StageCost(conv_macs=1e7 / 3 + i, operators=7), payload_bytes_mean=58.3 + i / 7,
                    payload_bytes_p95=1e-300, result_bytes=5e-324)
    measurement = Measurement(plan=plan, accuracy=(0.1 + 0.2 + i / 97) % 1, workload=work, feature_bytes=65536.0,
                              fidelity=fidelity, images=1024, seconds=0.1 * 3)
    latency = LatencySummary(device_ms=0.1 + 0.2, encode_ms=1 / 3, uplink_ms=2 / 3, edge_ms=1.7e308,
                             downlink_ms=1.1, p50_ms=70.0 + i, p95_ms=80.0 + i if p95_ms is None else p95_ms,
                             in_time=0.97, energy_mj=3.3)
    return Outcome(measurement=measurement, latency=latency, budget_ms=100.0,
                   reward=(i * 0.7) % 1 / 3 if reward is None else reward)


@pytest.fixture
def scenario():
    return make_scenario()


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "one"


def fill(run, scenario, count):
    with Ledger.create(run, scenario) as ledger:
        for i in range(count):
            ledger.record(make_outcome(i), "ppo", "F1")


def test_values_return_exactly_and_in_order(run, scenario):
    made = [make_outcome(i) for i in range(12)]
    with Ledger.create(run, scenario) as ledger:
        for i, outcome in enumerate(made):
            assert ledger.record(outcome, "ppo", "F1").sequence == i
        assert ledger.outcomes() == made
    with Ledger.open(run, scenario) as ledger:
        assert ledger.outcomes() == made
        assert ledger.measurements() == [o.measurement for o in made]
        assert [e.sequence for e in ledger.entries()] == list(range(12))
        assert {e.agent for e in ledger.entries()} == {"ppo"}
        assert len(ledger) == 12
        assert ledger.notes == ()


def test_recording_goes_on_after_reopening(run, scenario):
    fill(run, scenario, 2)
    with Ledger.open(run, scenario) as ledger:
        ledger.record(make_outcome(2, "F3"), "ppo")
    ledger = Ledger.read(run)
    assert ledger.outcomes() == [make_outcome(0), make_outcome(1), make_outcome(2, "F3")]
    assert len(ledger.measurements("F1")) == 2
    assert ledger.measurements("F3") == [make_outcome(2, "F3").measurement]
    assert ledger.scenario["backbone"] == "resnet8"


def test_optuna_reads_feasibility_and_parameters(run, scenario, tmp_path, capfd):
    with Ledger.create(run, scenario) as ledger:
        for i in range(len(PLANS)):
            ledger.record(make_outcome(i, p95_ms=90.0 + 5 * i), "ppo", "F1")
    level = optuna.logging.get_verbosity()
    write_study(ledger, tmp_path / "study.log")
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.study_name == "tiny"
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    # optuna-dashboard reads this very key
    assert [t.system_attrs["constraints"] for t in study.trials] == [[5.0 * i - 10.0] for i in range(len(PLANS))]
    assert [t.value for t in study.trials] == [make_outcome(i).reward for i in range(len(PLANS))]
    first, second, jpeg = study.trials[0], study.trials[1], study.trials[3]
    assert first.params == {"split": "layer1", "head": "pruned", "codec": "code", "sparsity": 0.1, "width": 64,
                            "grid": 4, "bits": 2}
    assert second.params["sparsity.1"] == 1 / 3
    assert jpeg.params["quality"] == 75
    assert {n: study.trials[6].params[n] for n in ("quality", "effort", "downscale")} == {"quality": 0, "effort": 0,
                                                                                          "downscale": 2}
    assert first.distributions["split"] == second.distributions["split"]
    assert (first.datetime_complete - first.datetime_start).total_seconds() == pytest.approx(0.3, abs=1e-3)


def test_best_prefers_feasible_then_fidelity_then_reward(run, scenario):
    with Ledger.create(run, scenario) as ledger:
        assert ledger.best is None
        late, later = make_outcome(0, p95_ms=120, reward=0.9), make_outcome(1, p95_ms=150, reward=0.95)
        ledger.record(later, "a")
        ledger.record(late, "a")
        assert ledger.best == late
        good, better = make_outcome(2, p95_ms=99, reward=0.5), make_outcome(3, p95_ms=100, reward=0.6)
        ledger.record(good, "a")
        ledger.record(better, "a")
        assert ledger.best == better
        ledger.record(make_outcome(4, "F3", p95_ms=101, reward=0.7), "a")
        assert ledger.best == better
        final = make_outcome(5, "F3", p95_ms=98, reward=0.55)
        ledger.record(final, "a")
        assert ledger.best == final


def test_impossible_values_are_refused(run, scenario):
    with Ledger.create(run, scenario) as ledger:
        with pytest.raises(PluginError, match=r"layer1.*nan"):
            ledger.record(make_outcome(0).model_copy(update={"reward": float("nan")}), "a")
        with pytest.raises(ValueError, match="fidelity F3"):
            ledger.record(make_outcome(0), "a", "F3")
        assert len(ledger) == 0
    with pytest.raises(ConfigError, match="closed"):
        ledger.record(make_outcome(0), "a")


# --- killed processes -----------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_ledger import Ledger, make_outcome, make_scenario
ledger = Ledger.create(Path(sys.argv[1]), make_scenario())
{extra}
for i in range(100000):
    ledger.record(make_outcome(i), "ppo", "F1")
    os.write(1, b"%d\\n" % i)
"""

# Half a line on the disk, then SIGKILL.
KILL_IN_WRITE = """
import autosplit.pipeline.ledger as module
append = module.append_record
def half(path, text):
    if len(ledger) < 3:
        return append(path, text)
    with open(path, "ab") as file:
        file.write(text[:len(text) - {cut}].encode())
    os.kill(os.getpid(), signal.SIGKILL)
module.append_record = half
"""


def start_child(run, extra=""):
    code = CHILD.format(tests=str(Path(__file__).parent), extra=textwrap.dedent(extra))
    return subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)


def test_kill_9_loses_no_finished_record(run, scenario):
    child = start_child(run)
    seen = [int(child.stdout.readline()) for _ in range(25)]
    child.send_signal(signal.SIGKILL)
    seen += [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    with Ledger.open(run, scenario) as ledger:
        assert len(seen) <= len(ledger) <= len(seen) + 1
        assert ledger.outcomes() == [make_outcome(i) for i in range(len(ledger))]
        ledger.record(make_outcome(99), "ppo")
    assert Ledger.read(run).outcomes()[-1] == make_outcome(99)


@pytest.mark.parametrize("cut", [0, 700])
def test_kill_9_in_the_middle_of_a_write_is_repaired(run, scenario, cut):
    child = start_child(run, KILL_IN_WRITE.format(cut=cut))
    assert child.stdout.read().split() == [b"0", b"1", b"2"]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    with Ledger.open(run, scenario) as ledger:
        whole = 4 if cut == 0 else 3  # only the line end was missing: the record is complete
        assert ledger.outcomes() == [make_outcome(i) for i in range(whole)]
        assert bool(ledger.notes) is (cut != 0)
        ledger.record(make_outcome(4), "ppo")
    assert Ledger.read(run).outcomes()[-1] == make_outcome(4)


@pytest.mark.parametrize("tail", [b'{"agent":"ppo","mea', b"\0\0\0\0", b"{}\n", b"garbage\n"])
def test_damaged_last_line_is_dropped_with_a_note(run, scenario, tail, caplog):
    fill(run, scenario, 2)
    path = run / LEDGER_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Ledger.open(run, scenario) as ledger:
        assert len(ledger) == 2
        assert "incomplete last line" in ledger.notes[0]
    assert "incomplete last line" in caplog.text
    assert path.read_bytes() == whole


def test_reading_tolerates_a_line_that_is_being_written(run, scenario):
    fill(run, scenario, 2)
    path = run / LEDGER_FILE
    path.write_bytes(path.read_bytes() + b'{"agent":"ppo"')
    before = path.read_bytes()
    assert len(Ledger.read(run)) == 2
    assert path.read_bytes() == before


def test_full_disk_is_one_line_and_the_next_record_is_whole(run, scenario, monkeypatch):
    fsync = os.fsync

    def full(handle):
        monkeypatch.setattr(os, "fsync", fsync)  # once
        os.truncate(run / LEDGER_FILE, (run / LEDGER_FILE).stat().st_size - 30)
        raise OSError(28, "No space left on device")

    with Ledger.create(run, scenario) as ledger:
        ledger.record(make_outcome(0), "ppo")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"cannot write .*ledger\.jsonl: No space left"):
            ledger.record(make_outcome(1), "ppo")
        ledger.record(make_outcome(2), "ppo")
    assert Ledger.read(run).outcomes() == [make_outcome(0), make_outcome(2)]


# --- refusals -------------------------------------------------------------------------------------------------


def test_resume_of_another_scenario_names_the_keys(run, scenario):
    fill(run, scenario, 1)
    other = scenario.replace(**{"conditions.budget_ms": 60.0, "search.seed": 7})
    with pytest.raises(ResumeError) as caught:
        Ledger.open(run, other)
    assert caught.value.exit_code == 5
    assert "conditions.budget_ms was 100.0, now 60.0" in str(caught.value)
    assert "search.seed was 0, now 7" in str(caught.value)
    assert "\n" not in str(caught.value)
    Ledger.open(run, scenario).close()  # the refusal let go of the lock


def test_resume_may_raise_the_number_of_evaluations(run, scenario):
    fill(run, scenario, 1)
    with Ledger.open(run, scenario.replace(**{"search.evaluations": 400})) as ledger:
        assert len(ledger) == 1


def test_scenario_of_an_earlier_version_names_the_missing_key(run, scenario):
    fill(run, scenario, 1)
    path = run / LEDGER_FILE
    path.write_text(path.read_text().replace(f'"codec_steps": {scenario.training.codec_steps}, ', ""))
    with pytest.raises(ResumeError, match=r"training\.codec_steps was absent, now 400"):
        Ledger.open(run, scenario)


def test_keys_that_came_later_have_their_defaults_in_earlier_runs(run, scenario):
    fill(run, scenario, 1)
    path = run / LEDGER_FILE
    text = path.read_text().replace('"granularity": "uniform", ', "").replace('"layer_profiles": 32, ', "")
    path.write_text(text)
    assert "granularity" not in path.read_text()
    Ledger.open(run, scenario).close()
    with pytest.raises(ResumeError, match=r'search\.granularity was "uniform", now "layer"'):
        Ledger.open(run, scenario.replace(**{"search.granularity": "layer"}))


@pytest.mark.parametrize("content", [None, b"", b"hello\n"])
def test_directory_without_a_ledger(run, scenario, content):
    run.mkdir(parents=True)
    if content is not None:
        (run / LEDGER_FILE).write_bytes(content)
    with pytest.raises(ResumeError, match=r"begin a new") as caught:
        Ledger.open(run, scenario)
    assert caught.value.exit_code == 5


def test_absent_directory_is_not_made(run, scenario):
    with pytest.raises(ResumeError, match="holds no ledger"):
        Ledger.open(run, scenario)
    assert not run.exists()


def test_damage_in_the_middle_names_the_line(run, scenario):
    fill(run, scenario, 2)
    path = run / LEDGER_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"spilt coffee\n", *lines[2:]]))
    with pytest.raises(ResumeError, match="damaged at line 3"):
        Ledger.open(run, scenario)


def test_record_of_another_version(run, scenario):
    fill(run, scenario, 2)
    path = run / LEDGER_FILE
    path.write_text(path.read_text().replace('"accuracy":', '"top1":'))
    with pytest.raises(ResumeError, match="record 0 was not written by this version"):
        Ledger.read(run)


def test_create_refuses_a_directory_that_holds_a_run(run, scenario):
    fill(run, scenario, 1)
    with pytest.raises(ConfigError, match="--resume"):
        Ledger.create(run, scenario)
    assert len(Ledger.read(run)) == 1


def test_second_process_is_refused_at_once(run, scenario):
    child = start_child(run)
    try:
        child.stdout.readline()
        with pytest.raises(ConfigError, match=rf"in use by another autosplit process \(pid {child.pid}\)"):
            Ledger.open(run, scenario)
        assert len(Ledger.read(run)) >= 1
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_second_open_in_one_process_is_refused(run, scenario):
    with Ledger.create(run, scenario), pytest.raises(ConfigError, match="in use"):
        Ledger.open(run, scenario)


def test_forked_worker_does_not_keep_the_run_locked(run, scenario):
    ledger = Ledger.create(run, scenario)
    worker = os.fork()
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    try:
        time.sleep(0.2)
        ledger.close()
        Ledger.open(run, scenario).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_path_that_cannot_be_a_directory(tmp_path, scenario):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file"):
        Ledger.create(tmp_path / "file" / "run", scenario)


@pytest.mark.parametrize("call", ["create", "open"])
def test_no_write_permission(run, scenario, monkeypatch, call):
    if call == "open":
        fill(run, scenario, 1)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    # Tests may run as root, whom no mode stops.
    monkeypatch.setattr(Path, "mkdir" if call == "create" else "open", refuse)
    with pytest.raises(ConfigError, match=rf"cannot write {run}.*: Permission denied.*--out"):
        getattr(Ledger, call)(run, scenario)


def test_import_does_not_load_optuna():
    code = "import sys, autosplit.pipeline.ledger; print(any(m.split('.')[0] == 'optuna' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_lines_are_json(run, scenario):
    fill(run, scenario, 3)
    lines = [json.loads(line) for line in (run / LEDGER_FILE).read_text().splitlines()]
    assert len(lines) == 1 + 3  # header, one line a record
    assert SearchSpace.model_validate(lines[0]["autosplit"]["scenario"]["space"]) == scenario.space


def test_names_of_a_hub_are_compared_whole_and_folders_without_where_they_lie():
    from autosplit.pipeline.ledger import _without_folders

    assert _without_folders("hf:one/birds") != _without_folders("hf:two/birds")
    assert _without_folders("hf:/here/birds") == _without_folders("hf:/there/birds")
    assert _without_folders("image-folder:/here/birds") == _without_folders("image-folder:/there/birds")
