import csv
import gzip
from pathlib import Path

import pandas as pd
import pytest

from autosplit.core.errors import ConfigError, DataError
from autosplit.core.operators import TypeSums
from autosplit.core.plan import CodecSetting, Plan
from autosplit.evaluation.table import TableEvaluator
from tests.synthetic import make_table, small_table

COMMITTED = Path(__file__).parents[2] / "results/tables"


def test_serves_its_measurements_in_order():
    table = small_table()
    plans = table.space.plans()
    assert [m.plan for m in table.measure(plans[::-1])] == plans[::-1]
    assert table.workloads(plans[:3]) == [m.workload for m in table.measure(plans[:3])]


def test_space_of_the_table():
    space = make_table(noise=0).space
    assert space.splits == ("input", "stem", "layer1", "layer2", "layer3", "output")
    assert len(space.codecs["input"]) == 7
    assert len(space) == 4 * 6 * 60 + 7 + 6


def test_csv_round_trip(tmp_path):
    table = small_table()
    table.to_csv(tmp_path / "table.csv")
    again = TableEvaluator.from_csv(tmp_path / "table.csv")
    assert again.measurements == table.measurements
    assert again.space == table.space


def test_frame_round_trip():
    table = small_table()
    assert TableEvaluator.from_frame(table.to_frame()).measurements == table.measurements


def test_unknown_plan():
    plan = Plan(split="nowhere", codec=CodecSetting(kind="raw"))
    with pytest.raises(ConfigError, match="not in the table"):
        small_table().measure([plan])


def test_incomplete_doubled_and_empty_tables():
    rows = small_table().measurements
    with pytest.raises(ConfigError, match="incomplete"):
        TableEvaluator(rows[:-20] + rows[-19:])
    with pytest.raises(ConfigError, match="twice"):
        TableEvaluator([*rows, rows[0]])
    with pytest.raises(ConfigError, match="at least one"):
        TableEvaluator([])


def test_layerwise_plans_are_refused():
    row = small_table().measurements[-1]
    with pytest.raises(ConfigError, match="by layer"):
        TableEvaluator([row.model_copy(update={"plan": row.plan.model_copy(update={"sparsity": (0.1, 0.2)})})])


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="absent"):
        TableEvaluator.from_csv(tmp_path / "absent.csv")
    frame = small_table().to_frame()
    with pytest.raises(ConfigError, match="no column 'accuracy'"):
        TableEvaluator.from_frame(frame.drop(columns="accuracy"))
    frame.loc[3, "accuracy"] = 1.5
    with pytest.raises(ConfigError, match="row 4: accuracy"):
        TableEvaluator.from_frame(frame)


def test_sums_by_operator_type_are_kept_and_older_tables_have_none(tmp_path):
    old = small_table()
    sums = TypeSums(conv=(2, 6e5, 30, 40, 50.5, 7e5, 90), other=(1, 0, 8, 8, 0, 0, 0))
    new = TableEvaluator(m.model_copy(update={"workload": m.workload.model_copy(update={
        "device": m.workload.device.model_copy(update={"by_type": sums})})}) for m in old.measurements)
    new.to_csv(tmp_path / "new.csv")
    old.to_csv(tmp_path / "old.csv")
    assert "by_type" not in (tmp_path / "old.csv").read_text()
    assert TableEvaluator.from_csv(tmp_path / "new.csv").measurements == new.measurements
    assert TableEvaluator.from_frame(new.to_frame()).measurements == new.measurements
    assert {m.workload.device.by_type for m in TableEvaluator.from_csv(tmp_path / "old.csv").measurements} == {None}


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.csv.gz")), ids=lambda p: p.name)
def test_committed_tables_have_all_columns_that_are_read(path):
    """Also when plans get a new choice, or measurements a new figure."""
    with gzip.open(path, "rt") as file:
        row = next(csv.DictReader(file))
    (measured,) = TableEvaluator.from_frame(pd.DataFrame([row])).measurements
    assert measured.plan.split == row["split"]
    assert measured.accuracy == float(row["accuracy"])
