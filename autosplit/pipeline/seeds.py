"""One scenario searched with several seeds, by workers where there are some: how far a result depends on chance.

A seed decides the division of the data, how networks begin and are trained, and what is proposed. Each search has a run
directory of its own, is whole in itself, and is what a search with that seed alone would be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from autosplit.core.errors import unwritable
from autosplit.core.files import write_whole
from autosplit.core.held import Held, held_again, held_objects
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import RESULT_FILE, Result
from autosplit.core.scenario import Scenario
from autosplit.core.workers import Here, Workers
from autosplit.pipeline.ledger import LEDGER_FILE
from autosplit.pipeline.search import scorer_of, search_scenario

__all__ = ["SeedResults", "search_seeds"]

_FIGURES = ("test accuracy", "payload bytes", "p95_ms", "energy_mj")


@dataclass(frozen=True)
class SeedResults:
    """What the searches found.

    Attributes:
        results: One a seed, in order.
    """

    results: tuple[Result, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row a seed: what was chosen, and its figures on test images."""
        found: pd.DataFrame = pd.DataFrame([{
            "seed": r.scenario.search.seed, "plan": r.plan.label, "in time": r.feasible,
            "test accuracy": r.test.accuracy, "payload bytes": r.outcome.measurement.workload.payload_bytes_mean,
            "p95_ms": r.outcome.latency.p95_ms, "energy_mj": r.outcome.latency.energy_mj} for r in self.results])
        return found

    def spread(self) -> pd.DataFrame:
        """Mean, standard deviation (of a sample), least and greatest of each figure over the seeds."""
        found: pd.DataFrame = self.to_frame()[list(_FIGURES)].agg(["mean", "std", "min", "max"]).T
        return found

    def _repr_html_(self) -> str:
        """As a table, in a notebook."""
        shown: str = self.to_frame().to_html(index=False, float_format="{:.4g}".format)
        return shown


@dataclass(frozen=True)
class _Shared:
    """What the searches have in common, wherever they run.

    Attributes:
        scenario: What is searched; its seed is replaced.
        out: Folder of the run directories, on the machine that asks.
        data_root: Where data sets lie.
        reuse: Whether measurements of earlier searches may be taken.
        held: Objects that were handed over in Python.
    """

    scenario: Scenario
    out: Path
    data_root: Path | None
    reuse: bool
    held: Held


def search_seeds(
    scenario: Scenario, out: Path, seeds: Sequence[int], *, progress: PhaseReporter | None = None,
    data_root: Path | None = None, reuse: bool = True, workers: Workers | None = None,
) -> SeedResults:
    """Search a scenario with each of some seeds; searches that were finished are taken as they are.

    Args:
        scenario: What to search; its own seed counts for nothing.
        out: Folder of the run directories, `seed-0` and so on.
        seeds: The seeds, all different.
        progress: Shows the searches.
        data_root: Where data sets lie; of workers on other machines the same folder there.
        reuse: Whether measurements and fine-tuned plans of earlier searches may be taken from the cache.
        workers: Who searches, each a seed at a time; this process by default.

    Raises:
        AutosplitError: The scenario cannot be searched; what was finished is in `out`.
    """
    progress, workers = progress or NullProgress(), workers or Here()
    scenario = scenario.anchored(data_root)
    scorer_of(scenario)  # what is wrong with one search is wrong with all
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(out, e) from e
    shared = _Shared(scenario, out.absolute(), data_root, reuse, held_objects(data=True))
    with progress.phase(f"search with {len(seeds)} seeds", total=len(seeds)) as advance:
        for seed, files in zip(seeds, workers.map(_searched, shared, seeds, lambda seed: f"seed {seed}"), strict=True):
            for name, content in files.items():
                write_whole(_run(out, seed) / name, content)
            advance(1, f"seed {seed}")
    return SeedResults(tuple(Result.load(_run(out, seed) / RESULT_FILE, trust_code=True) for seed in seeds))


def _run(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _searched(shared: _Shared, seed: int) -> dict[str, bytes]:
    """Search with one seed; gives the files of the run where it is on another machine than the folder."""
    held_again(shared.held)
    wanted = shared.scenario.replace(search__seed=seed)
    if shared.out.is_dir():
        run = _run(shared.out, seed)
        if not (run / RESULT_FILE).is_file():
            search_scenario(wanted, run, resume=(run / LEDGER_FILE).is_file(), data_root=shared.data_root,
                            reuse=shared.reuse)
        return {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        search_scenario(wanted, run, data_root=shared.data_root, reuse=shared.reuse)
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
