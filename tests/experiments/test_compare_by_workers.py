"""A comparison by workers: what the baselines of all scenarios fine-tune is begun at once, and the rows stay."""

from __future__ import annotations

import pytest

from autosplit.core.cache import Cache
from autosplit.core.workers import Workers
from autosplit.experiments.compare import compare
from autosplit.pipeline import context as module
from autosplit.pipeline.ledger import LEDGER_FILE

LINKS = ("wifi4", "ble-1m")
FEW_PICTURES = {"space.jpeg_qualities": (50,), "space.webp_qualities": (), "space.avif_qualities": (),
                "space.image_downscales": (1,)}


class Beside(Workers):
    """Workers that are this process, with a note of what was fine-tuned while how many searches had begun."""

    number = 2

    def __init__(self, out):
        self._out, self.begun = out, []

    def map(self, work, shared, pieces, named=str):
        if getattr(work, "func", None) is module._measured_elsewhere:
            self.begun.append((len(list(self._out.glob(f"runs/*/{LEDGER_FILE}"))), list(pieces)))
        return (work(shared, piece) for piece in pieces)


def compared(world, folder, workers=None):
    scenarios = [world.scenario().replace(**{
        "search.agent": "random", "search.evaluations": 6, "conditions.channel": link, "conditions.budget_ms": 60.0,
        **FEW_PICTURES})
        for link in LINKS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
        (folder / "cache").mkdir()
        for kind in ("backbone", "supernet", "coded-backbone"):
            if (Cache(world.cache).root / kind).is_dir():
                (folder / "cache" / kind).symlink_to(Cache(world.cache).root / kind)
        return compare(scenarios, folder / "out", workers=workers)


def test_baselines_of_all_scenarios_are_begun_at_once_and_nothing_else_changes(world, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "spread").mkdir()
    workers = Beside(tmp_path / "spread" / "out")
    alone, spread = compared(world, tmp_path / "alone"), compared(world, tmp_path / "spread", workers)
    assert [c.rows for c in spread.done] == [c.rows for c in alone.done]
    before = {plan for searches, plans in workers.begun if searches == 0 for plan in plans}
    tuned = {row.plan for c in spread.done for row in c.rows if row.method in ("aecnn", "bottlenet++", "entropic")}
    assert tuned <= {plan.label for plan in before}
    # what is begun once a search runs is the search's own
    later = {plan for searches, plans in workers.begun if searches for plan in plans}
    assert not later & before
