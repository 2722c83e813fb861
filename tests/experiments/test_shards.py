"""A table in parts that several machines measure."""

from __future__ import annotations

import shutil

import pytest

from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, ResultError
from autosplit.evaluation.live import LiveEvaluator
from autosplit.experiments.bench.shards import Shard, shard_plans
from autosplit.experiments.bench.table import measure_shard, tabulate
from tests.runs import invoke

FEW = {"space__sparsities": (0.0, 0.5), "space__widths": (2,), "space__bits": (8,)}


@pytest.fixture
def alone(world, tmp_path, monkeypatch, one_thread):
    """A machine's own cache, with the trained networks in it and no measurement."""
    def on_a_machine(name):
        cache = tmp_path / name
        for kind in ("backbone", "supernet", "coded-backbone"):
            if (found := Cache(world.cache).root / kind).is_dir():
                shutil.copytree(found, cache / kind, dirs_exist_ok=True)
        monkeypatch.setenv("AUTOSPLIT_CACHE", str(cache))

    on_a_machine("first")
    return on_a_machine


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        return tabulate(world.scenario(**FEW), folder / "table.csv").evaluator.measurements


def without_seconds(measurements):
    return [m.model_copy(update={"seconds": 0.0}) for m in measurements]


def test_joined_they_are_the_table(world, alone, whole, tmp_path, monkeypatch):
    out = tmp_path / "table.csv.gz"
    for number in (1, 2, 3):
        alone(f"machine-{number}")
        measure_shard(world.scenario(**FEW), out, Shard(number, 3))
    assert sorted(p.name for p in tmp_path.glob("table.*")) == [f"table.{n}-of-3.jsonl" for n in (1, 2, 3)]
    alone("joining")
    monkeypatch.setattr(LiveEvaluator, "_measure", None)  # nothing is left to measure
    assert without_seconds(tabulate(world.scenario(**FEW), out).evaluator.measurements) == without_seconds(whole)


def test_what_is_missing_or_damaged_is_measured(world, alone, whole, tmp_path):
    out = tmp_path / "table.csv"
    path = measure_shard(world.scenario(**FEW), out, Shard(2, 2))
    text = path.read_text()
    path.write_text(text.replace('"accuracy":', '"accuracy":1', 1) + '{"checksum":')
    alone("joining")
    assert without_seconds(tabulate(world.scenario(**FEW), out).evaluator.measurements) == without_seconds(whole)


def test_a_part_that_was_stopped_goes_on(world, alone, tmp_path, monkeypatch):
    out, measure, done = tmp_path / "table.csv", LiveEvaluator._measure, []

    def stopped(self, plan):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(plan)
        return measure(self, plan)

    monkeypatch.setattr(LiveEvaluator, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure_shard(world.scenario(**FEW), out, Shard(1, 2))
    monkeypatch.setattr(LiveEvaluator, "_measure", measure)
    alone("another")
    path = measure_shard(world.scenario(**FEW), out, Shard(1, 2))
    assert len(path.read_text().splitlines()) == len(set(path.read_text().splitlines()))


def test_parts_of_other_networks_do_not_mix(world, alone, tmp_path):
    out = tmp_path / "table.csv"
    path = measure_shard(world.scenario(**FEW), out, Shard(1, 2))
    with pytest.raises(ResultError, match=f"{path}.*on other networks"):
        tabulate(world.scenario(**FEW, search__validation_images=50), out)


def test_parts_hold_each_plan_once(prepared):
    plans = LiveEvaluator(prepared).space.plans()
    parts = [shard_plans(plans, Shard(n, 3)) for n in (1, 2, 3)]
    assert sorted(plan.label for part in parts for plan in part) == sorted(plan.label for plan in plans)
    assert all(parts)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_part(text):
    with pytest.raises(ConfigError, match="such as 3/8"):
        Shard.parse(text)
    assert invoke("bench", "table", "--out", "t.csv", "--shard", text).exit_code == 2


def test_the_command(world, alone, tmp_path):
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(world.scenario(**FEW).to_yaml())
    ran = invoke("bench", "table", "--scenario", scenario, "--out", tmp_path / "t.csv", "--shard", "1/2",
                 "--trust-code")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("part 1 of 2 in ")
