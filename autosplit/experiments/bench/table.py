"""A whole plan space measured once, as a file: a tabular benchmark of joint split, sparsity and compression.

`results/tables/` holds the tables that come with the repository; `docs/comparison.md` says how to run another method on
them. A search over a table is exact, repeatable and takes seconds.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from autosplit.core.errors import ConfigError, ResultError, unwritable
from autosplit.core.files import write_whole
from autosplit.core.hashing import sha256_of, sha256_of_file
from autosplit.core.measurement import Measurement
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Provenance, provenance
from autosplit.core.scenario import Scenario
from autosplit.core.trust import named_in_file, remember, require_trusted
from autosplit.core.validation import Frozen, first_error
from autosplit.core.workers import Workers
from autosplit.evaluation.table import TableEvaluator
from autosplit.experiments.bench.shards import Shard, networks_hash, read_shards, shard_plans, write_shard
from autosplit.pipeline.context import SearchContext
from autosplit.runtime.standalone.files import MOST_TEXT_BYTES, read_file, read_json
from autosplit.training.prepare import prepare

__all__ = ["Table", "TableRecord", "load_table", "measure_shard", "record_path", "table_name", "tabulate"]

_SCHEMA = 1


class TableRecord(Frozen):
    """The description that is kept beside a table.

    Attributes:
        schema_version: Of this file.
        scenario: What was measured; its conditions, latency model and objective are those that a search of the table
            starts from, and have no part in the measurements.
        plans: Rows.
        backbone_accuracy: Of the uncut network, on the same validation images.
        sha256: Of the table's file.
        provenance: Versions, machine, seed, hashes of data and weights.
    """

    schema_version: int = _SCHEMA
    scenario: Scenario
    plans: int
    backbone_accuracy: float
    sha256: str
    provenance: Provenance


class Table(BaseModel):
    """A table and its record.

    Attributes:
        record: Where it comes from.
        evaluator: Serves its measurements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    record: TableRecord
    evaluator: TableEvaluator


def tabulate(
    scenario: Scenario, out: Path, *, progress: PhaseReporter | None = None, data_root: Path | None = None,
    workers: Workers | None = None,
) -> Table:
    """Measure the proxy accuracy of every plan of a scenario's space, and write the table with its record.

    Each measurement is in the cache as soon as it is taken, so that a call that was stopped goes on where it was. What
    parts beside the table hold (`measure_shard`) is not measured again.

    Args:
        scenario: What to measure.
        out: The table, `NAME.csv` or `NAME.csv.gz`; the record is `NAME.json` beside it.
        progress: Shows the phases.
        data_root: Where data sets lie.
        workers: Who measures; this process by default.

    Raises:
        AutosplitError: The scenario cannot be prepared, the folder cannot be written, or a part is of other networks.
    """
    progress = progress or NullProgress()
    context = _prepared(scenario, out, progress, data_root, workers)
    networks, plans = context.networks, context.evaluator.space.plans()
    known = read_shards(out, table_name(out), networks_hash(networks))
    if not any(plan.lossless for plan in plans):
        raise ConfigError("no plan leaves the network as it is, so its own accuracy would not be known; set "
                          "space.whole_on_edge or space.whole_on_device to true")
    measured: list[Measurement] = []
    with progress.phase("measure all plans", total=len(plans)) as advance:
        fresh = iter(context.evaluator.measure([plan for plan in plans if plan not in known]))
        for plan in plans:
            measured.append(known[plan] if plan in known else next(fresh))
            advance(1)
    table = TableEvaluator(m.model_copy(update={"seconds": round(m.seconds, 3)}) for m in measured)
    whole = next(m.accuracy for m in measured if m.plan.lossless)  # the accuracy of the network itself
    try:
        table.to_csv(out)
        record = TableRecord(
            scenario=networks.scenario, plans=len(plans), backbone_accuracy=whole, sha256=sha256_of_file(out),
            provenance=provenance(
                seed=scenario.search.seed, data_fingerprint=networks.data.fingerprint,
                backbone_key=networks.backbone_key, supernet_key=networks.supernet_key, agent="table",
                evaluations=len(plans), seconds={"measure": round(sum(m.seconds for m in measured), 1)},
                accelerator=networks.data.accelerator.name))
        write_whole(record_path(out), record.model_dump_json(indent=1) + "\n")
    except OSError as e:
        raise unwritable(out.parent, e) from e
    return Table(record=record, evaluator=table)


def measure_shard(
    scenario: Scenario, out: Path, shard: Shard, *, progress: PhaseReporter | None = None,
    data_root: Path | None = None, workers: Workers | None = None,
) -> Path:
    """Measure one part of a table; `tabulate` joins them when all lie beside the table.

    Args:
        scenario: As for `tabulate`, like all else.
        out: The table that this will be a part of.
        shard: Which part.
        progress: Shows the phases.
        data_root: Where data sets lie.
        workers: Who measures; this process by default.

    Returns:
        The file of the part, `NAME.3-of-8.jsonl` beside the table.

    Raises:
        AutosplitError: As from `tabulate`.
    """
    progress = progress or NullProgress()
    context = _prepared(scenario, out, progress, data_root, workers)
    path, key = shard.path(out, table_name(out)), networks_hash(context.networks)
    known = read_shards(out, table_name(out), key)
    left = [plan for plan in shard_plans(context.evaluator.space.plans(), shard) if plan not in known]
    with progress.phase(f"measure part {shard.number} of {shard.of}", total=len(left)) as advance:
        for found in context.evaluator.measure(left):
            write_shard(path, key, [found])
            advance(1)
    return path


def _prepared(
    scenario: Scenario, out: Path, progress: PhaseReporter, data_root: Path | None, workers: Workers | None
) -> SearchContext:
    """The networks of a table, after a look at the folder that it is to lie in."""
    scenario = scenario.anchored(data_root)
    for spec in scenario.code:
        require_trusted(spec)
    remember(scenario.code)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(out.parent, e) from e
    return SearchContext(prepare(scenario, progress, data_root=data_root), progress, workers=workers)


def load_table(path: str | Path) -> Table:
    """Read a table and its record.

    Args:
        path: The table, as written by `tabulate`.

    Raises:
        ResultError: The record is absent, of another schema, or the table is not the one it was written for.
        AutosplitError: The table cannot be read, or makes no complete space.
    """
    path = Path(path)
    beside = record_path(path)
    if not beside.exists():
        raise ResultError(f"table {path}: its record {beside} is missing; write both with `autosplit bench table`")
    try:
        record = TableRecord.model_validate(read_json(beside, f"table {path}: its record {beside}", error=ResultError))
    except ValidationError as e:
        raise ResultError(f"table {path}: its record {beside} is not one of this version: {first_error(e)}") from e
    if record.schema_version != _SCHEMA:
        raise ResultError(f"table {path}: its record has schema {record.schema_version}, this version reads {_SCHEMA}")
    content = read_file(path, f"table {path}", error=ResultError, most_bytes=MOST_TEXT_BYTES)
    if sha256_of(content) != record.sha256:
        raise ResultError(f"table {path} is not the one that {beside} describes (its SHA-256 differs); restore it")
    named_in_file(record.model_dump(mode="json"), beside)
    return Table(record=record, evaluator=TableEvaluator.from_content(content, str(path)))


def table_name(path: Path) -> str:
    """Name of a table: that of its file without suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def record_path(table: Path) -> Path:
    """The file that holds the record of a table."""
    return table.with_name(f"{table_name(table)}.json")
