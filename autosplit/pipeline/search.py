"""From a scenario to a result: the phases of a search, in reading order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.agents import load_agent
from autosplit.agents.base import Agent, Proposer, SearchProblem
from autosplit.agents.enumerate import ExhaustiveAgent
from autosplit.agents.layerwise import LayerwiseProblem
from autosplit.agents.loop import run_search
from autosplit.compression import load_codec
from autosplit.core.errors import AutosplitError, ConfigError, ResumeError, unwritable
from autosplit.core.plan import Measurement, Outcome
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import RESULT_FILE, DeploymentFile, Result, TestFigures, provenance
from autosplit.core.scenario import Scenario
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.memo import MemoEvaluator
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.baselines import PNG, Choice, choose, comparison_row, related, simple_baselines
from autosplit.pipeline.context import Workshop
from autosplit.pipeline.finalists import Finalists, fine_tuned
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from autosplit.training.prepare import Networks, prepare
from autosplit.training.scalars import TENSORBOARD_FOLDER, tensorboard_logs

if TYPE_CHECKING:
    from autosplit.agents.policy import CoInferencePolicy

__all__ = ["checked", "new_run", "search"]

_WEIGHTS = "best.safetensors"
_KEY_FILE = "supernet.key"
_TIMED = 5  # measurements that a duration is told from


@dataclass
class _Run:
    """What the phases hand on."""

    scenario: Scenario
    out: Path
    progress: PhaseReporter
    workshop: Workshop
    scorer: Scorer
    ledger: Ledger
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - start, 2)

    @property
    def finalists(self) -> Finalists:
        return self.workshop.finalists(self.scenario.conditions.device.arithmetic)


def search(
    scenario: Scenario,
    out: Path,
    *,
    resume: bool = False,
    progress: PhaseReporter | None = None,
    data_root: Path | None = None,
    reuse: bool = True,
    workshop: Workshop | None = None,
    most_exhaustive: int | None = None,
) -> Result:
    """Search a scenario and write the run directory.

    Args:
        scenario: What to search.
        out: The run directory: created for a new search, continued with `resume`.
        resume: Continue the run in `out`; the budget of measurements counts as a total.
        progress: Shows the phases.
        data_root: Where data sets lie.
        reuse: Whether measurements and fine-tuned plans of earlier searches in the cache may be used.
        workshop: The scenario's networks where they are at hand already; made when left out.
        most_exhaustive: Measurements above which the agent `exhaustive` is refused; any number passes when left out.

    Returns:
        The result, which is also in `out/best.json`.

    Raises:
        AutosplitError: The scenario cannot be searched; what was measured is kept in `out`.
        ConfigError: An exhaustive search would take more than `most_exhaustive` measurements; the message says how
            many, and about how long.
    """
    progress = progress or NullProgress()
    scorer = checked(scenario)
    ledger = _open_ledger(scenario, out, resume)
    with ledger, _nothing_left_behind(ledger, out, resume), tensorboard_logs(out / TENSORBOARD_FOLDER):
        start = time.perf_counter()
        workshop = workshop or Workshop(prepare(scenario, progress, data_root=data_root), progress, reuse)
        _require_same_networks(out, workshop.networks)
        run = _Run(scenario, out, progress, workshop, scorer, ledger)
        run.seconds["prepare"] = round(time.perf_counter() - start, 2)
        if most_exhaustive is not None and scenario.search.agent == ExhaustiveAgent.name:
            _refuse_long(run, most_exhaustive)
        with run.timed("baselines"), progress.phase("measure the baselines"):
            baselines = _baselines(run)
        with run.timed("search"):
            agent = _search_plans(run)
        with run.timed("fine-tune"):
            best = best_outcome(_fine_tuned(run, agent.outcomes))
        with run.timed("test"), progress.phase("read the test set"):
            result = _conclude(run, agent, baselines, best)
        _write(run, result, agent)
    return result


def new_run(scenario: Scenario, below: Path = Path("results")) -> Path:
    """A run directory that does not exist yet.

    Args:
        scenario: What is to be searched, which gives it its name.
        below: Folder that it is to lie in.

    Raises:
        ConfigError: There are thousands of runs of this scenario.
    """
    stem = f"{scenario.name}-{scenario.conditions.budget_ms:g}ms"
    for number in range(1, 10_000):
        path = below / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            return path
    raise ConfigError(f"{below} is full of runs of {stem}; name another folder with --out")


def checked(scenario: Scenario) -> Scorer:
    """What plans are judged by, after a look at every name in a scenario: a wrong one should not cost a training.

    Raises:
        AutosplitError: A latency model, objective, agent, policy or codec is unknown or cannot be loaded.
    """
    scorer = Scorer.of(scenario)
    settings = scenario.search
    agent = load_agent(settings.agent, settings.granularity)
    if settings.policy is None and issubclass(agent, Agent) and agent.needs_policy:
        raise ConfigError(f"agent {settings.agent!r} needs a trained policy: name its folder with --policy")
    if settings.policy is not None and settings.granularity == "layer":
        raise ConfigError("a search layer by layer cannot start from a policy; leave out --policy")
    _policy(scenario, scorer)
    for family in scenario.codecs:
        load_codec(family)
    return scorer


def _open_ledger(scenario: Scenario, out: Path, resume: bool) -> Ledger:
    if resume:
        ledger = Ledger.open(out, scenario)
        (out / "scenario.yaml").write_text(scenario.to_yaml(), encoding="utf-8")  # the total may have been raised
        return ledger
    if (out / LEDGER_FILE).exists():
        raise ResumeError(f"{out} holds a run already; continue it with --resume {out}, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scenario.yaml").write_text(scenario.to_yaml(), encoding="utf-8")
    except OSError as e:
        raise unwritable(out, e) from e
    return Ledger.create(out, scenario)


def _require_same_networks(out: Path, prepared: Networks) -> None:
    """Refuse to mix measurements of other data or other weights into a run.

    Raises:
        ResumeError: The run was begun with another content of its data set, backbone or weights.
    """
    path = out / _KEY_FILE
    recorded = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if recorded and recorded != prepared.supernet_key:
        raise ResumeError(f"{out} was begun with other data or weights (supernet {recorded}, now "
                          f"{prepared.supernet_key}); restore them, or start a new run with another --out")
    path.write_text(prepared.supernet_key + "\n", encoding="utf-8")


def _refuse_long(run: _Run, most: int) -> None:
    """Refuse to measure everything where that is much, before anything else takes time.

    Raises:
        ConfigError: More than `most` plans are to be measured. The time is told from a few that follow each other, as
            they would in the search: the first with a head takes longer. They are kept, as all measurements are.
    """
    evaluator = run.workshop.evaluator
    problem = _problem(run, evaluator)
    recorded = {m.plan for m in run.ledger.measurements("F1")}
    asked = [problem.plans[i] for i in np.flatnonzero(problem.candidates)[:run.scenario.search.evaluations]]
    new = evaluator.unmeasured([plan for plan in asked if plan not in recorded])
    if len(new) <= most:
        return
    middle = len(new) // 2
    with run.progress.phase("time a few measurements"):
        seconds = float(np.median([m.seconds for m in evaluator.measure(new[middle:middle + _TIMED])]))
    raise ConfigError(f"agent 'exhaustive' would measure {len(new):,} plans in about {_duration(len(new) * seconds)} "
                      f"({seconds:.2f} s each); add --yes to let it, or --evaluations {most} for the first ones only")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def _nothing_left_behind(ledger: Ledger, out: Path, resume: bool) -> Iterator[None]:
    """Take a run back that ends before its first measurement, so that the corrected command can use the folder."""
    try:
        yield
    except AutosplitError:
        if not resume and not len(ledger):
            ledger.close()
            for name in (LEDGER_FILE, _KEY_FILE, "scenario.yaml", ".lock"):
                (out / name).unlink(missing_ok=True)
            shutil.rmtree(out / TENSORBOARD_FOLDER, ignore_errors=True)
            with suppress(OSError):  # it holds something else
                out.rmdir()
        raise


def _baselines(run: _Run) -> list[Choice]:
    splits = [point.name for point in run.workshop.networks.points]
    baselines = simple_baselines(splits, run.scenario.space.jpeg_qualities)
    return [choose(c, run.scorer, run.workshop.evaluator, run.finalists) for c in baselines]


# --- the search itself ---------------------------------------------------------------------------------------------


def _problem(run: _Run, evaluator: Evaluator) -> SearchProblem:
    scorer, settings = run.scorer, run.scenario.search
    return SearchProblem.of(evaluator, scorer.latency_model, scorer.objective, run.scenario.conditions, settings.seed,
                            _policy(run.scenario, scorer))


def _policy(scenario: Scenario, scorer: Scorer) -> CoInferencePolicy | None:
    """The policy that a search starts from."""
    if scenario.search.policy is None:
        return None
    from autosplit.agents.policy import CoInferencePolicy

    return CoInferencePolicy.load(scenario.search.policy, scorer.latency_model, scorer.objective)


def _search_plans(run: _Run) -> Proposer[Any]:
    """Propose, measure, observe; a resumed run goes through the same proposals and is answered from the ledger."""
    settings, scorer = run.scenario.search, run.scorer
    recorded = run.ledger.measurements("F1")

    def record(measurement: Measurement) -> None:
        run.ledger.record(scorer.outcome(measurement), settings.agent)
        best = best_outcome(run.ledger.outcomes("F1"))
        state = f"best {best.measurement.accuracy:.1%}" if best.feasible else "none in time yet"
        advance(1, note=state)

    memo = MemoEvaluator(run.workshop.evaluator, recorded, record)
    with run.progress.phase("predict latencies"):
        agent, most = _agent(run, memo)
    total = min(settings.evaluations, most)
    with run.progress.phase(f"search with {settings.agent}", total=total) as advance:
        if recorded:
            advance(min(len(recorded), total))
        run_search(agent, memo, scorer.latency_model, scorer.objective, run.scenario.conditions,
                   evaluations=settings.evaluations)
    return agent


def _agent(run: _Run, evaluator: MemoEvaluator) -> tuple[Proposer[Any], int]:
    """The agent of the scenario, and how many plans it has to propose at most."""
    settings, scorer = run.scenario.search, run.scorer
    if settings.granularity == "uniform":
        problem = _problem(run, evaluator)
        return load_agent(settings.agent)(problem), int(problem.candidates.sum())
    # a schedule is for the measurements that the run began with: a raised total must not change what was proposed
    begun_with = int(run.ledger.scenario["search"]["evaluations"])
    layers = LayerwiseProblem.of(evaluator, scorer.latency_model, scorer.objective, run.scenario.conditions,
                                 settings.seed, begun_with)
    return load_agent(settings.agent, "layer")(layers), settings.evaluations


def _fine_tuned(run: _Run, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The finalists on validation data, each in the ledger as soon as it is measured."""
    recorded = {m.plan for m in run.ledger.measurements("F3")}

    def outcome(measurement: Measurement) -> Outcome:
        found = run.scorer.outcome(measurement)
        if measurement.plan not in recorded:
            run.ledger.record(found, run.scenario.search.agent)
        return found

    return fine_tuned(run.finalists, outcomes, run.scenario.search.finalists, outcome)


