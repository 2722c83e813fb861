"""A search by several processes is the search of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from autosplit.core.cache import Cache
from autosplit.core.hiring import workers_of
from autosplit.core.result import Result
from autosplit.pipeline import context as module
from autosplit.pipeline.ledger import load_run
from autosplit.pipeline.search import search_scenario
from tests.runs import invoke

CHANGES = {"search__agent": "random", "search__evaluations": 12, "search__finalists": 2, "space__exits": (0.5,),
           "space__jpeg_qualities": (50,), "space__webp_qualities": (), "space__avif_qualities": ()}


@pytest.fixture(scope="module")
def here(world, one_thread, tmp_path_factory):
    return _searched(world, tmp_path_factory.mktemp("here"))


def _searched(world, folder, workers=None, reuse=True, changes=CHANGES):
    """A search on a cache of its own, which holds the world's networks alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
        for kind in ("backbone", "supernet", "coded-backbone"):
            (folder / "cache").mkdir(exist_ok=True, parents=True)
            if (Cache(world.cache).root / kind).is_dir():
                (folder / "cache" / kind).symlink_to(Cache(world.cache).root / kind)
        return search_scenario(world.scenario(**changes), folder / "run", workers=workers, reuse=reuse)


def _figures(result):
    return [outcome.model_dump(exclude={"measurement": {"seconds"}}) for outcome in load_run(result.path.parent)[1]]


@pytest.mark.parametrize("reuse", [True, False])
def test_it_finds_the_same(world, here, tmp_path, reuse):
    with workers_of(2, threads=1) as workers:
        found = _searched(world, tmp_path, workers, reuse)
    assert found.comparison == here.comparison
    assert found.test == here.test
    assert found.stored.sha256 == here.stored.sha256
    # what is measured in a batch is recorded in the order of the batch, and finalists as they are asked for
    assert _figures(found) == _figures(here)


def test_heads_pruned_layer_by_layer_are_measured_by_workers(world, tmp_path):
    changes = {**CHANGES, "search__granularity": "layer", "search__evaluations": 6, "training__layer_profiles": 0}
    found = _searched(world, tmp_path / "one", changes=changes)
    with workers_of(2, threads=1) as workers:
        spread = _searched(world, tmp_path / "two", workers, changes=changes)
    assert _figures(spread) == _figures(found)
    assert any(isinstance(o["measurement"]["plan"]["sparsity"], tuple) for o in _figures(found))


def killed_once(device_arithmetic, reuse, networks, plan):
    mark = Path(os.environ["AUTOSPLIT_TEST_MARK"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return module._measured_elsewhere(device_arithmetic, reuse, networks, plan)


def test_a_worker_that_is_killed_while_it_fine_tunes_changes_nothing(world, here, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_TEST_MARK", str(tmp_path / "killed"))
    monkeypatch.setattr(module, "_measured_elsewhere", killed_once)
    with workers_of(2, threads=1) as workers:
        found = _searched(world, tmp_path, workers)
    assert (tmp_path / "killed").exists()
    assert found.stored.sha256 == here.stored.sha256
    assert found.comparison == here.comparison


def test_the_command(world, here, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(world.scenario(**CHANGES).to_yaml())
    ran = invoke("search", "--scenario", scenario, "--out", tmp_path / "run", "--jobs", 2, "--trust-code", "--quiet")
    assert ran.exit_code in (0, 3), ran.stderr
    assert Result.load(tmp_path / "run" / "best.json").test == here.test
