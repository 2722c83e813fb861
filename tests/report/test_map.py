"""The map of deployments: who is best where, and where a split pays."""

import csv
import json
import shutil

import numpy as np
import pytest

from autosplit.core.measurement import ExitPoint, Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Exit, Plan
from autosplit.core.scenario import load_scenario
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.ledger import BASELINES_FILE, load_baselines, load_run
from autosplit.report.deployment_map import KINDS, DeploymentMap, kind_of
from autosplit.report.map_figure import map_figure
from tests.runs import failure, invoke

CODE = CodecSetting(kind="code", width=2, grid=4, bits=4)


def measurement(plan, accuracy, mmacs, payload):
    work = Workload(plan=plan, device=StageCost(conv_macs=mmacs * 1e6), edge=StageCost(conv_macs=1e6),
                    payload_bytes_mean=payload, payload_bytes_p95=payload)
    return Measurement(plan=plan, accuracy=accuracy, workload=work, images=100)


MEASURED = (
    measurement(Plan(split=OUTPUT, codec=CodecSetting(kind="none")), 0.9, 40.0, 0),
    measurement(Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=50)), 0.9, 0.0, 4000),
    measurement(Plan(split="layer1", codec=CODE), 0.8, 1.0, 100),
    measurement(Plan(split="layer1", codec=CODE, head="injected"), 0.85, 0.2, 60),
)


@pytest.fixture(scope="module")
def scorer():
    return Scorer.of(load_scenario("digits-m"))


@pytest.fixture(scope="module")
def found(scorer):
    return DeploymentMap.of(MEASURED, scorer)


def test_kinds():
    plans = [*(m.plan for m in MEASURED), Plan(split="layer1", codec=CODE, head="reduced"),
             MEASURED[3].plan.model_copy(update={"exit": Exit(threshold=0.9)})]
    assert [KINDS[kind_of(plan)] for plan in plans] == list(KINDS)


def test_where_the_link_is_too_slow_an_exit_still_answers(scorer):
    point = ExitPoint(exit=Exit(threshold=0.9), sent=0.3, exit_accuracy=0.9, sent_accuracy=0.7, payload_bytes_mean=60,
                      payload_bytes_p95=60, device=StageCost(conv_macs=1e4))
    split = MEASURED[3].model_copy(update={"exits": (point,)})
    both = DeploymentMap.of(split.variants, scorer)
    slowest, (_, own) = 0, both.home
    assert both.measured[both.split[slowest, own]].plan.exit.threshold == 0.9
    assert both.of_splits[slowest, own] == pytest.approx(0.7 * 0.9)
    plain = DeploymentMap.of([split], scorer)
    assert plain.of_splits[slowest, own] == 0


def test_the_own_conditions_are_scored_as_everywhere(found, scorer):
    best = best_outcome(scorer.outcomes(MEASURED))
    assert MEASURED[found.best[found.home]] == best.measurement
    assert found.p95_ms[found.home] == pytest.approx(best.latency.p95_ms, rel=0.02)
    in_time = [m.accuracy * scorer.latency(m).in_time for m in MEASURED]
    assert found.of_splits[found.home] == pytest.approx(max(in_time[2:]), abs=0.01)
    assert found.of_others[found.home] == pytest.approx(max(in_time[:2]), abs=0.01)
    assert found.rates_kbps[found.home[0]] == scorer.conditions.channel.uplink_kbps.value
    assert found.others[found.home[1]] == 1.0


def test_each_kind_has_its_corner(found):
    kinds = found.kinds
    assert KINDS[kinds[0, -1]] == "on the device"  # slow link, fast device
    assert KINDS[kinds[-1, 0]] == "as a picture"  # fast link, slow device
    assert KINDS[kinds[found.home]] == "split, injected head"
    assert kinds[0, 0] == -1  # nothing is in time
    assert found.gain[0, -1] < 0 < found.gain[found.home]


def test_a_faster_link_makes_no_deployment_worse(found):
    for share in (found.of_splits, found.of_others):
        assert np.all(np.diff(share, axis=0) > -0.005)
        assert np.all(np.diff(share, axis=1) > -0.005)  # nor does a faster device


def test_over_deadlines(scorer):
    found = DeploymentMap.of(MEASURED, scorer, "budget")
    assert found.others[found.home[1]] == scorer.conditions.budget_ms
    assert np.all(np.diff(found.of_splits, axis=1) > -0.005)
    assert "budget_ms" in found.to_frame().columns


