"""The ledger: the durable record of every measurement and decision of a search.

An Optuna study in a journal file, so that optuna-dashboard and Optuna's own tools open it. Each record is one
line, written and fsync'd before `Ledger.record` returns: whatever was returned survives Ctrl-C, `kill -9` and
a full disk. One process writes at a time (a kernel lock on the run directory); any number may read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from autosplit.core.errors import ConfigError, PluginError, ResumeError
from autosplit.core.hashing import content_hash
from autosplit.core.plan import CodecSetting, Fidelity, Measurement, Outcome, Plan
from autosplit.core.quiet import silent_optuna
from autosplit.core.result import Result
from autosplit.core.scenario import ADDED_KEYS, Scenario
from autosplit.core.version import __version__
from autosplit.pipeline.journal import (
    RunLock,
    first_bad_line,
    journal_storage,
    mend,
    released_on_error,
    sync_directory,
    writing,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["LEDGER_FILE", "Ledger", "LedgerEntry", "load_run"]

LEDGER_FILE = "ledger.jsonl"
"""Name of the journal inside a run directory; `optuna-dashboard RUN/ledger.jsonl` opens it."""

_RUN_LOCK_FILE = ".lock"
_HEADER = "autosplit"
_FORMAT = 1
_MAY_CHANGE = frozenset({"search.evaluations"})
_FIDELITIES: tuple[Fidelity, ...] = ("F3", "F2", "F1")


@dataclass(frozen=True)
class LedgerEntry:
    """One record of the ledger.

    Attributes:
        sequence: Position in the search, from 0; records are numbered in the order they were made.
        outcome: The measurement with its latency and reward under the scenario's conditions.
        agent: Name of the agent that proposed the plan.
        seed: Seed of the search.
    """

    sequence: int
    outcome: Outcome
    agent: str
    seed: int


class Ledger:
    """Every measurement of one run, in the order of the search.

    Life cycle: `create` for a new run or `open` to continue one, `record` after each measurement, `close` (or
    leave the `with` block) at the end. `read` serves reports: it takes no lock, changes nothing and cannot record.

    Attributes:
        path: The journal file.
        scenario: The recorded scenario as plain data, as it was when the run began.
        notes: What had to be repaired on opening, one line each; empty as a rule.
    """

    def __init__(self, path: Path, lock: RunLock | None, notes: Sequence[str] = ()) -> None:
        """Use `create`, `open` or `read` instead."""
        self.path = path
        self.notes = tuple(notes)
        self._lock = lock
        self._study = _load_study(path)
        header: dict[str, Any] = self._study.user_attrs[_HEADER]
        self.scenario: dict[str, Any] = header["scenario"]
        self._splits: tuple[str, ...] = tuple(header["splits"])
        self._entries = _read_entries(self._study, path)

    @classmethod
    def create(cls, run_dir: Path | str, scenario: Scenario, splits: Sequence[str] = ()) -> Ledger:
        """Begin the ledger of a new run.

        Args:
            run_dir: Directory of the run; made when absent.
            scenario: What is searched.
            splits: Split points of the resolved space, so that Optuna's tools see one categorical parameter;
                by default those that the scenario names, else those met so far.

        Raises:
            ConfigError: The directory already holds a ledger, is in use, or cannot be written to.
        """
        path = Path(run_dir) / LEDGER_FILE
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = RunLock(path.parent / _RUN_LOCK_FILE)
        with released_on_error(lock):
            if path.exists():
                raise ConfigError(f"{path.parent}: already holds a run; continue it with --resume {path.parent} "
                                  "or give another directory with --out")
            names = splits or (scenario.space.splits if isinstance(scenario.space.splits, tuple) else ())
            with writing(path):
                _write_header(path, scenario, names)
            return cls(path, lock)

    @classmethod
    def open(cls, run_dir: Path | str, scenario: Scenario) -> Ledger:
        """Continue the ledger of a run; what a killed process left half-written is repaired.

        Args:
            run_dir: Directory of the run.
            scenario: What is searched; may differ from the recorded one in `search.evaluations` only.

        Raises:
            ResumeError: No ledger there, a damaged one, or one of another scenario (the message names the keys).
            ConfigError: The run is in use by another process, or cannot be written to.
        """
        path = _existing(run_dir)
        with writing(path):
            lock = RunLock(path.parent / _RUN_LOCK_FILE)
        with released_on_error(lock):
            with writing(path):
                note = mend(path)
            ledger = cls(path, lock, [note] if note else [])
            _require_same_scenario(path.parent, ledger.scenario, scenario)
            return ledger

    @classmethod
    def read(cls, run_dir: Path | str) -> Ledger:
        """Look at a ledger without locking or changing it, also while a search is writing to it.

        Raises:
            ResumeError: No ledger there, or a damaged one.
        """
        return cls(_existing(run_dir), None)

    def record(self, outcome: Outcome, agent: str, fidelity: Fidelity | None = None) -> LedgerEntry:
        """Write one record; when this returns it is on the disk.

        Args:
            outcome: The measurement joined with latency and reward.
            agent: Name of the agent that proposed the plan.
            fidelity: The measurement's fidelity, if the caller wants it checked.

        Raises:
            ValueError: `fidelity` is not the measurement's.
            PluginError: Reward or latency is not a number.
            ConfigError: The file cannot be written (no space, no permission), or the ledger is read-only or closed.
        """
        if self._lock is None:
            raise ConfigError(f"{self.path}: this ledger is closed or open for reading only; use Ledger.open")
        if fidelity is not None and fidelity != outcome.measurement.fidelity:
            raise ValueError(f"fidelity {fidelity} given for a measurement of {outcome.measurement.fidelity}")
        if math.isnan(outcome.reward) or math.isnan(outcome.latency.p95_ms):
            raise PluginError(f"plan {outcome.plan.label!r}: reward {outcome.reward}, p95 latency "
                              f"{outcome.latency.p95_ms} ms; check the objective and the latency model")
        entry = LedgerEntry(len(self._entries), outcome, agent, int(self.scenario["search"]["seed"]))
        self._append(_trial(entry, self._split_choices(outcome.plan.split), self.scenario["space"]))
        self._entries.append(entry)
        return entry

    def entries(self, fidelity: Fidelity | None = None) -> list[LedgerEntry]:
        """All records in the order of the search, or those of one fidelity."""
        return [e for e in self._entries if fidelity in (None, e.outcome.measurement.fidelity)]

    def outcomes(self, fidelity: Fidelity | None = None) -> list[Outcome]:
        """The outcomes in the order of the search, or those of one fidelity."""
        return [e.outcome for e in self.entries(fidelity)]

    def measurements(self, fidelity: Fidelity | None = None) -> list[Measurement]:
        """The measurements in the order of the search, or those of one fidelity."""
        return [e.outcome.measurement for e in self.entries(fidelity)]

    @property
    def best(self) -> Outcome | None:
        """The feasible outcome of highest reward, or the least infeasible one, or `None` when empty.

        Accuracies of different fidelities do not compare, so the highest fidelity that has a feasible outcome
        decides; the earlier record wins a tie.
        """
        for fidelity in _FIDELITIES:
            feasible = [o for o in self.outcomes(fidelity) if o.feasible]
            if feasible:
                return max(feasible, key=lambda o: o.reward)
        return min(self.outcomes(), key=lambda o: (o.latency.p95_ms - o.budget_ms, -o.reward), default=None)

    def close(self) -> None:
        """Release the run directory; the records stay readable. A second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _split_choices(self, split: str) -> tuple[str, ...]:
        if split in self._splits:
            return self._splits
        seen = [e.outcome.plan.split for e in self._entries]
        self._splits = tuple(dict.fromkeys([*self._splits, *seen, split]))
        return self._splits

    def _append(self, trial: FrozenTrial) -> None:
        try:
            with writing(self.path), silent_optuna():
                self._study.add_trial(trial)
        except ConfigError:
            # A disk that fills up takes half a line; the next record must not be glued to it.
            with suppress(OSError):
                mend(self.path)
            raise


