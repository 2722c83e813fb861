"""`autosplit.search`: what a notebook calls; the command `search` has more options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autosplit import searching
from autosplit.errors import ConfigError
from autosplit.report.progress import Progress
from autosplit.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from autosplit.results import Result

__all__ = ["search"]


def search(
    scenario: Scenario | str | Path = "default",
    out: str | Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    data_root: str | Path | None = None,
    reuse: bool = True,
) -> Result:
    """Search the best split, sparsity and compression, and write the run directory.

    What was measured is in the run directory as it happens, so a search that was interrupted goes on with `resume`.

    Args:
        scenario: What to search: a scenario, the name of a packaged one, or the path of a YAML file.
        out: The run directory; a new one below `results/` when left out.
        resume: Go on with the run in `out`. Only `search.evaluations` of the scenario may differ, which counts as a
            total.
        quiet: Whether to say nothing; otherwise stderr tells of each phase.
        data_root: Folder that data sets lie in.
        reuse: Whether measurements and fine-tuned plans of earlier searches may be taken from the cache.

    Returns:
        The result. `result.feasible` tells whether its plan is in time, `result.path` where it was written.

    Raises:
        AutosplitError: Something in the scenario is wrong; the message says what, where, and what to do.
    """
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(str(scenario))
    if resume and out is None:
        raise ConfigError("resume=True goes on with a run: name its directory with out")
    run = searching.new_run(scenario) if out is None else Path(out)
    return searching.search(scenario, run, resume=resume, progress=Progress(quiet=quiet), reuse=reuse,
                            data_root=None if data_root is None else Path(data_root))
