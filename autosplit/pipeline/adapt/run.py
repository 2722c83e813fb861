"""From a run to a bundle of rates: the phases, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from autosplit.agents.policy import CoInferencePolicy
from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.hashing import content_hash
from autosplit.core.measurement import Measurement
from autosplit.core.opsets import OPSET
from autosplit.core.plan import Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.adapt.choice import codes_on_the_front, cut_of, spread
from autosplit.pipeline.adapt.links import LinkGrid
from autosplit.pipeline.adapt.switching import Regret, switching_of
from autosplit.pipeline.context import SearchContext, arithmetic_of, blueprint_of
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import (
    Rates,
    Target,
    compared_images,
    export_bundle,
    make_folder,
    require_export,
    whole_network,
)
from autosplit.runtime.standalone.bundle.manifest import Manifest, Source
from autosplit.runtime.standalone.bundle.rates import Rate, rate_key
from autosplit.runtime.standalone.payload.header import MAX_RATES
from autosplit.training.finetune import Finetuning
from autosplit.training.loop import steps_per_epoch
from autosplit.training.prepare import Networks, prepare
from autosplit.training.rates import finetune_rates, rate_network

__all__ = ["Adapted", "adapt"]

_KIND = "rates"  # of what the cache keeps
_EPOCHS = 4  # times those of one plan: a rate is in about half of the steps


@dataclass(frozen=True)
class Adapted:
    """A bundle of rates.

    Attributes:
        manifest: What is in it.
        regret: How good its switching table is.
    """

    manifest: Manifest
    regret: Regret


def adapt(
    run: Path,
    out: Path,
    *,
    rates: int = 6,
    budget_ms: float | None = None,
    epochs: int | None = None,
    images: int | None = None,
    fallback: bool = False,
    opset: int = OPSET,
    target: Target = "onnx",
    accelerator: str | None = None,
    data_root: Path | None = None,
    cache: Cache | None = None,
    progress: PhaseReporter | None = None,
    trust_code: bool = False,
) -> Adapted:
    """Make a bundle of several rates out of a finished run.

    Args:
        run: Directory of a run, with the policy that its search trained.
        out: Folder of the bundle; it must be new or empty.
        rates: Most settings of the codec, 2 to 16; fewer where more would bring nothing.
        budget_ms: Deadline that rates and table are for; that of the run by default.
        epochs: Epochs of the fine-tuning at most; four times those of a finalist by default.
        images: Test images to compare; all of them by default, up to 20 million pixels.
        fallback: Whether the bundle gets the whole, untouched network for the device too.
        opset: Version of ONNX's operators, one of `autosplit.core.opsets.OPSETS`.
        target: See `autosplit.runtime.export.export_bundle`.
        accelerator: What trains and measures: `auto`, `cpu`, `cuda` or `mps`; what the run's scenario says by default.
        data_root: Where data sets lie.
        cache: Where trained weights are looked up and kept; the user's cache folder by default.
        progress: Shows the phases.
        trust_code: Whether code may run that the run names and that never ran here.

    Raises:
        ConfigError: The run has no policy or no plan whose code can have rates, or the folder cannot be used.
        ResultError: The result, its data or its networks are not what they were.
        ParityError: The bundle does not answer as its rates do; it stays where it is.
    """
    progress, cache = progress or NullProgress(), cache or Cache()
    if not 2 <= rates <= MAX_RATES:
        raise ConfigError(f"a bundle can have 2 to {MAX_RATES} rates, not {rates}")
    require_export(opset)
    result = Result.load(run / "best.json", trust_code=trust_code)
    scenario = result.scenario if budget_ms is None else result.scenario.replace(conditions__budget_ms=budget_ms)
    scorer, cut, grid = Scorer.of(scenario), cut_of(result, run), LinkGrid.around(scenario.conditions)
    if not (run / "policy").is_dir():
        raise ConfigError(f"{run} holds no policy, which picks the rate for a link; searches with the agent ppo leave "
                          "one")
    policy = CoInferencePolicy.load(run / "policy", scorer.latency_model, scorer.objective)
    make_folder(out)

    def require(key: str) -> None:
        if key != result.provenance.supernet_key:
            raise ResultError(f"{run}: its data or weights are not what they were (supernet {key}, in "
                              f"the run {result.provenance.supernet_key}); search again")

    searched = result.scenario if accelerator is None else result.scenario.replace(training__accelerator=accelerator)
    networks = prepare(searched, progress, cache=cache, data_root=data_root, require=require)
    data = networks.data
    whole = whole_network(result, data, cache) if fallback else None
    plans = _chosen_plans(cut, networks, scorer, grid, progress, rates)
    key = _fine_tuned_key(networks, plans, epochs, progress)

    # each rate has statistics, number format and frequency tables of its own
    arithmetic = arithmetic_of(result.scenario.conditions.device.arithmetic)
    deployments = []
    with progress.phase("recalibrate the rates", total=len(plans)) as advance:
        for number, plan in enumerate(plans):
            network = rate_network(networks.supernet, plan, data, networks.scenario.training)
            blueprint = blueprint_of(networks, plan, arithmetic, rate_key(key, number))
            deployments.append(Deployment.fit(blueprint, network, data, number))
            advance(1)
    with progress.phase("measure the rates"):
        measured = [d.measurement(d.evaluate(data, "validation")) for d in deployments]
    with progress.phase("ask the policy about links"):
        switching, regret = switching_of(policy, measured, scorer, grid)
    with progress.phase("read the test set"):  # here and nowhere else
        records = _records(deployments, measured, networks, scorer)
    shared = sorted(networks.supernet.state_dict().items())
    weights = sha256(b"".join(n.encode() + t.contiguous().cpu().numpy().tobytes() for n, t in shared)).hexdigest()
    source = Source(result.scenario.name, result.scenario.dataset, data.fingerprint, weights)
    manifest = export_bundle(
        Rates(key, tuple(deployments), records, switching), out, images=compared_images(data, images),
        class_names=data.class_names, fallback=whole, source=source, opset=opset, target=target, progress=progress)
    return Adapted(manifest, regret)


def _chosen_plans(
    cut: Plan, networks: Networks, scorer: Scorer, grid: LinkGrid, progress: PhaseReporter, most: int
) -> list[Plan]:
    """Measure every setting of the codec at a cut, and choose those that together serve the links best."""
    settings = networks.supernet.codec(cut.place, cut.codec.family).settings()
    plans = [cut.model_copy(update={"codec": codec}) for codec in settings]
    found: list[Measurement] = []
    with progress.phase("measure the codec's settings", total=len(settings)) as advance:
        for measurement in SearchContext(networks).evaluator.measure(plans):
            found.append(measurement)
            advance(1)
    chosen = spread(codes_on_the_front(found), scorer, grid, most)
    if len(chosen) < 2:
        raise ConfigError(f"{'one' if chosen else 'no'} setting of the codec at {cut.split!r} is any use on the links "
                          "around the run's; `autosplit export` is for a single plan")
    return [m.plan for m in chosen]


def _fine_tuned_key(networks: Networks, plans: Sequence[Plan], epochs: int | None, progress: PhaseReporter) -> str:
    """Fine-tune the shared networks for these plans, or find them fine-tuned; gives the key of the weights."""
    data, seed, training = networks.data, networks.scenario.search.seed, networks.scenario.training
    settings = training.model_copy(update={"finetune_epochs": epochs or _EPOCHS * training.finetune_epochs})
    key = content_hash({
        "supernet": networks.supernet_key, "rates": [plan.model_dump(mode="json") for plan in plans],
        "epochs": settings.finetune_epochs, "patience": settings.finetune_patience, "lr": settings.finetune_lr,
        "batch": settings.batch_size, "seed": seed})
    kept = networks.cache.load(_KIND, key)
    if kept is not None:
        networks.supernet.load_state_dict(kept)
        return key
    steps = settings.finetune_epochs * steps_per_epoch(data, settings.batch_size)
    with progress.phase("fine-tune the rates together", total=steps) as advance:
        finetune_rates(networks.supernet, plans, networks.teacher, Finetuning(
            data, settings, seed, advance, networks.cache, key, "fine-tune rates"))
    weights = {name: tensor.detach().contiguous() for name, tensor in networks.supernet.state_dict().items()}
    networks.cache.save(_KIND, key, weights, {"kind": _KIND})
    return key


def _records(
    deployments: Sequence[Deployment], measured: Sequence[Measurement], networks: Networks, scorer: Scorer
) -> tuple[Rate, ...]:
    """What the manifest says of each rate, test figures included."""
    found = []
    for deployment, m in zip(deployments, measured, strict=True):
        test, latency = deployment.evaluate(networks.data, "test"), scorer.latency(m)
        channels, height, width = deployment.blueprint.code_shape
        found.append(Rate(
            label=m.plan.codec.label, plan=m.plan.model_dump(mode="json"), code_shape=(channels, height, width),
            accuracy=m.accuracy, payload_bytes=m.workload.payload_bytes_mean,
            payload_bytes_p95=m.workload.payload_bytes_p95, test_accuracy=test.accuracy,
            test_payload_bytes=test.payload_mean,
            device_ms=latency.device_ms + latency.encode_ms, edge_ms=latency.edge_ms))
    return tuple(found)
