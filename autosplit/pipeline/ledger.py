"""The ledger: the durable record of every measurement and decision of a search.

A file of JSON lines: a header that holds the scenario, then one outcome a line. Each line is written and synchronised
before `Ledger.record` returns: whatever was returned survives Ctrl-C, `kill -9` and a full disk. One process writes at
a time (a lock on the run directory); any number may read. `autosplit.pipeline.optuna_study` writes it as an Optuna
study, for Optuna's own tools.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autosplit.core.errors import ConfigError, PluginError, ResultError, ResumeError
from autosplit.core.files import write_whole
from autosplit.core.measurement import Fidelity, Measurement, Outcome
from autosplit.core.records import append_record, drop_incomplete_line, parse_record, run_lock, writing
from autosplit.core.result import Result
from autosplit.core.scenario import ADDED_KEYS, Scenario, path_in
from autosplit.core.trust import named_in_file
from autosplit.core.validation import first_error
from autosplit.core.version import __version__
from autosplit.runtime.standalone.files import read_file

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["BASELINES_FILE", "LEDGER_FILE", "Ledger", "LedgerEntry", "load_baselines", "load_run",
           "write_baselines"]

LEDGER_FILE = "ledger.jsonl"
"""Name of the ledger inside a run directory."""

BASELINES_FILE = "baselines.jsonl"
"""Name of the file inside a run directory that holds what the baselines measured in the supernet."""

_FORMAT = 2
_MOST_BYTES = 256 << 20  # of a ledger; one of 100 measurements has 200,000
_MAY_CHANGE = frozenset({"search.evaluations", "training.accelerator"})
_PATHS = frozenset({"weights", "search.policy"})
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
        path: The file.
        scenario: The recorded scenario as plain data, as it was when the run began.
        notes: What had to be repaired on opening, one line each; empty as a rule.
    """

    def __init__(self, path: Path, lock: FileLock | None, notes: Sequence[str] = ()) -> None:
        """Use `create`, `open` or `read` instead."""
        self.path = path
        self.notes = tuple(notes)
        self._lock = lock
        self.scenario, self._entries = _read(path)
        self._recorded = {(e.outcome.plan, e.outcome.measurement.fidelity) for e in self._entries}

    @classmethod
    def create(cls, run_dir: Path | str, scenario: Scenario) -> Ledger:
        """Begin the ledger of a new run.

        Args:
            run_dir: Directory of the run; made when absent.
            scenario: What is searched.

        Raises:
            ConfigError: The directory already holds a ledger, is in use, or cannot be written to.
        """
        path = Path(run_dir) / LEDGER_FILE
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = run_lock(path.parent)
        try:
            if path.exists():
                raise ConfigError(f"{path.parent}: already holds a run; continue it with --resume {path.parent} "
                                  "or give another directory with --out")
            with writing(path):
                # beside its place first, so that a ledger without a header never exists
                draft = path.with_suffix(".tmp")
                draft.unlink(missing_ok=True)
                append_record(draft, json.dumps({"autosplit": {
                    "format": _FORMAT, "version": __version__, "scenario": _plain(scenario)}}))
                draft.replace(path)
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

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
            lock = run_lock(path.parent)
        try:
            with writing(path):
                note = drop_incomplete_line(path)
            ledger = cls(path, lock, [note] if note else [])
            _require_same_scenario(path.parent, ledger.scenario, scenario)
            return ledger
        except BaseException:
            lock.release()
            raise

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
        with writing(self.path):
            append_record(self.path, json.dumps({
                "agent": agent, "seed": entry.seed, "measurement": outcome.measurement.model_dump(mode="json"),
                "outcome": outcome.model_dump(mode="json", exclude={"measurement"})}, separators=(",", ":")))
        self._entries.append(entry)
        self._recorded.add((outcome.plan, outcome.measurement.fidelity))
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

    def __contains__(self, outcome: Outcome) -> bool:
        """Whether the plan of an outcome is recorded at its fidelity."""
        return (outcome.plan, outcome.measurement.fidelity) in self._recorded

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _read(path: Path) -> tuple[dict[str, Any], list[LedgerEntry]]:
    """The scenario in the header, and all entries; a line that is being written at the moment is left out."""
    lines = read_file(path, error=ResumeError, most_bytes=_MOST_BYTES).split(b"\n")
    lines = lines[:-1] if parse_record(lines[-1]) is None else lines  # after the last line end there is nothing
    beginning = parse_record(lines[0]) if lines else None
    header = beginning.get("autosplit") if beginning else None
    if not isinstance(header, dict) or not isinstance(header.get("scenario"), dict):
        raise ResumeError(f"{path}: not begun by autosplit or its beginning is lost; begin a new run "
                          "with another --out")
    if header.get("format") != _FORMAT:
        raise ResumeError(f"{path}: ledger format {header.get('format')}, this version reads {_FORMAT}; begin a new "
                          "run with another --out")
    entries = []
    for number, record in enumerate(map(parse_record, lines[1:])):  # one by one: the first damaged line is the last
        if record is None:
            raise ResumeError(f"{path}: damaged at line {number + 2}; remove that line, "
                              "or begin a new run with another --out")
        try:
            outcome = Outcome.model_validate({**record["outcome"], "measurement": record["measurement"]})
            named_in_file(outcome.plan.codec.family, path)
            entries.append(LedgerEntry(number, outcome, str(record["agent"]), int(record["seed"])))
        except (ValidationError, KeyError, TypeError, ValueError) as e:
            raise ResumeError(f"{path}: record {number} was not written by this version of autosplit; "
                              "begin a new run with another --out") from e
    return header["scenario"], entries


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


