"""One finished search a kind of plan."""

from __future__ import annotations

import pytest

from autosplit.pipeline.search import search_scenario as search
from tests.runs import KINDS


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """Run directory of a search that ends with a plan of this kind, by the names in `tests.runs.AGENTS`."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        for kind in KINDS:
            scenario = world.scenario(search__agent=world.agent(kind), conditions__budget_ms=1e4)
            search(scenario.replace(search__evaluations=1), root / kind)
    return {kind: root / kind for kind in KINDS}
