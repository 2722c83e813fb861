"""From a scenario to a result: the phases of a search, in reading order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from autosplit.agents import load_agent
from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.loop import run_search
from autosplit.compression import load_codec
from autosplit.compression.codecs import NestedCodec
from autosplit.compression.network import SplitNetwork
from autosplit.errors import AutosplitError, ConfigError, ResultError, ResumeError
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.baselines import Baseline, comparison_rows, trivial_deployments
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.memo import MemoEvaluator
from autosplit.evaluation.store import StoredEvaluator
from autosplit.latency import CheckedLatencyModel, load_latency_model
from autosplit.ledger import LEDGER_FILE, Ledger
from autosplit.objective import Objective, best_outcome, load_objective, score
from autosplit.plan import INPUT, OUTPUT, Measurement, Outcome, Plan
from autosplit.report.progress import NullProgress, PhaseReporter
from autosplit.results import DeploymentFile, Result, TestFigures, provenance
from autosplit.runtime.deployment import Blueprint, Deployment
from autosplit.scenario import Scenario, content_hash
from autosplit.training.finetune import finetune
from autosplit.training.loop import accuracy, steps_per_epoch
from autosplit.training.prepare import Prepared, prepare

__all__ = ["search"]

_WEIGHTS = "best.safetensors"
_KEY_FILE = "supernet.key"
_MEASURING = 1  # raised when F1 measuring changes, so that older stored measurements are not taken for new ones
_MOST_TRIES = 3  # finalists tried, in multiples of those asked for, while fine-tuned payloads miss the budget


@dataclass
class _Run:
    """What the phases hand on."""

    scenario: Scenario
    out: Path
    progress: PhaseReporter
    prepared: Prepared
    latency_model: CheckedLatencyModel
    objective: Objective
    ledger: Ledger
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - start, 2)

    def outcome(self, measurement: Measurement) -> Outcome:
        return score([measurement], self.latency_model, self.objective, self.scenario.conditions)[0]


def search(
    scenario: Scenario,
    out: Path,
    *,
    resume: bool = False,
    progress: PhaseReporter | None = None,
    data_root: Path | None = None,
    reuse: bool = True,
) -> Result:
    """Search a scenario and write the run directory.

    Args:
        scenario: What to search.
        out: The run directory: created for a new search, continued with `resume`.
        resume: Continue the run in `out`; the budget of measurements counts as a total.
        progress: Shows the phases.
        data_root: Where data sets lie.
        reuse: Whether measurements and fine-tuned plans of earlier searches in the cache may be used.

    Returns:
        The result, which is also in `out/best.json`.

    Raises:
        AutosplitError: The scenario cannot be searched; what was measured is kept in `out`.
    """
    progress = progress or NullProgress()
    latency_model = load_latency_model(scenario.latency_model)
    objective = load_objective(scenario.objective)
    load_agent(scenario.search.agent)  # a wrong name should not cost a training
    load_codec(scenario.codec)
    ledger = _open_ledger(scenario, out, resume)
    with ledger, _nothing_left_behind(ledger, out, resume):
        start = time.perf_counter()
        prepared = prepare(scenario, progress, data_root=data_root)
        _require_same_networks(out, prepared)
        run = _Run(scenario, out, progress, prepared, latency_model, objective, ledger)
        run.seconds["prepare"] = round(time.perf_counter() - start, 2)
        live = LiveEvaluator(prepared)
        evaluator: Evaluator = StoredEvaluator(live, _store_path(run)) if reuse else MemoEvaluator(live)
        with run.timed("baselines"), progress.phase("measure the trivial deployments"):
            baselines = trivial_deployments(evaluator, latency_model, scenario.conditions,
                                            [p.name for p in prepared.points], scenario.space.jpeg_qualities)
        with run.timed("search"):
            agent = _search_plans(run, evaluator)
        with run.timed("fine-tune"):
            finalists = _finalists(run, agent.outcomes, reuse)
        with run.timed("test"), progress.phase("read the test set"):
            result = _conclude(run, agent, baselines, finalists)
        _write(run, result, agent)
    return result


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
        reason = e.strerror or str(e)
        raise ConfigError(f"cannot write to {out}: {reason}; choose a folder you may write to with --out") from e
    return Ledger.create(out, scenario)


def _require_same_networks(out: Path, prepared: Prepared) -> None:
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
            with suppress(OSError):  # it holds something else
                out.rmdir()
        raise


def _store_path(run: _Run) -> Path:
    settings = run.scenario.search
    key = content_hash({"recipe": _MEASURING, "supernet": run.prepared.supernet_key,
                        "validation": settings.validation_images, "recalibration": settings.recalibration_images})
    return run.prepared.cache.root / "measurements" / f"{key}.jsonl"


# --- the search itself ---------------------------------------------------------------------------------------------


def _search_plans(run: _Run, evaluator: Evaluator) -> Agent:
    """Propose, measure, observe; a resumed run goes through the same proposals and is answered from the ledger."""
    settings = run.scenario.search
    recorded = run.ledger.measurements("F1")
    total = max(1, settings.evaluations)

    def record(measurement: Measurement) -> None:
        run.ledger.record(run.outcome(measurement), settings.agent)
        best = best_outcome(run.ledger.outcomes("F1"))
        state = f"best {best.measurement.accuracy:.1%}" if best.feasible else "none in time yet"
        advance(1, note=state)

    memo = MemoEvaluator(evaluator, recorded, record)
    with run.progress.phase("predict latencies"):
        problem = SearchProblem.of(memo, run.latency_model, run.objective, run.scenario.conditions, settings.seed)
        agent = load_agent(settings.agent)(problem)
    total = min(total, int(problem.candidates.sum()))
    with run.progress.phase(f"search with {settings.agent}", total=total) as advance:
        if recorded:
            advance(min(len(recorded), total))
        run_search(agent, memo, run.latency_model, run.objective, run.scenario.conditions,
                   evaluations=settings.evaluations)
    return agent


def _finalists(run: _Run, outcomes: Sequence[Outcome], reuse: bool) -> list[_Finalist]:
    """Fine-tune the best plans; go on to the next ones as long as every payload so far grew beyond the budget."""
    wanted, found = run.scenario.search.finalists, list[_Finalist]()
    for number, plan in enumerate(_ranked_heads(outcomes)[: _MOST_TRIES * wanted]):
        if number >= wanted and any(f.outcome.feasible for f in found):
            break
        found.append(_finalist(run, plan, number, reuse))
    return found


def _ranked_heads(outcomes: Sequence[Outcome]) -> list[Plan]:
    """Feasible plans, best first, one for each pruned head: fine-tuning changes what a head can do, not its cost.

    Where none is feasible, the least infeasible one alone.
    """
    feasible = [o for o in outcomes if o.feasible]
    if not feasible:
        return [best_outcome(outcomes).plan]
    chosen: dict[tuple[object, ...], Plan] = {}
    for outcome in sorted(feasible, key=lambda o: -o.reward):
        chosen.setdefault((outcome.plan.split, outcome.plan.sparsity), outcome.plan)
    return list(chosen.values())


# --- finalists -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finalist:
    deployment: Deployment
    outcome: Outcome


def _finalist(run: _Run, plan: Plan, number: int, reuse: bool) -> _Finalist:
    """Fine-tune a plan, make it a deployment, and measure that on validation data through real payloads."""
    start = time.perf_counter()
    prepared, settings = run.prepared, run.scenario.training
    blueprint = _blueprint(run, plan)
    trained = plan.split == INPUT or (plan.split == OUTPUT and plan.sparsity == 0.0)
    path = prepared.cache.root / "finalists" / f"{blueprint.key}.safetensors"
    kept = _kept_finalist(blueprint, path) if reuse and not trained else None
    if trained:
        halves = (nn.Identity(), prepared.backbone)
        network = SplitNetwork(*(halves if plan.split == INPUT else reversed(halves)))
        deployment = Deployment.fit(blueprint, network, prepared.data)
    elif kept is not None:
        with run.progress.phase(f"finalist {number + 1}: from the cache"):
            deployment = kept
    else:
        network = prepared.supernet.extract(plan)
        steps = settings.finetune_epochs * steps_per_epoch(prepared.data, settings.batch_size)
        with run.progress.phase(f"fine-tune finalist {number + 1}", total=steps) as advance:
            torch.manual_seed(run.scenario.search.seed)  # dropout: whatever was drawn before, the same plan comes out
            finetune(network, prepared.teacher, prepared.data, settings, run.scenario.search.seed, advance)
            deployment = Deployment.fit(blueprint, network, prepared.data)
        with suppress(OSError, ConfigError):  # a cache that cannot be written costs time, not results
            path.parent.mkdir(parents=True, exist_ok=True)
            deployment.save(path)
    evaluation = deployment.evaluate(prepared.data, "validation")
    outcome = run.outcome(deployment.measurement(evaluation, time.perf_counter() - start))
    if plan not in {m.plan for m in run.ledger.measurements("F3")}:
        run.ledger.record(outcome, run.scenario.search.agent)
    return _Finalist(deployment, outcome)


def _kept_finalist(blueprint: Blueprint, path: Path) -> Deployment | None:
    """A plan that an earlier search fine-tuned, unless there is none or the file is damaged."""
    try:
        return Deployment.load(blueprint, path)
    except ResultError:
        return None


def _blueprint(run: _Run, plan: Plan) -> Blueprint:
    prepared, settings = run.prepared, run.scenario.training
    supernet, data = prepared.supernet, prepared.data
    keep: tuple[int, ...] = ()
    if plan.split != INPUT:
        pruner = supernet.pruners[plan.split]
        counts = pruner.keep_counts(plan.sparsity)
        keep = counts if any(k < g.channels for k, g in zip(counts, pruner.groups, strict=True)) else ()
    key = content_hash({"supernet": prepared.supernet_key, "plan": plan.model_dump(mode="json"),
                        "epochs": settings.finetune_epochs, "lr": settings.finetune_lr, "batch": settings.batch_size,
                        "seed": run.scenario.search.seed})
    codec: NestedCodec | None = supernet.codec(plan.split) if plan.codec.kind == "code" else None
    return Blueprint(
        backbone=run.scenario.backbone, num_classes=data.num_classes, image_shape=data.shape, plan=plan, keep=keep,
        key=key, feature_shape=codec.shape if codec else (), grid=codec.grids[plan.codec.grid or 0] if codec else None,
        patch=codec.patch if codec else 1, nonnegative=codec.nonnegative if codec else True,
    )


# --- the end -------------------------------------------------------------------------------------------------------


def _conclude(run: _Run, agent: Agent, baselines: Sequence[Baseline], finalists: Sequence[_Finalist]) -> Result:
    """Choose among the finalists on validation data, then read the test set once."""
    prepared, scenario = run.prepared, run.scenario
    best = best_outcome(f.outcome for f in finalists)
    deployment = next(f.deployment for f in finalists if f.outcome is best)
    evaluation = deployment.evaluate(prepared.data, "test")
    measured = deployment.measurement(evaluation)
    latency = run.latency_model.latency([measured.workload], [scenario.conditions]).summary(0)
    accuracies = _test_accuracies(run, baselines)
    png = prepared.data.stored_bytes("test", "png")
    jpeg = prepared.data.stored_bytes("test", "jpeg", _jpeg_quality(baselines))
    stored = (float(png.double().mean()), float(jpeg.double().mean()))
    rows = comparison_rows(baselines, accuracies, Baseline("autosplit", measured, latency), evaluation.accuracy,
                           scenario.conditions.budget_ms, stored)
    weights = run.out / _WEIGHTS
    return Result(
        scenario=scenario, feasible=best.feasible, plan=best.plan, outcome=best, backbone_accuracy=accuracies[0],
        test=TestFigures(correct=evaluation.correct, images=evaluation.images,
                         payload_bytes_total=int(evaluation.payload_sizes.sum()),
                         payload_bytes_p95=evaluation.payload_p95, payload_sha256=evaluation.payload_sha256),
        comparison=rows,
        deployment=DeploymentFile(blueprint=deployment.blueprint, weights=_WEIGHTS, sha256=deployment.save(weights)),
        provenance=provenance(
            seed=scenario.search.seed, data_fingerprint=prepared.data.fingerprint, backbone_key=prepared.backbone_key,
            supernet_key=prepared.supernet_key, agent=scenario.search.agent, evaluations=len(agent.outcomes),
            seconds=dict(run.seconds)),
    )


def _jpeg_quality(baselines: Sequence[Baseline]) -> int:
    return next(b.measurement.plan.codec.quality or 0 for b in baselines if b.measurement.plan.codec.kind == "jpeg")


def _test_accuracies(run: _Run, baselines: Sequence[Baseline]) -> list[float]:
    """Test accuracy of each trivial deployment: the backbone's, but for JPEG."""
    data, backbone = run.prepared.data, run.prepared.backbone
    whole = accuracy(backbone, data, data.test)
    return [accuracy(backbone, data, data.jpeg_images("test", b.measurement.plan.codec.quality or 0))
            if b.measurement.plan.codec.kind == "jpeg" else whole for b in baselines]


def _write(run: _Run, result: Result, agent: Agent) -> None:
    """The run directory's files for people: result, Pareto table, picture, policy."""
    from autosplit.agents.ppo import PPOAgent
    from autosplit.report.plots import pareto_frame, tradeoff_figure

    result.save(run.out / "best.json")
    outcomes = run.ledger.outcomes()
    pareto_frame(outcomes).to_csv(run.out / "pareto.csv", index=False)
    tradeoff_figure(outcomes, result.comparison, result.outcome, run.out / "tradeoff.png")
    if isinstance(agent, PPOAgent) and len(agent.outcomes) >= 2:
        with run.progress.phase("train the policy for other conditions"):
            agent.policy.save(run.out / "policy")