def _plain(scenario: Scenario) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(scenario.model_dump(mode="json")))
    return data


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in data.items()]
    return {key: value for part in parts for key, value in part.items()}


def _comparable(recorded: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in a resumed run; keys that came after it was recorded have their defaults.

    Where a file lies may change: what is in it is compared by its hash, of code here, of all else in the networks' key.
    """
    flat = (ADDED_KEYS | _flat(recorded)).items()
    return {_without_folders(key): _without_folders(value, key) for key, value in flat if key not in _MAY_CHANGE}


def _without_folders(value: Any, key: str = "") -> Any:
    if not isinstance(value, str):
        return [_without_folders(item) for item in value] if isinstance(value, list) else value
    if key in _PATHS or key.endswith(".file"):
        return Path(value).name
    if (found := path_in(value)) is not None:
        return f"{found[0]}{found[1].name}"
    prefix = "code." if value.startswith("code.") else ""
    where, _, name = value.removeprefix(prefix).rpartition(":")
    return f"{prefix}{Path(where).name}:{name}" if where.endswith(".py") else value


def _require_same_scenario(run_dir: Path, recorded: dict[str, Any], scenario: Scenario) -> None:
    before, now = _comparable(recorded), _comparable(_plain(scenario))
    if before == now:
        return
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


def load_run(run: Path, *, trust_code: bool = False) -> tuple[Result, list[Outcome]]:
    """The result of a finished run, and every outcome of its ledger in the order of the search.

    Args:
        run: Its directory.
        trust_code: Whether code may run that it names and that never ran here.

    Raises:
        ConfigError: It is no run directory, or the search in it did not end.
        ResultError: `best.json` is damaged.
        ResumeError: The ledger is damaged.
    """
    if not (run / LEDGER_FILE).is_file():
        raise ConfigError(f"{run} is no run directory (it holds no {LEDGER_FILE}); `autosplit search` makes one")
    if not (run / "best.json").is_file():
        shown = quote(str(run))
        raise ConfigError(f"{run}: this search did not end (there is no best.json); finish it with "
                          f"autosplit search --resume {shown}, or look at it with autosplit show {shown}")
    return Result.load(run / "best.json", trust_code=trust_code), Ledger.read(run).outcomes()


def write_baselines(run: Path, measured: Iterable[Measurement]) -> None:
    """Keep what the baselines of a run measured: they are no part of the search, but the map needs them.

    Args:
        run: The run directory.
        measured: F1, each plan once.

    Raises:
        ConfigError: The file cannot be written.
    """
    with writing(run):
        write_whole(run / BASELINES_FILE, "".join(m.model_dump_json() + "\n" for m in measured))


def load_baselines(run: Path) -> list[Measurement]:
    """What `write_baselines` kept; nothing of runs from before there was such a file.

    Raises:
        ResultError: The file is damaged.
    """
    path = run / BASELINES_FILE
    if not path.is_file():
        return []
    content = read_file(path, str(path), error=ResultError, most_bytes=_MOST_BYTES)
    found = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            found.append(Measurement.model_validate(parse_record(line)))
        except ValidationError as e:
            raise ResultError(f"{path}, line {number}: {first_error(e)}; restore the file, or delete it to have the "
                              "map without baselines") from e
    return found
