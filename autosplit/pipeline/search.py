"""`autosplit.search`: from a scenario to a result, the phases of a search in reading order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosplit.agents import load_agent
from autosplit.agents.base import Agent, Proposer, SearchProblem
from autosplit.agents.enumerate import ExhaustiveAgent
from autosplit.agents.layerwise import LayerwiseProblem
from autosplit.agents.loop import run_search
from autosplit.compression import load_codec
from autosplit.core.accelerator import find_accelerator
from autosplit.core.answers import Answers
from autosplit.core.comparison import CHOSEN, FINALIST, ComparisonRow
from autosplit.core.errors import AutosplitError, ConfigError, ResumeError, unwritable
from autosplit.core.files import write_beside, write_whole
from autosplit.core.hashing import sha256_of
from autosplit.core.measurement import Outcome
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.records import writing
from autosplit.core.result import RESULT_FILE, Chosen, DeploymentFile, Result, TestFigures, provenance
from autosplit.core.scenario import Scenario
from autosplit.core.trust import remember, require_trusted
from autosplit.core.workers import Workers
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer
from autosplit.latency.checked import reporting
from autosplit.pipeline.baselines import PNG, Choice, baselines_of, choose, comparison_row, related
from autosplit.pipeline.cascades import best_cascades, cascades, halves_of
from autosplit.pipeline.choice import Pick, cheapest_of_equals
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.finalists import search_finalists
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger, write_baselines
from autosplit.runtime.deployment import Deployment, Evaluation
from autosplit.training.prepare import prepare
from autosplit.training.scalars import TENSORBOARD_FOLDER, tensorboard_logs

if TYPE_CHECKING:

    from autosplit.agents.policy import CoInferencePolicy

__all__ = ["new_run", "scorer_of", "search_scenario", "warnings_of"]

_WEIGHTS = "best.safetensors"
_KEY_FILE = "supernet.key"
_SCENARIO = "scenario.yaml"
_TIMED = 5  # measurements that a duration is estimated from
_NEARLY_ALL = 0.9  # share of images given one class from which accuracy is called misleading


def search_scenario(
    scenario: Scenario,
    out: Path,
    *,
    resume: bool = False,
    progress: PhaseReporter | None = None,
    data_root: Path | None = None,
    reuse: bool = True,
    context: SearchContext | None = None,
    most_exhaustive: int | None = None,
    workers: Workers | None = None,
) -> Result:
    """What `search` and the command line call: search a scenario and write the run directory.

    Args:
        scenario: What to search.
        out: The run directory: created for a new search, continued with `resume`.
        resume: Continue the run in `out`; the budget of measurements counts as a total.
        progress: Shows the phases.
        data_root: Where data sets lie.
        reuse: Whether measurements and fine-tuned plans of earlier searches in the cache may be used.
        context: The scenario's networks where they are at hand already; made when left out.
        most_exhaustive: Measurements above which the agent `exhaustive` is refused; any number passes when left out.
        workers: Who measures and fine-tunes, where no `context` is given; this process by default.

    Returns:
        The result, which is also in `out/best.json`.

    Raises:
        AutosplitError: The scenario cannot be searched; what was measured is kept in `out`.
        ConfigError: An exhaustive search would take more than `most_exhaustive` measurements; the message says how
            many, and about how long.
    """
    progress = progress or NullProgress()
    scenario = scenario.anchored(data_root)
    for spec in scenario.code:
        require_trusted(spec)
    scorer = scorer_of(scenario)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[phase] = round(time.perf_counter() - start, 2)

    ledger = _open_ledger(scenario, out, resume)
    remember(scenario.code)

    def record(outcome: Outcome) -> None:
        if outcome not in ledger:  # a resumed search comes past its recorded outcomes again
            ledger.record(outcome, scenario.search.agent)

    with ledger, _removed_if_empty(ledger, out, resume), tensorboard_logs(out / TENSORBOARD_FOLDER):
        with timed("prepare"):
            if context is None:
                kind = find_accelerator(scenario.training.accelerator).kind
                context = SearchContext(prepare(
                    scenario, progress, data_root=data_root,
                    require=lambda key: _require_same_networks(out, key, kind)), progress, reuse, workers)
            else:
                networks = context.networks
                _require_same_networks(out, networks.supernet_key, networks.data.accelerator.kind)
        # A resumed search goes through the same proposals and is answered from the ledger until it comes to a plan
        # that nobody measured.
        evaluator = CachedEvaluator(context.evaluator, known=ledger.measurements("F1"))
        if most_exhaustive is not None and scenario.search.agent == ExhaustiveAgent.name:
            _refuse_long(scenario, scorer, context, evaluator, progress, most_exhaustive)
        with timed("baselines"), progress.phase("measure the baselines"):
            baselines = choose(baselines_of(context), scorer, context, scenario.search)
        with timed("search"):
            agent = _search_plans(scenario, scorer, evaluator, ledger, record, progress)
        with timed("fine-tune"):
            finalists = search_finalists(context, scorer, agent.outcomes, scenario.search.finalists, record)
            sources = context.sources("validation")
            others = [outcome for choice in baselines if choice.tuned for outcome in choice.finalists
                      if _may_be_chosen(outcome.plan, context)]
            with progress.phase("join deployments into cascades"):
                joined = cascades(context, scorer, _every(finalists, baselines), scenario.space.cascade_exits)
            may = [outcome for outcome in joined if _may_be_chosen(outcome.plan, context)]
            found = [outcome for outcome in finalists if context.deployable(outcome.plan)]
            pick = cheapest_of_equals([*found, *others, *may], scorer, sources)
            record(pick.taken)
            finalists += best_cascades(joined, scorer, sources)
            best_baseline = cheapest_of_equals([choice.best for choice in baselines], scorer, sources).taken
        with timed("test"), progress.phase("read the test set"):
            tested = _test(scenario, scorer, context, baselines, finalists, pick)
            result = _result(scenario, context, agent, tested, pick, best_baseline, seconds, out)
        _write(result, ledger, agent, baselines, progress, out)
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


def scorer_of(scenario: Scenario) -> Scorer:
    """The scorer of a scenario, after a look at every name in it: a wrong one should not cost a training.

    Raises:
        AutosplitError: A latency model, objective, agent, policy or codec is unknown, cannot be loaded, or answers
            wrongly; or the accelerator is not there.
    """
    find_accelerator(scenario.training.accelerator)
    scorer = Scorer.of(scenario)
    scorer.try_out()
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
        try:
            with writing(out):
                write_whole(out / _SCENARIO, scenario.to_yaml())  # the total may have been raised
        except BaseException:
            ledger.close()
            raise
        return ledger
    if (out / LEDGER_FILE).exists():
        raise ResumeError(f"{out} holds a run already; continue it with --resume {out}, or choose another --out")
    try:
        write_whole(out / _SCENARIO, scenario.to_yaml())
    except OSError as e:
        raise unwritable(out, e) from e
    return Ledger.create(out, scenario)


@contextmanager
def _removed_if_empty(ledger: Ledger, out: Path, resume: bool) -> Iterator[None]:
    """Take a run back that fails before its first measurement, so that the corrected command can use the folder."""
    try:
        yield
    except AutosplitError:
        if not resume and not len(ledger):
            ledger.close()
            for name in (LEDGER_FILE, _KEY_FILE, _SCENARIO, ".lock"):
                (out / name).unlink(missing_ok=True)
            shutil.rmtree(out / TENSORBOARD_FOLDER, ignore_errors=True)
            with suppress(OSError):  # it holds something else
                out.rmdir()
        raise


def _require_same_networks(out: Path, key: str, kind: str) -> None:
    """Refuse to mix measurements of other data, other weights or another accelerator into a run.

    Raises:
        ResumeError: The run was begun with another content of its data set, backbone or weights, or elsewhere.
    """
    path = out / _KEY_FILE
    recorded, *where = path.read_text(encoding="utf-8").split() if path.is_file() else [""]
    if recorded and recorded != key:
        raise ResumeError(f"{out} was begun with other data or weights (supernet {recorded}, now {key}); restore them, "
                          "or start a new run with another --out")
    if recorded and (begun := (where or ["cpu"])[0]) != kind:
        raise ResumeError(f"{out} was begun on accelerator {begun!r} and would go on with {kind!r}, whose measurements "
                          f"differ; resume it with --accelerator {begun}, or start a new run with another --out")
    if not recorded:
        with writing(path):
            write_whole(path, f"{key}\n{kind}\n")


def _refuse_long(
    scenario: Scenario, scorer: Scorer, context: SearchContext, evaluator: CachedEvaluator, progress: PhaseReporter,
    most: int,
) -> None:
    """Refuse to measure everything where that is much, before anything else takes time.

    Raises:
        ConfigError: More than `most` plans are to be measured. The time is estimated from a few that follow each
            other, as they would in the search: the first with a head takes longer. They are kept, as all are.
    """
    problem = _problem(scenario, scorer, evaluator)
    asked = [problem.plans[i] for i in np.flatnonzero(problem.candidates)[:scenario.search.evaluations]]
    new = context.evaluator.unmeasured(evaluator.unmeasured(asked))
    if len(new) <= most:
        return
    middle = len(new) // 2
    with progress.phase("time a few measurements"):
        each = float(np.median([m.seconds for m in context.evaluator.measure(new[middle:middle + _TIMED])]))
    total = len(new) * each
    text = (f"{total:.0f} s" if total < 90 else f"{total / 60:.0f} min" if total < 90 * 60 else f"{total / 3600:.1f} h")
    raise ConfigError(f"agent 'exhaustive' would measure {len(new):,} plans in about {text} ({each:.2f} s each); "
                      f"add --yes to let it, or --evaluations {most} for the first ones only")


# --- the search itself ---------------------------------------------------------------------------------------------


def _problem(scenario: Scenario, scorer: Scorer, evaluator: Evaluator) -> SearchProblem:
    return SearchProblem.of(evaluator, scorer.latency_model, scorer.objective, scorer.conditions, scenario.search.seed,
                            _policy(scenario, scorer))


def _policy(scenario: Scenario, scorer: Scorer) -> CoInferencePolicy | None:
    """The policy that a search starts from."""
    if scenario.search.policy is None:
        return None
    from autosplit.agents.policy import CoInferencePolicy

    return CoInferencePolicy.load(scenario.search.policy, scorer.latency_model, scorer.objective)


def _search_plans(
    scenario: Scenario, scorer: Scorer, evaluator: CachedEvaluator, ledger: Ledger, record: Callable[[Outcome], None],
    progress: PhaseReporter,
) -> Proposer[Any]:
    """Propose, measure, record, observe."""
    settings = scenario.search
    agent: Proposer[Any]
    model = scorer.latency_model
    plans = len(evaluator.space) if settings.granularity == "uniform" else None
    with progress.phase("predict latencies", total=plans) as answered, reporting(model, answered):
        if settings.granularity == "uniform":
            problem = _problem(scenario, scorer, evaluator)
            agent, most = load_agent(settings.agent)(problem), int(problem.candidates.sum())
        else:
            # a schedule is for the measurements that the run began with: a raised total must not change what was
            # proposed
            begun_with = int(ledger.scenario["search"]["evaluations"])
            layers = LayerwiseProblem.of(evaluator, scorer.latency_model, scorer.objective, scorer.conditions,
                                         settings.seed, begun_with)
            agent, most = load_agent(settings.agent, "layer")(layers), settings.evaluations
    total, found = min(settings.evaluations, most), list[Outcome]()
    with progress.phase(f"search with {settings.agent}", total=total) as advance:

        def on_outcome(outcome: Outcome) -> None:
            record(outcome)
            found.append(outcome)
            best = best_outcome(found)
            advance(1, note=f"best {best.measurement.accuracy:.1%}" if best.feasible else "none in time yet")

        run_search(agent, evaluator, scorer, evaluations=settings.evaluations, on_outcome=on_outcome)
    return agent


# --- the end -------------------------------------------------------------------------------------------------------


def _may_be_chosen(plan: Plan, context: SearchContext) -> bool:
    """Whether a baseline's plan is one to deploy, and not one to compare with alone."""
    space = context.networks.scenario.space
    # the user's own files are there before any part of autosplit runs: there is nothing to export
    return plan.codec.kind != "file" and {INPUT: space.whole_on_edge, OUTPUT: space.whole_on_device}.get(
        plan.split, True) and context.deployable(plan)