# --- one outcome as an Optuna trial, and back -----------------------------------------------------------------


def _trial(entry: LedgerEntry, splits: tuple[str, ...], space: dict[str, Any]) -> FrozenTrial:
    from optuna.trial import create_trial

    outcome = entry.outcome
    params, distributions = _parameters(outcome.plan, splits, space)
    trial = create_trial(
        value=outcome.reward,
        params=params,
        distributions=distributions,
        user_attrs={
            "plan": outcome.plan.label,
            "agent": entry.agent,
            "fidelity": outcome.measurement.fidelity,
            "seed": entry.seed,
            "measurement": outcome.measurement.model_dump(mode="json"),
            "outcome": outcome.model_dump(mode="json", exclude={"measurement"}),
        },
        # Not create_trial(constraints=...): optuna-dashboard 0.21 and Optuna 4 read this older form only, and
        # Optuna 5 reads both.
        system_attrs={"constraints": [outcome.latency.p95_ms - outcome.budget_ms]},
    )
    if trial.datetime_complete is not None:
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=outcome.measurement.seconds)
    return trial


def _parameters(plan: Plan, splits: tuple[str, ...], space: dict[str, Any],
                ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kinds = get_args(CodecSetting.model_fields["kind"].annotation)
    params: dict[str, Any] = {"split": plan.split, "codec": plan.codec.kind}
    shapes: dict[str, BaseDistribution] = {"split": CategoricalDistribution(splits),
                                           "codec": CategoricalDistribution(kinds)}
    if isinstance(plan.sparsity, tuple):
        levels = {f"sparsity.{i}": level for i, level in enumerate(plan.sparsity)}
    else:
        levels = {"sparsity": plan.sparsity}
    params.update(levels)
    shapes.update(dict.fromkeys(levels, FloatDistribution(0.0, 1.0)))
    bounds = {"width": max(space["widths"]), "grid": space["max_grid"] or 1, "bits": 8, "quality": 95}
    for name, bound in bounds.items():
        value = getattr(plan.codec, name)
        if value is not None:
            params[name] = value
            shapes[name] = IntDistribution(1, max(bound, value))
    return params, shapes


def _read_entries(study: Study, path: Path) -> list[LedgerEntry]:
    trials = [t for t in study.get_trials(deepcopy=False) if {"measurement", "outcome"} <= t.user_attrs.keys()]
    entries = []
    for i, trial in enumerate(trials):
        attrs = trial.user_attrs
        try:
            outcome = Outcome.model_validate({**attrs["outcome"], "measurement": attrs["measurement"]})
            entries.append(LedgerEntry(i, outcome, str(attrs["agent"]), int(attrs["seed"])))
        except (ValidationError, KeyError, TypeError) as e:
            raise ResumeError(f"{path}: record {i} was not written by this version of autosplit; "
                              "begin a new run with another --out") from e
    return entries


# --- the journal file -----------------------------------------------------------------------------------------


def _existing(run_dir: Path | str) -> Path:
    path = Path(run_dir) / LEDGER_FILE
    try:
        found = path.is_file()
    except OSError as e:
        raise ResumeError(f"cannot read {path}: {e.strerror or e}") from e
    if not found:
        raise ResumeError(f"{run_dir}: holds no ledger ({LEDGER_FILE}); give the directory of an earlier search, "
                          "or begin a new one without --resume")
    return path


def _write_header(path: Path, scenario: Scenario, splits: Sequence[str]) -> None:
    """Begin the journal beside its place and move it there, so that a ledger without a header never exists."""
    import optuna

    recorded = _plain(scenario)
    header = {"format": _FORMAT, "version": __version__,
              "fingerprint": _fingerprint(recorded), "scenario": recorded, "splits": list(splits)}
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with silent_optuna():
        study = optuna.create_study(storage=journal_storage(draft), study_name=scenario.name, direction="maximize")
        study.set_user_attr(_HEADER, header)
    draft.replace(path)
    sync_directory(path.parent)


def _load_study(path: Path) -> Study:
    import optuna

    try:
        with silent_optuna():
            storage = journal_storage(path)
            names = [s.study_name for s in storage.get_all_studies() if _HEADER in s.user_attrs]
            study = optuna.load_study(study_name=names[0], storage=storage) if names else None
    except OSError as e:
        raise ResumeError(f"cannot read {path}: {e.strerror or e}") from e
    except (ValueError, KeyError, AttributeError, TypeError, AssertionError) as e:
        raise ResumeError(f"{path}: damaged at line {first_bad_line(path)}; remove that line, "
                          "or begin a new run with another --out") from e
    if study is None:
        raise ResumeError(f"{path}: not begun by autosplit or its beginning is lost; begin a new run "
                          "with another --out")
    if study.user_attrs[_HEADER].get("format") != _FORMAT:
        raise ResumeError(f"{path}: ledger format {study.user_attrs[_HEADER].get('format')}, this version reads "
                          f"{_FORMAT}; begin a new run with another --out")
    return study


# --- the scenario of a run ------------------------------------------------------------------------------------


def _plain(scenario: Scenario) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(scenario.model_dump(mode="json")))
    return data


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in data.items()]
    return {key: value for part in parts for key, value in part.items()}


