"""Measurements of a whole plan space, served by lookup: exact, repeatable, and free."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autosplit.core.errors import ConfigError, DataError
from autosplit.core.files import write_whole
from autosplit.core.measurement import STAGE_COUNTS, Measurement, Workload
from autosplit.core.operators import TypeSums
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.space import PlanSpace
from autosplit.core.validation import first_error
from autosplit.runtime.standalone.files import read_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TableEvaluator"]

_MOST_BYTES = 64 << 20  # of a table, unpacked; one of 2,000 plans has two million
_STAGES = ("device", "encode", "edge")
_CODEC = tuple(CodecSetting.model_fields)
_WORDS = ("kind", "family")  # fields of a codec that hold text
_WORKLOAD = tuple(n for n in Workload.model_fields if n not in {"plan", "sent", *_STAGES})
_MEASUREMENT = tuple(n for n in Measurement.model_fields if n not in {"plan", "workload", "answers", "exits"})
"""Columns of a measurement's own figures; single answers are kept of deployments (F3), and tables hold plans (F1)."""


class TableEvaluator:
    """An `Evaluator` over a complete table of measurements.

    The table must hold every plan of a `PlanSpace`: for each split point, every combination of the sparsities and
    the codecs that occur with it. Split points and codecs keep the order of their first appearance.

    Args:
        measurements: One measurement a plan.

    Raises:
        ConfigError: The table is empty or incomplete, holds a plan twice, or a plan pruned by layer.
    """

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._rows: dict[Plan, Measurement] = {}
        for measurement in measurements:
            if measurement.plan in self._rows:
                raise ConfigError(f"table holds the plan {measurement.plan.label!r} twice")
            self._rows[measurement.plan] = measurement
        self._space = _space_of(list(self._rows))

    @property
    def space(self) -> PlanSpace:
        """The plans of the table."""
        return self._space

    @property
    def measurements(self) -> list[Measurement]:
        """Every measurement, in the order of `space.plans()`."""
        return [self._rows[plan] for plan in self._space.plans()]

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Work and payload of plans, as they were measured.

        Raises:
            ConfigError: A plan is not in the table.
        """
        return [self._row(plan).workload for plan in plans]

    def measure(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Look plans up, in order.

        Raises:
            ConfigError: A plan is not in the table.
        """
        return [self._row(plan) for plan in plans]

    def _row(self, plan: Plan) -> Measurement:
        try:
            return self._rows[plan]
        except KeyError:
            raise ConfigError(f"plan {plan.label!r} is not in the table") from None

    def to_frame(self) -> pd.DataFrame:
        """One row a plan, one column a figure; `from_frame` reads it back."""
        import pandas as pd

        whole_or_absent = {f"codec_{name}": "Int64" for name in _CODEC if name not in _WORDS}
        frame: pd.DataFrame = pd.DataFrame([_to_row(m) for m in self.measurements]).astype(whole_or_absent)
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> TableEvaluator:
        """Read what `to_frame` gave.

        Raises:
            ConfigError: A column is missing, or a row makes no measurement.
        """
        return cls(_from_row(row, number) for number, row in enumerate(frame.to_dict("records"), start=1))

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, packed where the name ends in `.gz`; figures are read back equal."""
        content = self.to_frame().to_csv(index=False).encode()
        write_whole(Path(path), gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)

    @classmethod
    def from_csv(cls, path: str | Path) -> TableEvaluator:
        """Read what `to_csv` wrote.

        Raises:
            DataError: The file cannot be read or is no CSV.
            ConfigError: A column is missing, or a row makes no measurement.
        """
        return cls.from_content(read_file(path, f"table {path}", error=DataError, most_bytes=_MOST_BYTES), str(path))

    @classmethod
    def from_content(cls, content: bytes, path: str) -> TableEvaluator:
        """Read the bytes of a file that `to_csv` wrote; `path` is its name, which says whether they are packed.

        Raises:
            DataError: They are no CSV.
            ConfigError: A column is missing, or a row makes no measurement.
        """
        try:
            if path.endswith(".gz"):
                with gzip.open(io.BytesIO(content)) as packed:
                    content = packed.read(_MOST_BYTES + 1)
                if len(content) > _MOST_BYTES:
                    raise ValueError(f"more than {_MOST_BYTES:,} bytes when unpacked")
            # row by row, as text: pydantic reads floats exactly, and what is no table is not built up as one first
            rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), strict=True)
            return cls(_from_row(_complete(row, number), number) for number, row in enumerate(rows, start=1))
        except ConfigError:
            raise
        except (OSError, EOFError, ValueError, zlib.error, csv.Error) as e:
            raise DataError(f"table {path}: no CSV, or a damaged one ({e}); restore the file") from e


def _space_of(plans: Sequence[Plan]) -> PlanSpace:
    if not plans:
        raise ConfigError("a table needs at least one measurement")
    sparsities: dict[str, set[float]] = {}
    codecs: dict[str, dict[CodecSetting, None]] = {}  # a dict, because it keeps the order
    for plan in plans:
        if isinstance(plan.sparsity, tuple):
            raise ConfigError(f"table holds a plan pruned by layer ({plan.label!r}); it serves uniform ones only")
        sparsities.setdefault(plan.place, set()).add(plan.sparsity)
        codecs.setdefault(plan.place, {})[plan.codec] = None
    space = PlanSpace(splits=tuple(codecs), sparsities={s: tuple(sorted(v)) for s, v in sparsities.items()},
                      codecs={s: tuple(v) for s, v in codecs.items()})
    if len(space) != len(plans):
        missing = next(p for p in space.plans() if p not in set(plans))
        raise ConfigError(f"table is incomplete: {len(plans)} of {len(space)} plans, no {missing.label!r}")
    return space


def _to_row(m: Measurement) -> dict[str, Any]:
    row: dict[str, Any] = {"split": m.plan.split, "head": m.plan.head, "sparsity": m.plan.sparsity}
    row |= {f"codec_{name}": getattr(m.plan.codec, name) for name in _CODEC}
    row |= {name: getattr(m, name) for name in _MEASUREMENT}
    row |= {name: getattr(m.workload, name) for name in _WORKLOAD}
    for stage in _STAGES:
        cost = getattr(m.workload, stage)
        row |= {f"{stage}_{name}": getattr(cost, name) for name in STAGE_COUNTS}
        if cost.by_type is not None:
            row[f"{stage}_by_type"] = cost.by_type.model_dump_json()
    return row


def _complete(row: dict[Any, Any], number: int) -> dict[Any, Any]:
    """A row of a CSV file, if it has as many cells as there are columns."""
    if None in row or None in row.values():
        raise ConfigError(f"table, row {number}: not as many cells as there are columns")
    return row


def _from_row(row: dict[Any, Any], number: int) -> Measurement:
    try:
        # choices that were added later are absent from older tables, as they are from settings without them
        cells = {n: row["codec_kind"] if n == "kind" else row.get(f"codec_{n}", "") for n in _CODEC}
        codec = {n: cell for n, cell in cells.items() if not _absent(cell)}
        plan = {"split": row["split"], "head": row.get("head", "pruned"), "sparsity": row["sparsity"], "codec": codec}
        stages = {s: {n: row[f"{s}_{n}"] for n in STAGE_COUNTS} | _by_type(row.get(f"{s}_by_type")) for s in _STAGES}
        workload = {"plan": plan, **stages, **{n: row[n] for n in _WORKLOAD}}
        return Measurement.model_validate({"plan": plan, "workload": workload, **{n: row[n] for n in _MEASUREMENT}})
    except KeyError as e:
        raise ConfigError(f"table: no column {e.args[0]!r}") from None
    except ValidationError as e:
        raise ConfigError(f"table, row {number}: {first_error(e)}") from e


def _by_type(cell: Any) -> dict[str, Any]:
    """The sums by operator type, which older tables do not have and work without operators does not need."""
    return {} if cell is None or _absent(cell) else {"by_type": TypeSums.model_validate_json(cell)}


def _absent(value: Any) -> bool:
    import pandas as pd

    return value == "" if isinstance(value, str) else bool(pd.isna(value))