def _every(finalists: Sequence[Outcome], baselines: Sequence[Choice]) -> list[Outcome]:
    """Every deployment that was fine-tuned, and the uncut network; what is late may do for a few images."""
    return [*finalists, *(outcome for choice in baselines if choice.tuned for outcome in choice.finalists)]


@dataclass(frozen=True)
class _Tested:
    """The one reading of the test set.

    Attributes:
        deployment: The chosen plan.
        evaluation: Of it.
        reference: Accuracy of the uncut network.
        rows: The comparison.
    """

    deployment: Deployment
    evaluation: Evaluation
    reference: float
    rows: tuple[ComparisonRow, ...]


def _test(
    scenario: Scenario, scorer: Scorer, context: SearchContext, baselines: Sequence[Choice],
    finalists: Sequence[Outcome], pick: Pick,
) -> _Tested:
    """Read the test set once, for the chosen plan, the baselines and the other finalists beside it."""
    networks, arithmetic = context.networks, scenario.conditions.device.arithmetic
    deployment = context.deployment(pick.taken.plan, arithmetic)
    evaluation = deployment.evaluate(networks.data, "test")
    chosen, sources = deployment.measurement(evaluation), context.sources("test")
    entrants = [(c.baseline.method, c.name, c.best.plan, c.tuned) for c in baselines]
    splits = [outcome for outcome in finalists if outcome.plan.is_split and not outcome.plan.is_cascade]
    best_split = cheapest_of_equals(splits, scorer, context.sources("validation")).taken.plan if splits else None
    entrants += [(FINALIST, _finalist_name(outcome.plan, best_split), outcome.plan, True)
                 for outcome in finalists if outcome.plan != pick.taken.plan]
    # a cascade stands beside what it is made of
    known = {plan for _, _, plan, tuned in entrants if tuned}
    entrants += [(FINALIST, name, plan, True) for name, plan in halves_of(pick.taken.plan) if plan not in known]
    # what was chosen may be a baseline as well, and is read once
    tested = {(plan, tuned): context.measure(plan, arithmetic, "test", tuned=tuned)
              for _, _, plan, tuned in entrants if plan != pick.taken.plan or not tuned}
    tested[pick.taken.plan, True] = chosen
    # nothing is lost on the way to the untouched backbone
    reference = next(tested[plan, True].accuracy for method, _, plan, _ in entrants if method == PNG)
    rows = [comparison_row(method, name, tested[plan, tuned], chosen, scorer, reference, sources)
            for method, name, plan, tuned in entrants]
    rows.append(comparison_row(CHOSEN, CHOSEN, chosen, chosen, scorer, reference, sources))
    if scenario.search.target == "c":
        plans = [*(plan for _, _, plan, _ in entrants), pick.taken.plan]
        rows = [row.model_copy(update=_memory(context, plan)) for row, plan in zip(rows, plans, strict=True)]
    return _Tested(deployment, evaluation, reference, related(rows))


