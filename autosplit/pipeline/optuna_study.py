"""A ledger as an Optuna study in a journal file, which `optuna-dashboard FILE` and Optuna's own tools open."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from autosplit.core.errors import ConfigError
from autosplit.core.plan import CodecSetting, HeadKind, Plan
from autosplit.core.quiet import silent_optuna
from autosplit.core.records import writing
from autosplit.pipeline.ledger import Ledger

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["write_study"]


def write_study(ledger: Ledger, path: Path) -> None:
    """Write a ledger as a study of that name, a trial each outcome.

    Args:
        ledger: What is written.
        path: A new file.

    Raises:
        ConfigError: The file exists already, or cannot be written.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import create_trial

    if path.exists():
        raise ConfigError(f"{path} exists already; name a new file")
    entries = ledger.entries()
    splits = tuple(dict.fromkeys(e.outcome.plan.split for e in entries))
    with writing(path), silent_optuna():
        study = optuna.create_study(storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
                                    study_name=str(ledger.scenario["name"]), direction="maximize")
        for entry in entries:
            outcome = entry.outcome
            params, distributions = _parameters(outcome.plan, splits, ledger.scenario["space"])
            trial = create_trial(
                value=outcome.reward,
                params=params,
                distributions=distributions,
                user_attrs={"plan": outcome.plan.label, "agent": entry.agent, "seed": entry.seed,
                            "fidelity": outcome.measurement.fidelity, "accuracy": outcome.measurement.accuracy,
                            "p95_ms": outcome.latency.p95_ms},
                # Not create_trial(constraints=...): optuna-dashboard 0.21 and Optuna 4 read this older form only, and
                # Optuna 5 reads both.
                system_attrs={"constraints": [outcome.latency.p95_ms - outcome.budget_ms]},
            )
            if trial.datetime_complete is not None:
                trial.datetime_start = trial.datetime_complete - timedelta(seconds=outcome.measurement.seconds)
            study.add_trial(trial)


def _parameters(plan: Plan, splits: tuple[str, ...], space: dict[str, Any],
                ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kinds = get_args(CodecSetting.model_fields["kind"].annotation)
    params: dict[str, Any] = {"split": plan.split, "head": plan.head, "codec": plan.codec.kind}
    shapes: dict[str, BaseDistribution] = {"split": CategoricalDistribution(splits),
                                           "head": CategoricalDistribution(get_args(HeadKind)),
                                           "codec": CategoricalDistribution(kinds)}
    if isinstance(plan.sparsity, tuple):
        levels = {f"sparsity.{i}": level for i, level in enumerate(plan.sparsity)}
    else:
        levels = {"sparsity": plan.sparsity}
    params.update(levels)
    shapes.update(dict.fromkeys(levels, FloatDistribution(0.0, 1.0)))
    bounds = {"width": (1, max(space["widths"])), "grid": (1, space["max_grid"] or 1), "bits": (1, 8),
              "rate": (0, 31), "quality": (0, 100), "effort": (0, 6), "downscale": (2, 2)}
    for name, (least, most) in bounds.items():
        value = getattr(plan.codec, name)
        if value is not None:
            params[name] = value
            shapes[name] = IntDistribution(least, max(most, value))
    if plan.exit is not None:
        params["exit"], shapes["exit"] = plan.exit.threshold, FloatDistribution(0.0, 1.0)
        params["exit.head"], shapes["exit.head"] = plan.exit.head, CategoricalDistribution(get_args(HeadKind))
        if isinstance(plan.exit.sparsity, float):
            params["exit.sparsity"], shapes["exit.sparsity"] = plan.exit.sparsity, FloatDistribution(0.0, 1.0)
    return params, shapes
