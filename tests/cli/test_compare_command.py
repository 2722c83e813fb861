"""`autosplit compare`: the list of scenarios, what it prints and writes, and what is left when it ends early.

The comparisons themselves are made up here; `tests/test_compare.py` makes real ones.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from autosplit.core.answers import Answers
from autosplit.core.errors import PruningError
from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.evaluation.scorer import Scorer
from autosplit.experiments.compare import Comparison, files, run
from autosplit.pipeline.baselines import comparison_row, related
from tests.runs import failure, invoke, messages

METHODS = {"device": 0.0, "png": 2000.0, "jpeg": 800.0, "jpeg-shared": 200.0, "raw": 16384.0, "two-step": 900.0,
           "aecnn": 120.0, "bottlenet++": 110.0, "jalad": 700.0, "entropic": 150.0, "uniform": 90.0, "autosplit": 60.0}


def canned(scenario, out, contexts, progress):
    """A comparison as it might be, without any work."""
    rows, pools = [], {}
    for number, (method, payload) in enumerate(METHODS.items()):
        plan = Plan(split="layer1", codec=CodecSetting(kind="code", width=4, grid=8, bits=4)) if payload else Plan(
            split="output", codec=CodecSetting(kind="none"))
        work = Workload(plan=plan, device=StageCost(conv_macs=2e6 if payload else 12e6), payload_bytes_mean=payload,
                        payload_bytes_p95=1.1 * payload)
        accuracy = 0.97 - 0.003 * number
        answers = Answers.of(np.arange(1000) >= round(1000 * accuracy), np.zeros(1000, dtype=np.int64))
        found = Measurement(plan=plan, accuracy=accuracy, workload=work, feature_bytes=65536, answers=answers)
        rows.append(comparison_row(method, f"the {method}", found, found, Scorer.of(scenario), 0.97, None))
        pools[method] = (found,)
    return Comparison(scenario, related(rows), pools, out / "runs" / scenario.fingerprint, "networks")


@pytest.fixture(autouse=True)
def _canned(request, monkeypatch, tmp_path):
    """No work is done, and no figures are drawn but in the test that asks for them."""
    monkeypatch.setattr(run, "_compared", canned)
    if "figures" not in request.node.name:
        monkeypatch.setattr(files, "draw_figures", lambda comparisons, out: [])
    monkeypatch.chdir(tmp_path)


def rows_of(folder):
    return list(csv.DictReader((folder / "comparison.csv").open()))


def test_one_scenario_is_a_table_with_figures(tmp_path):
    done = invoke("compare", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "results" / "compare-digits-m-resnet8"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["accuracy-latency.png", "accuracy-latency.svg", "accuracy-payload.png", "accuracy-payload.svg",
                     "comparison.csv", "comparison.md", "in-time-rate.png", "in-time-rate.svg"]
    for text in (*(f"the {m}" for m in METHODS), "* the autosplit", "in-time", "stm32l4r5, sub-ghz-fsk-50k, 100 ms",
                 *names):
        assert text in done.stdout
    assert len(rows_of(folder)) == len(METHODS)


def test_json_alone_on_stdout(tmp_path):
    done = invoke("compare", "--json", "--out", tmp_path / "out", "--budget-ms", 70, "--finalists", 2,
                  "--set", "search.seed=3")
    said = json.loads(done.stdout)
    assert messages(done) == []
    (comparison,) = said["comparisons"]
    assert said["failed"] == []
    assert comparison["scenario"]["conditions"]["budget_ms"] == 70
    assert comparison["scenario"]["search"]["finalists"] == 2
    assert comparison["scenario"]["search"]["seed"] == 3
    assert [r["method"] for r in comparison["rows"]] == list(METHODS)
    for r in comparison["rows"]:
        assert r["in_time_accuracy"] == r["accuracy"] * r["latency"]["in_time"]
    assert str(tmp_path / "out" / "comparison.csv") in said["files"]


def test_a_grid_is_summed_up(tmp_path):
    done = invoke("compare", "--device", "stm32l4r5", "--device", "stm32h7a3", "--channel", "wifi4", "--channel",
                  "ble-1m", "--channel", "wifi4", "--quiet", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    rows = rows_of(tmp_path / "out")
    assert [(r["device"], r["channel"]) for r in rows[::len(METHODS)]] == [
        ("stm32l4r5", "wifi4"), ("stm32l4r5", "ble-1m"), ("stm32h7a3", "wifi4"), ("stm32h7a3", "ble-1m")]
    assert "* the autosplit" not in done.stdout
    assert "best baseline" in done.stdout
    assert done.stdout.count("stm32h7a3,") == 2
    assert (tmp_path / "out" / "comparison.md").read_text().count("\n## ") == 4


def test_several_scenarios_by_name_and_file(tmp_path):
    text = json.dumps({"name": "mine", "backbone": "resnet20", "dataset": "digits-m", "conditions": {
        "device": "stm32h7a3", "edge": "edge-cpu", "channel": "ble-1m", "budget_ms": 50}})
    (tmp_path / "mine.yaml").write_text(text)
    done = invoke("compare", "--scenario", "default", "--scenario", tmp_path / "mine.yaml", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert "digits-m-resnet8: stm32l4r5, sub-ghz-fsk-50k, 100 ms" in done.stdout
    assert "mine: stm32h7a3, ble-1m, 50 ms" in done.stdout
    rows = rows_of(tmp_path / "results" / "compare-digits-m-resnet8-and-1-more")
    assert [r["backbone"] for r in rows[::len(METHODS)]] == ["resnet8", "resnet20"]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_scenario_that_fails_is_told_and_the_others_are_kept(tmp_path, monkeypatch):
    def failing(scenario, *args):
        if scenario.conditions.channel.name == "wifi4":
            raise PruningError("layer 'x' cannot\nbe pruned")
        return canned(scenario, *args)

    monkeypatch.setattr(run, "_compared", failing)
    done = invoke("compare", "--channel", "wifi4", "--channel", "ble-1m", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2
    assert messages(done) == ["error: digits-m-resnet8, stm32l4r5, wifi4: layer 'x' cannot be pruned"]
    assert {r["channel"] for r in rows_of(tmp_path / "out")} == {"ble-1m"}
    said = json.loads(done.stdout)
    assert len(said["comparisons"]) == 1
    assert said["failed"][0]["scenario"]["conditions"]["channel"]["name"] == "wifi4"
    assert "cannot be pruned" in failure("compare", "--channel", "wifi4", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_interrupted_comparison_keeps_what_it_has(tmp_path, monkeypatch):
    def interrupted(scenario, *args):
        if scenario.conditions.channel.name == "wifi4":
            raise KeyboardInterrupt
        return canned(scenario, *args)

    monkeypatch.setattr(run, "_compared", interrupted)
    done = invoke("compare", "--channel", "ble-1m", "--channel", "wifi4", "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert done.stdout == ""
    assert messages(done) == [f"interrupted; 1 of 2 scenarios are in {tmp_path / 'out'}, "
                          "and the same command goes on from there"]
    assert len(rows_of(tmp_path / "out")) == len(METHODS)


@pytest.mark.parametrize(("options", "message"), [
    (("--device", "stm32l4r4"), "conditions.device: unknown device 'stm32l4r4'; did you mean 'stm32l4r5'"),
    (("--channel", "wifi4", "--channel", "wify4"), "conditions.channel: unknown channel 'wify4'; did you mean 'wifi4'"),
    (("--scenario", "defolt"), "unknown scenario 'defolt'; did you mean 'default'"),
    (("--finalists", 0), "search.finalists: "),
    (("--budget-ms", -1), "conditions.budget_ms: "),
    (("--set", "space.widths"), "write it as key=value"),
    (("--set", "search.agent=pppo"), "unknown agent 'pppo'; did you mean 'ppo'"),
    (("--set", "codecs=[nestde]"), "unknown codec 'nestde'; did you mean 'nested'"),
])
def test_one_line_names_the_culprit(tmp_path, options, message):
    assert message in failure("compare", *options, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    assert "choose a folder you may write to with --out" in failure("compare", "--out", tmp_path / "file" / "out")