def _memory(context: SearchContext, plan: Plan) -> dict[str, int]:
    """What a row of the table says of a plan's memory as C; nothing where it cannot be written."""
    use = context.memory.of(plan)
    return {} if isinstance(use, str) else asdict(use)


def _finalist_name(plan: Plan, best_split: Plan | None) -> str:
    if plan.is_cascade:
        return f"best cascade with a {'split' if plan.is_split else 'picture'}"
    return "best split" if plan == best_split else "another finalist"


def _result(
    scenario: Scenario, context: SearchContext, agent: Proposer[Any], tested: _Tested, pick: Pick,
    best_baseline: Outcome, seconds: dict[str, float], out: Path,
) -> Result:
    networks, best, evaluation = context.networks, pick.taken, tested.evaluation
    data, sources = networks.data, context.sources("validation")
    method = next(r.method for r in tested.rows if r.baseline and r.plan == best_baseline.plan.label)
    content = tested.deployment.to_bytes()
    with writing(out):  # an earlier result of this run keeps its weights, whenever this process ends
        weights = write_beside(out / _WEIGHTS, content)
    return Result(
        scenario=scenario, feasible=best.feasible, plan=best.plan, outcome=best, backbone_accuracy=tested.reference,
        test=TestFigures(correct=evaluation.correct, images=evaluation.images,
                         payload_bytes_total=int(evaluation.payload_sizes.sum()),
                         payload_bytes_p95=evaluation.payload_p95, payload_sha256=evaluation.payload_sha256),
        comparison=tested.rows,
        choice=Chosen(best=pick.best.plan.label, equals=tuple(dict.fromkeys(o.plan.label for o in pick.equals)),
                      half_width_points=100 * pick.half_width, images=len(data.validation),
                      sources=None if sources is None else len(np.unique(sources)), best_baseline=method),
        warnings=(*data.notes, *warnings_of(evaluation.answers, data.class_names)),
        deployment=DeploymentFile(blueprint=tested.deployment.blueprint, weights=weights, sha256=sha256_of(content),
                                  class_names=data.class_names),
        provenance=provenance(
            seed=scenario.search.seed, data_fingerprint=data.fingerprint, backbone_key=networks.backbone_key,
            supernet_key=networks.supernet_key, agent=scenario.search.agent, evaluations=len(agent.outcomes),
            seconds=dict(seconds), accelerator=data.accelerator.name),
    )


