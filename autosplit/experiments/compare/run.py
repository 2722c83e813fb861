"""From a list of scenarios to rows: a search and every baseline under the same rules, one scenario after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path

from autosplit.core.comparison import ComparisonRow
from autosplit.core.errors import AutosplitError, ConfigError, ResultError, unwritable
from autosplit.core.hashing import content_hash
from autosplit.core.measurement import Measurement
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.core.scenario import Scenario
from autosplit.core.workers import Here, Workers
from autosplit.evaluation.scorer import Scorer
from autosplit.experiments.compare.literature import (
    codec_baselines,
    literature_scenario,
    student_baseline,
    student_scenario,
    uniform_baseline,
)
from autosplit.pipeline.baselines import Baseline, baselines_of, choose, comparison_row, foreseen, related
from autosplit.pipeline.context import SearchContext, networks_key
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from autosplit.pipeline.search import scorer_of, search_scenario
from autosplit.training.prepare import prepare

__all__ = ["Comparison", "Failure", "Report", "compare"]

_RUNS = "runs"
_NETWORKS_AT_HAND = 3  # the search's and two of baselines; scenarios of one list mostly differ in conditions alone
_Entrants = list[tuple[list[Baseline], SearchContext]]


@dataclass(frozen=True)
class Comparison:
    """One scenario, done.

    Attributes:
        scenario: What was compared under.
        rows: One a baseline, test images, the search last.
        measured: What each baseline measured on validation images (F1), by method.
        run: The search's run directory.
        networks: Hash of the search's networks: scenarios with the same one share measurements.
    """

    scenario: Scenario
    rows: tuple[ComparisonRow, ...]
    measured: dict[str, tuple[Measurement, ...]]
    run: Path
    networks: str


@dataclass(frozen=True)
class Failure:
    """A scenario that could not be compared, and why."""

    scenario: Scenario
    error: AutosplitError


@dataclass
class Report:
    """How far a list of scenarios is.

    Attributes:
        done: The comparisons, in order.
        failed: The scenarios that could not be compared.
    """

    done: list[Comparison] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


def compare(
    scenarios: Sequence[Scenario],
    out: Path,
    *,
    progress: PhaseReporter | None = None,
    data_root: Path | None = None,
    workers: Workers | None = None,
    on_done: Callable[[Report], None] = lambda report: None,  # noqa: ARG005
) -> Report:
    """Compare a search with every baseline in each scenario; what is in the cache or in `out` is not done again.

    Exits are left out, for the search as for the baselines. Workers fine-tune what the baselines of all scenarios with
    the same networks need at once; the searches follow one another.

    Args:
        scenarios: What to compare under; networks are trained once for those that differ in conditions alone and
            follow one another.
        out: Folder whose `runs` holds the searches.
        progress: Shows the phases.
        data_root: Where data sets lie.
        workers: Who measures and fine-tunes; this process by default.
        on_done: Called after each scenario that is done, so that an interrupted call leaves what it had.

    Returns:
        The comparisons, and the scenarios that failed.

    Raises:
        AutosplitError: A name in a scenario is unknown, or not one scenario could be compared.
    """
    for scenario in scenarios:
        scorer_of(scenario)  # a wrong name in the last one should not cost the searches before it
    _make(out)
    progress, report = progress or NullProgress(), Report()
    contexts = _Contexts(progress, data_root, workers or Here())
    numbers = count(1)
    for _, alike in groupby(map(_without_exits, scenarios), key=networks_key):
        group = list(alike)
        if not contexts.workers.here:
            with suppress(AutosplitError):  # each scenario meets it again, and says so
                _begin(group, contexts)
        for scenario in group:
            title = f"scenario {next(numbers)} of {len(scenarios)}: {scenario.name}, {_where(scenario)}"
            try:
                with progress.phase(title):
                    report.done.append(_compared(scenario, out, contexts, progress))
            except AutosplitError as e:
                report.failed.append(Failure(scenario, e))
            else:
                on_done(report)
    if report.failed and not report.done:
        for folder in (out / _RUNS, out):
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise report.failed[0].error
    return report


def _without_exits(scenario: Scenario) -> Scenario:
    """Methods are compared as deployments of one kind: an exit could stand before any of them."""
    return scenario.replace(space__exits=())


def _make(out: Path) -> None:
    """A folder that cannot be written should not cost a training."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(out, e) from e


def _where(scenario: Scenario) -> str:
    conditions = scenario.conditions
    return f"{conditions.device.name} -> {conditions.channel.name}, {conditions.budget_ms:g} ms"