def test_only_splits_or_none_at_all(scorer):
    splits, others = DeploymentMap.of(MEASURED[2:], scorer), DeploymentMap.of(MEASURED[:2], scorer)
    assert (splits.other == -1).all()
    assert (splits.of_others == 0).all()
    assert (others.split == -1).all()
    assert "pays at no link rate" in others.summary


def test_what_others_beat_in_everything_changes_nothing(found, scorer):
    worse = measurement(Plan(split="layer2", codec=CODE), 0.79, 2.0, 200)
    assert (DeploymentMap.of((*MEASURED, worse), scorer).best == found.best).all()


def test_the_summary_says_where_it_pays(found):
    r, s = found.home
    pays = found.rates_kbps[found.gain[:, s] >= 1]
    assert f"from {pays[0]:.3g} kb/s to {pays[-1]:,.3g} kb/s" in found.summary
    assert f"{found.gain[r, s]:.1f} points ahead of all else" in found.summary
    assert f"{100 * (found.gain >= 1).mean():.0f} % of the map" in found.summary


def test_the_figure_marks_contours_and_the_own_place(found):
    (chart,) = map_figure(found).charts
    names = [trace.name for trace in chart.traces if trace.name]
    assert [n for n in names if n in KINDS] == [k for i, k in enumerate(KINDS) if (found.kinds == i).any()]
    assert {"a split 1 point ahead", "as searched"} <= set(names)
    home = chart.traces[-1]
    assert (home.x[0], home.y[0]) == found.home
    assert chart.cells.levels.shape == (len(found.others), len(found.rates_kbps))
    # contours lie where the gain is that of their name
    line = next(trace for trace in chart.traces if trace.name == "a split 1 point ahead")
    x, y = np.array(line.x), np.array(line.y)
    corners = [found.gain[np.int64(f(x)), np.int64(g(y))] for f in (np.floor, np.ceil) for g in (np.floor, np.ceil)]
    assert np.all(np.min(corners, axis=0) <= 1.0 + 1e-9)
    assert np.all(np.max(corners, axis=0) >= 1.0 - 1e-9)


class TestCommand:
    @pytest.mark.parametrize("across", ["speed", "budget"])
    def test_of_a_run(self, world, tmp_path, across):
        result = invoke("map", world.run, "--across", across, "--out", tmp_path)
        assert result.exit_code == 0, result.stderr
        rows = list(csv.DictReader((tmp_path / "map.csv").open()))
        assert len(rows) == 29 * 17
        assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
        assert "of the map" in result.stdout

    def test_baselines_are_on_it(self, world):
        measured = {m.plan for m in load_baselines(world.run)}
        assert Plan(split=OUTPUT, codec=CodecSetting(kind="none")) in measured
        assert Plan(split=INPUT, codec=CodecSetting(kind="png")) in measured
        result, outcomes = load_run(world.run)
        found, problem = DeploymentMap.of_run(result, outcomes, load_baselines(world.run))
        assert (problem, {m.plan for m in found.measured} >= measured) == ("", True)

    def test_as_json(self, world, tmp_path):
        shown = json.loads(invoke("map", world.run, "--out", tmp_path, "--json").stdout)
        assert len(shown["cells"]) == 29 * 17
        assert {cell["kind"] for cell in shown["cells"]} <= {*KINDS, "none in time"}
        assert all((cell["accuracy"] is None) is (cell["kind"] == "none in time") for cell in shown["cells"])

    def test_under_other_conditions(self, world, tmp_path):
        invoke("map", world.run, "--out", tmp_path / "one", "--json")
        other = invoke("map", world.run, "--channel", "wifi4", "--device", "raspberry-pi-4", "--budget-ms", 20,
                       "--out", tmp_path / "two", "--json")
        assert other.exit_code == 0, other.stderr
        assert (tmp_path / "one" / "map.csv").read_text() != (tmp_path / "two" / "map.csv").read_text()

    def test_no_run(self, tmp_path):
        assert "is no run directory" in failure("map", tmp_path)

    def test_damaged_baselines(self, world, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(world.run, run)
        (run / BASELINES_FILE).write_text('{"plan": 3}\n')
        assert f"{BASELINES_FILE}, line 1" in failure("map", run)
        (run / BASELINES_FILE).unlink()  # as in runs from before there was such a file
        assert invoke("map", run).exit_code == 0
