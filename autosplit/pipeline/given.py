"""`autosplit.search`, and what is handed to it in Python: objects become names in a scenario, arguments its keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from autosplit.core.accelerator import AcceleratorName
from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.held import HELD, hold, object_hash
from autosplit.core.hiring import workers_of
from autosplit.core.result import Result
from autosplit.core.scenario import OPTIONS, Scenario, for_machine, load_scenario, name_for
from autosplit.core.trust import trust_typed
from autosplit.models.identity import hold_network
from autosplit.pipeline.dry_run import Preview, preview
from autosplit.pipeline.search import new_run, search_scenario
from autosplit.report.progress import Progress

if TYPE_CHECKING:
    from autosplit.core.profiles import ChannelProfile, DeviceProfile

__all__ = ["dry_run", "hand_over_again", "name_given", "search"]

def search(
    scenario: Scenario | str | Path = "default",
    out: str | Path | None = None,
    *,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    data: Any = None,
    latency: Any = None,
    objective: Any = None,
    budget_ms: float | None = None,
    device: DeviceProfile | str | None = None,
    edge: DeviceProfile | str | None = None,
    channel: ChannelProfile | str | None = None,
    weights: str | Path | None = None,
    train: bool | None = None,
    image_size: int | None = None,
    codecs: Sequence[str] | None = None,
    agent: str | None = None,
    granularity: str | None = None,
    policy: str | Path | None = None,
    evaluations: int | None = None,
    finalists: int | None = None,
    target: Literal["onnx", "c"] | None = None,
    seed: int | None = None,
    accelerator: AcceleratorName | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = False,
    data_root: str | Path | None = None,
    reuse: bool = True,
    trust_code: bool = False,
) -> Result:
    """Search the best split, sparsity and compression, and write the run directory.

    What was measured is in the run directory as it happens, so a search that was interrupted goes on with `resume`.

    Args:
        scenario: What to search: a scenario, the name of a packaged one, or the path of a YAML file.
        out: The run directory; a new one below `results/` when left out.
        model: The network: an `nn.Module`, which is copied and taken as it is unless `train` says otherwise; a
            function or class that builds one, called with `num_classes` and `in_channels` where it takes them; or a
            name.
        data: A pair of images and labels, a torch `Dataset` or `DataLoader`, a data set of Hugging Face, a mapping from
            `train`, `validation` and `test` to any of these (`autosplit.data.in_memory.read_data`), a folder, or a
            name.
        latency: A latency model, a function `(workload, conditions) -> milliseconds`
            (`autosplit.latency.FunctionLatency`), or a name.
        objective: An objective, a function `(accuracy, latency, budget_ms) -> reward` of arrays
            (`autosplit.evaluation.objective.FunctionObjective`), or a name.
        budget_ms: Deadline, milliseconds.
        device: Profile of the device, or its name.
        edge: Profile of the edge server, or its name.
        channel: Profile of the link, or its name.
        weights: File of the network's weights.
        train: Whether the network is trained first.
        image_size: Side that images are brought to.
        codecs: Codec families on offer.
        agent: Method that proposes plans.
        granularity: `uniform` or `layer`.
        policy: Folder of a trained policy.
        evaluations: Measurements, as a total.
        finalists: Plans that are fine-tuned in the end.
        target: What the device runs: `onnx`; or `c`, of which only plans that fit into its memory are searched.
        seed: Seed of everything random.
        accelerator: What trains and measures networks: `auto` (a GPU where there is one), `cpu`, `cuda` or `mps`.
        jobs: Processes that measure and fine-tune; 1 = this one.
        cluster: Address of a Ray cluster that does so instead; `auto` for the one that this machine is part of.
        settings: Any other keys of a scenario, dotted: `{"space.splits": "all"}`.
        resume: Go on with the run in `out`. Only `search.evaluations` of the scenario may differ, which counts as a
            total.
        quiet: Show no progress; otherwise stderr shows each phase.
        data_root: Folder that data sets lie in.
        reuse: Whether measurements and fine-tuned plans of earlier searches may be taken from the cache.
        trust_code: Whether code may run that a scenario file names and that never ran here.

    Returns:
        The result. `result.feasible` tells whether its plan is in time, `result.path` where it was written.

    Raises:
        AutosplitError: Something in the scenario is wrong; the message says what, where, and what to do.
    """
    scenario = _scenario_given(
        scenario, trust_code=trust_code, model=model, data=data, latency=latency, objective=objective, train=train,
        settings=settings, budget_ms=budget_ms, device=device, edge=edge, channel=channel, weights=weights,
        image_size=image_size, codecs=codecs, agent=agent, granularity=granularity, policy=policy,
        evaluations=evaluations, finalists=finalists, target=target, seed=seed, accelerator=accelerator)
    if resume and out is None:
        raise ConfigError("resume=True goes on with a run: name its directory with out")
    run = new_run(scenario) if out is None else Path(out)
    with workers_of(jobs, cluster) as workers:
        return search_scenario(scenario, run, resume=resume, progress=Progress(quiet=quiet), reuse=reuse,
                               data_root=None if data_root is None else Path(data_root), workers=workers)


def dry_run(
    scenario: Scenario | str | Path = "default",
    *,
    quiet: bool = False,
    data_root: str | Path | None = None,
    trust_code: bool = False,
    **given: Any,
) -> Preview:
    """Look at what a search would do, without training: where the network is cut, and whether plans can be exported.

    Args:
        scenario: As for `search`.
        quiet: As for `search`.
        data_root: As for `search`.
        trust_code: As for `search`.
        given: Any of the arguments of `search` that say what is searched, from `model` to `settings`.

    Returns:
        The split points with the work before them, and the plans on offer: `to_frame()`, or a table in a notebook.

    Raises:
        AutosplitError: A search would fail, or what it finds could not be exported; the message says why.
    """
    known = set(inspect.signature(search).parameters) - {
        "scenario", "out", "resume", "quiet", "data_root", "reuse", "trust_code", "jobs", "cluster"}
    if unknown := sorted(set(given) - known):
        raise UnknownNameError("argument", unknown[0], known)
    return preview(_scenario_given(scenario, trust_code=trust_code, **given), Progress(quiet=quiet),
                   data_root=None if data_root is None else Path(data_root))


def name_given(
    *, model: Any = None, data: Any = None, latency: Any = None, objective: Any = None, image_size: int | None = None
) -> dict[str, str]:
    """The names of objects that are handed over, by key of a scenario; names stay what they are.

    Args:
        model: A network, a function or class that builds one, or a name.
        data: Whatever `autosplit.data.in_memory.read_data` takes, or a name.
        latency: A latency model or a function `(workload, conditions) -> milliseconds`, or a name.
        objective: An objective or a function `(accuracy, latency, budget_ms) -> reward`, or a name.
        image_size: Side that images are brought to.

    Raises:
        AutosplitError: An object is of no kind that can be used.
    """
    from autosplit.data.in_memory import read_data

    found: dict[str, str] = {}
    if isinstance(model, (str, Path)):
        found["backbone"] = str(model)
    elif callable(model):  # an nn.Module is
        found["backbone"] = hold_network(model)
    elif model is not None:
        raise ConfigError(f"model is a {type(model).__name__}; give an nn.Module, a function that builds one, or a "
                          "name")
    if isinstance(data, (str, Path)):
        found["dataset"] = f"image-folder:{data}" if isinstance(data, Path) else data
    elif data is not None:
        raw = read_data(data, image_size)
        found["dataset"] = hold("data set", raw, raw.digest, type(data).__name__)
    for key, kind, thing in (("latency_model", "latency model", latency), ("objective", "objective", objective)):
        if isinstance(thing, str):
            found[key] = thing
        elif thing is not None:
            label = getattr(thing, "__name__", type(thing).__name__)
            found[key] = hold(kind, thing, object_hash(thing), label)
    return found


def hand_over_again(scenario: Scenario, **objects: Any) -> None:
    """Make objects known that a recorded scenario names by their hashes.

    Args:
        scenario: As recorded.
        objects: Arguments of `name_given`; what is `None` is not handed over.

    Raises:
        ConfigError: One is another object than the recorded one, or the record names a part that is in a file.
    """
    for key, name in name_given(**objects, image_size=scenario.image_size).items():
        recorded = getattr(scenario, key)
        if name != recorded:
            raise ConfigError(f"{key}: {name.removeprefix(HELD)!r} was handed over, but "
                              f"{recorded.removeprefix(HELD)!r} is recorded; hand over the same, or leave it out if it "
                              "is a name")


def _scenario_given(
    scenario: Scenario | str | Path, *, trust_code: bool, model: Any = None, data: Any = None, latency: Any = None,
    objective: Any = None, train: bool | None = None, settings: Mapping[str, Any] | None = None,
    codecs: Sequence[str] | None = None, **arguments: Any,
) -> Scenario:
    """A scenario with what was handed over in Python; arguments as those of `search`.

    Raises:
        AutosplitError: Something in them is wrong.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigError(f"settings is a {type(settings).__name__}; give a mapping of dotted keys to values")
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(str(scenario), trust_code=trust_code)
    arguments["codecs"], settings = None if codecs is None else tuple(codecs), settings or {}
    names = name_given(model=model, data=data, latency=latency, objective=objective,
                       image_size=arguments.get("image_size"))
    for name in names.values():
        trust_typed([name])
    changes: dict[str, Any] = {OPTIONS[name]: str(value) if isinstance(value, Path) else value
                               for name, value in arguments.items() if value is not None}
    if train is None and isinstance(model, nn.Module) and "training.backbone_epochs" not in settings:
        train = False
    if train is False:
        changes["training.backbone_epochs"] = 0
    elif train and scenario.training.backbone_epochs == 0:
        changes["training.backbone_epochs"] = type(scenario.training)().backbone_epochs
    if {"backbone", "dataset"} & names.keys():
        changes["name"] = name_for(*(names.get(key, getattr(scenario, key)) for key in ("dataset", "backbone")))
    changes |= {**names, **settings}
    return for_machine(scenario.replace(**changes) if changes else scenario, changes.keys())
