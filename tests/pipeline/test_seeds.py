"""Several seeds: each search as if it were alone, by whoever."""

from __future__ import annotations

import json

import pytest

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.hiring import workers_of
from autosplit.core.result import Result
from autosplit.pipeline import seeds as module
from autosplit.pipeline.search import search_scenario
from autosplit.pipeline.seeds import _searched, _Shared, search_seeds
from tests.runs import invoke

CHANGES = {"search__agent": "random", "search__evaluations": 3, "space__sparsities": (0.0,),
           "space__jpeg_qualities": (50,), "space__webp_qualities": (), "space__avif_qualities": ()}


@pytest.fixture(scope="module")
def alone(world, one_thread, tmp_path_factory):
    """The searches of seeds 3 and 4, each by a call of its own."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
        return [search_scenario(world.scenario(**CHANGES, search__seed=seed), folder / str(seed)) for seed in (3, 4)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_is_the_search_of_its_seed(world, alone, tmp_path, monkeypatch, jobs):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    with workers_of(jobs, threads=1) as workers:
        found = search_seeds(world.scenario(**CHANGES), tmp_path / "out", (3, 4), workers=workers)
    assert [r.test for r in found.results] == [r.test for r in alone]
    assert [r.stored.sha256 for r in found.results] == [r.stored.sha256 for r in alone]
    assert alone[0].stored.sha256 != alone[1].stored.sha256
    frame = found.to_frame()
    assert list(frame["seed"]) == [3, 4]
    accuracies = [r.test.accuracy for r in alone]
    assert found.spread().loc["test accuracy", "mean"] == pytest.approx(sum(accuracies) / 2)
    assert found.spread().loc["test accuracy", "std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)


def test_what_is_finished_is_taken_as_it_is(world, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    search_seeds(world.scenario(**CHANGES), tmp_path / "out", (3,))
    monkeypatch.setattr(module, "search_scenario", None)
    assert search_seeds(world.scenario(**CHANGES), tmp_path / "out", (3,)).results[0].test == alone[0].test


def test_of_another_machine_the_files_come_back(world, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    there = _Shared(world.scenario(**CHANGES), tmp_path / "not here", None, True, {})
    files = _searched(there, 3)
    assert {"best.json", "best.safetensors", "ledger.jsonl", "scenario.yaml"} <= files.keys()
    assert Result.model_validate_json(files["best.json"]).test == alone[0].test


def test_what_is_wrong_is_said_before_anything_is_trained(world, tmp_path):
    with pytest.raises(UnknownNameError, match="nobody"):
        search_seeds(world.scenario(search__agent="nobody"), tmp_path / "out", (0, 1))
    assert not (tmp_path / "out").exists()


def test_the_command(world, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(world.scenario(**CHANGES).to_yaml())
    words = ["search", "--scenario", scenario, "--seed", 3, "--seeds", 2, "--out", tmp_path / "out", "--trust-code"]
    ran = invoke(*words, "--json", "--quiet")
    assert ran.exit_code == 0, ran.stderr
    assert [row["test accuracy"] for row in json.loads(ran.stdout)["seeds"]] == [r.test.accuracy for r in alone]
    again = invoke(*words, "--quiet")  # finished, so that it only shows
    assert "standard deviation" in again.stdout
    assert f"run directories in {tmp_path / 'out'}" in again.stdout.replace("\n", "")
    assert invoke("search", "--seeds", 2, "--resume", tmp_path / "out").exit_code == ConfigError.exit_code