# --- the end -------------------------------------------------------------------------------------------------------


def _conclude(run: _Run, agent: Proposer[Any], baselines: Sequence[Choice], best: Outcome) -> Result:
    """Read the test set once, for the chosen plan and the baselines beside it."""
    prepared, scenario, scorer = run.workshop.networks, run.scenario, run.scorer
    deployment = run.finalists.deployment(best.plan)
    evaluation = deployment.evaluate(prepared.data, "test")
    tested = {c.baseline.method: run.finalists.measure(c.best.plan, "test") for c in baselines}
    reference = tested[PNG].accuracy  # nothing is lost on the way to the untouched backbone
    rows = [comparison_row(c.baseline.method, c.name, tested[c.baseline.method], scorer, reference)
            for c in baselines]
    rows.append(comparison_row("autosplit", "autosplit", deployment.measurement(evaluation), scorer, reference,
                               chosen=True))
    weights = run.out / _WEIGHTS
    return Result(
        scenario=scenario, feasible=best.feasible, plan=best.plan, outcome=best, backbone_accuracy=reference,
        test=TestFigures(correct=evaluation.correct, images=evaluation.images,
                         payload_bytes_total=int(evaluation.payload_sizes.sum()),
                         payload_bytes_p95=evaluation.payload_p95, payload_sha256=evaluation.payload_sha256),
        comparison=related(rows),
        deployment=DeploymentFile(blueprint=deployment.blueprint, weights=_WEIGHTS, sha256=deployment.save(weights),
                                  class_names=prepared.data.class_names),
        provenance=provenance(
            seed=scenario.search.seed, data_fingerprint=prepared.data.fingerprint, backbone_key=prepared.backbone_key,
            supernet_key=prepared.supernet_key, agent=scenario.search.agent, evaluations=len(agent.outcomes),
            seconds=dict(run.seconds)),
    )


def _write(run: _Run, result: Result, agent: Proposer[Any]) -> None:
    """The run directory's files for people: result, Pareto table, picture, policy, report."""
    from autosplit.agents.ppo import PPOAgent
    from autosplit.report.page import REPORT_FILE, write_report
    from autosplit.report.pareto import pareto_frame
    from autosplit.report.plots import tradeoff_figure

    result.save(run.out / RESULT_FILE)
    outcomes = run.ledger.outcomes()
    pareto_frame(outcomes).to_csv(run.out / "pareto.csv", index=False)
    tradeoff_figure(outcomes, result.comparison, result.outcome, run.out / "tradeoff.png")
    if isinstance(agent, PPOAgent) and len(agent.outcomes) >= 2:
        with run.progress.phase("train the policy for other conditions"):
            agent.policy.save(run.out / "policy")
    with run.progress.phase("write the report"):
        write_report(result, outcomes, run.out / REPORT_FILE)