def warnings_of(answers: Answers, class_names: Sequence[str]) -> list[str]:
    """What makes an accuracy say less than it seems to: classes that are never found, or one named for everything.

    Args:
        answers: Of the chosen plan on test images.
        class_names: One a class.
    """
    found = []
    if answers.most_named_share >= _NEARLY_ALL and len(class_names) > 1:
        found.append(f"{answers.most_named_share:.1%} of the test images are given the class "
                     f"{class_names[answers.most_named]!r}, and {answers.most_common_share:.1%} belong to one class: "
                     f"accuracy says little here; balanced accuracy is {answers.balanced_accuracy:.1%}")
    if answers.least_recall == 0:
        found.append(f"class {class_names[answers.least_recalled]!r} is never recognised; balanced accuracy is "
                     f"{answers.balanced_accuracy:.1%}, accuracy {answers.accuracy:.1%}")
    return found


def _write(
    result: Result, ledger: Ledger, agent: Proposer[Any], baselines: Sequence[Choice], progress: PhaseReporter,
    out: Path,
) -> None:
    """The run directory's files for people: result, Pareto table, picture, policy, report."""
    from autosplit.agents.ppo import PPOAgent
    from autosplit.report.draw_matplotlib import write_figure
    from autosplit.report.figures import tradeoff_figure
    from autosplit.report.page import REPORT_FILE, write_report
    from autosplit.report.pareto import pareto_frame

    result.save(out / RESULT_FILE)
    outcomes = ledger.outcomes()
    beside = list({o.plan: o.measurement for choice in baselines for o in choice.measured}.values())
    write_baselines(out, beside)
    with writing(out):
        write_whole(out / "pareto.csv", pareto_frame(outcomes).to_csv(index=False))
    picture = tradeoff_figure(outcomes, result.comparison, result.outcome, result.best_baseline)
    write_figure(picture, out / "tradeoff.png")
    if isinstance(agent, PPOAgent) and len(agent.outcomes) >= 2:
        agent.inform(o.measurement for choice in baselines for o in choice.measured)
        with progress.phase("train the policy for other conditions"), writing(out / "policy"):
            agent.policy.save(out / "policy")
    with progress.phase("write the report"):
        write_report(result, outcomes, out / REPORT_FILE, beside)