class _Contexts:
    """Networks, prepared once for as long as scenarios with the same ones follow one another.

    Attributes:
        workers: Who measures and fine-tunes.
    """

    def __init__(self, progress: PhaseReporter, data_root: Path | None, workers: Workers) -> None:
        self._progress, self._data_root, self.workers = progress, data_root, workers
        self._made: dict[str, SearchContext] = {}

    def of(self, scenario: Scenario) -> SearchContext:
        key = networks_key(scenario)
        if key not in self._made:
            while len(self._made) >= _NETWORKS_AT_HAND:
                del self._made[next(iter(self._made))]
            networks = prepare(scenario, self._progress, data_root=self._data_root)
            self._made[key] = SearchContext(networks, self._progress, workers=self.workers)
        return self._made[key]


def _entrants(scenario: Scenario, contexts: _Contexts) -> _Entrants:
    """The baselines that a search does not choose itself, those of one context together."""
    own, literature = contexts.of(scenario), contexts.of(literature_scenario(scenario))
    student = contexts.of(student_scenario(scenario))
    return [(codec_baselines(literature.networks.supernet), literature),
            ([student_baseline(student.networks.supernet)], student),
            ([uniform_baseline(own.networks.supernet)], own)]


def _begin(scenarios: Sequence[Scenario], contexts: _Contexts) -> None:
    """Let workers fine-tune what the baselines of scenarios with the same networks need, all of it at once."""
    own = contexts.of(scenarios[0])
    entrants = [(baselines_of(own), own), *_entrants(scenarios[0], contexts)]
    for arithmetic, alike in groupby(scenarios, key=lambda scenario: scenario.conditions.device.arithmetic):
        group = [(Scorer.of(scenario), scenario.search) for scenario in alike]
        for baselines, context in entrants:
            context.begin([plan for scorer, settings in group
                           for plan in foreseen(baselines, scorer, context, settings)], arithmetic)


def _compared(scenario: Scenario, out: Path, contexts: _Contexts, progress: PhaseReporter) -> Comparison:
    scorer, arithmetic = Scorer.of(scenario), scenario.conditions.device.arithmetic
    own = contexts.of(scenario)
    result, run = _searched(scenario, out, own, progress)
    choices = []
    for baselines, context in _entrants(scenario, contexts):
        with progress.phase(f"baselines {', '.join(b.method for b in baselines)}"):
            choices += [(choice, context) for choice in choose(baselines, scorer, context, scenario.search)]
    rows = []
    with progress.phase("read the test set for the baselines"):
        chosen = own.measure(result.plan, arithmetic, "test")
        for choice, context in choices:
            tested = context.measure(choice.best.plan, arithmetic, "test")
            rows.append(comparison_row(choice.baseline.method, choice.name, tested, chosen, scorer,
                                       result.backbone_accuracy, own.sources("test")))
    simple, searched = ([r for r in result.comparison if r.baseline is baseline] for baseline in (True, False))
    measured = {c.method: tuple(own.evaluator.measure(c.plans)) for c in baselines_of(own)}
    measured["autosplit"] = _measured_by_search(run, own, [m for pool in measured.values() for m in pool])
    measured |= {c.baseline.method: tuple(o.measurement for o in c.measured) for c, _ in choices}
    return Comparison(scenario, related([*simple, *rows, *searched]), measured, run, own.networks.supernet_key)


def _searched(scenario: Scenario, out: Path, context: SearchContext, progress: PhaseReporter) -> tuple[Result, Path]:
    """The search's result and its run directory: a finished one of this scenario and these networks, or a new one."""
    key = content_hash({"scenario": scenario.fingerprint, "networks": context.networks.supernet_key})
    run = out / _RUNS / f"{scenario.name}-{key[:10]}"
    with suppress(ConfigError, ResultError):  # there is none yet, or none that this version reads
        return Result.load(run / "best.json"), run
    resume = (run / LEDGER_FILE).exists()
    return search_scenario(scenario, run, resume=resume, progress=progress, context=context), run


def _measured_by_search(run: Path, context: SearchContext, simple: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """What the agent measured, and the baselines that are in its space, which a search measures too."""
    codecs = context.evaluator.space.codecs
    known = {m.plan: m for m in simple if m.plan.codec in codecs.get(m.plan.split, ())}
    return tuple((known | {m.plan: m for m in Ledger.read(run).measurements("F1")}).values())