def _fingerprint(recorded: dict[str, Any]) -> str:
    return content_hash(_comparable(recorded))


def _comparable(recorded: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in a resumed run; keys that came after it was recorded have their defaults."""
    return {key: value for key, value in (ADDED_KEYS | _flat(recorded)).items() if key not in _MAY_CHANGE}


def _require_same_scenario(run_dir: Path, recorded: dict[str, Any], scenario: Scenario) -> None:
    asked = _plain(scenario)
    if _fingerprint(asked) == _fingerprint(recorded):
        return
    before, now = _comparable(recorded), _comparable(asked)
    keys = [k for k in dict.fromkeys([*before, *now]) if k not in before or k not in now or before[k] != now[k]]
    shown = "; ".join(f"{k} was {_short(before, k)}, now {_short(now, k)}" for k in keys[:5])
    more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
    raise ResumeError(f"{run_dir}: is a run of another scenario ({shown}{more}); resume with the recorded values, "
                      "or begin a new run with another --out")


def _short(flat: dict[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = json.dumps(flat[key], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_run(run: Path) -> tuple[Result, list[Outcome]]:
    """The result of a finished run, and every outcome of its ledger in the order of the search.

    Raises:
        ConfigError: It is no run directory, or the search in it did not end.
        ResultError: `best.json` is damaged.
        ResumeError: The ledger is damaged.
    """
    if not (run / LEDGER_FILE).is_file():
        raise ConfigError(f"{run} is no run directory (it holds no {LEDGER_FILE}); `autosplit search` makes one")
    if not (run / "best.json").is_file():
        raise ConfigError(f"{run}: this search did not end (there is no best.json); finish it with "
                          f"autosplit search --resume {run}, or look at it with autosplit show {run}")
    return Result.load(run / "best.json"), Ledger.read(run).outcomes()
