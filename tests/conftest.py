"""Settings of every test run, and the one tiny search that many tests look at."""

from __future__ import annotations

import os

# before torch is imported anywhere: see autosplit.cli.app.main
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest

_SHARED = {
    "docs": ("tests/docs/",),  # one folder of what the commands of all pages make
    "runs": ("tests/experiments/emulation/test_bench_link.py", "tests/pipeline/test_foreign_code.py",
             "tests/pipeline/test_replay.py", "tests/runtime/test_deployment.py", "tests/runtime/test_export.py",
             "tests/runtime/test_serving_a_bundle.py"),
}
"""Tests that share what takes a minute to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What tests share is made by one worker alone: files are not divided, and some belong together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatTheyShare(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return next((name for name, begins in _SHARED.items() if file.startswith(begins)), file)

    return ByWhatTheyShare(config, log)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """No test sees the user's cache or configuration, or leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AUTOSPLIT_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def one_thread():
    """One thread for torch, from here to the end of the session.

    The networks are small: a second thread gains little, and costs much where the cores are shared. It lasts, since
    sums of floats depend on it: what one test made, as `world`, another may make again and compare.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world(tmp_path_factory, one_thread):
    """Pictures, network and a finished search with the default agent, in a cache of its own."""
    from autosplit.pipeline.search import search_scenario as search
    from tests.runs import make_world

    made = make_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(made.cache))
        search(made.scenario(), made.run)
    return made


@pytest.fixture
def warm(world, monkeypatch):
    """The world with its trained networks at hand."""
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    return world


@pytest.fixture(scope="session")
def prepared(world):
    """The world's scenario with trained networks."""
    from autosplit.core.cache import Cache
    from autosplit.training.prepare import prepare

    return prepare(world.scenario(), cache=Cache(world.cache))


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """Run directory of a search that ends with a plan of this kind, by the names in `tests.runs.AGENTS`."""
    from autosplit.pipeline.search import search_scenario as search
    from tests.runs import KINDS

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        # what the agent proposes, and no baseline that is cheaper
        patch.setattr("autosplit.pipeline.search._may_be_chosen", lambda plan, space: False)
        for kind in KINDS:
            scenario = world.scenario(search__agent=world.agent(kind), conditions__budget_ms=1e4)
            search(scenario.replace(search__evaluations=1), root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture
def without_heif(monkeypatch):
    """As if pillow-heif was not installed."""
    from PIL import Image

    from autosplit.runtime.standalone.image_file import _load_plugins

    _load_plugins()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
