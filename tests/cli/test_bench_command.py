"""`autosplit bench table`, and the tables it writes."""

from __future__ import annotations

import json

import pytest

from autosplit.errors import AutosplitError
from autosplit.evaluation.store import StoredEvaluator
from autosplit.tabulate import load_table
from tests.runs import failure, invoke, talk


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A table of the tiny world, measured with the networks that its finished search left in the cache."""
    path = tmp_path_factory.mktemp("tables") / "tiny.csv.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        return path, invoke("bench", "table", "--scenario", world.root / "tiny.yaml", "--out", path)


def test_the_table_holds_the_whole_space(made, world, monkeypatch):
    path, shown = made
    assert shown.exit_code == 0, shown.stderr
    assert talk(shown) == []
    table = load_table(path)
    space = table.evaluator.space
    assert len(space) == table.record.plans == len(table.evaluator.measurements)
    assert shown.stdout.startswith(f"{len(space)} plans in {path}")
    assert table.record.scenario.fingerprint == world.scenario().fingerprint
    assert table.record.provenance.supernet_key
    assert {m.fidelity for m in table.evaluator.measurements} == {"F1"}


def test_a_search_and_a_table_measure_alike(made, world):
    from autosplit.ledger import Ledger

    rows = {m.plan: m for m in load_table(made[0]).evaluator.measurements}
    for measured in Ledger.read(world.run).measurements("F1"):
        row = rows[measured.plan]
        assert (row.accuracy, row.workload) == (measured.accuracy, measured.workload)


def test_a_table_that_was_stopped_is_gone_on_with(made, world, monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    taken = []
    monkeypatch.setattr(StoredEvaluator, "_append", lambda self, m: taken.append(m))
    path = tmp_path / "tiny.csv.gz"  # gzip holds the name
    again = invoke("bench", "table", "--scenario", world.root / "tiny.yaml", "--out", path, "--json")
    assert again.exit_code == 0, again.stderr
    assert taken == []  # all were in the cache
    assert path.read_bytes() == made[0].read_bytes()
    assert json.loads(again.stdout)["sha256"] == load_table(made[0]).record.sha256


def test_tables_have_a_suffix_and_a_writable_folder(tmp_path):
    assert "NAME.csv" in failure("bench", "table", "--out", tmp_path / "table.txt")
    (tmp_path / "file").write_text("")
    assert "choose a folder" in failure("bench", "table", "--out", tmp_path / "file" / "t.csv")


@pytest.mark.parametrize("harm", ["absent", "damaged", "schema", "other table"])
def test_a_record_that_does_not_fit_is_refused(made, tmp_path, harm):
    path, record = tmp_path / "tiny.csv.gz", tmp_path / "tiny.json"
    path.write_bytes(made[0].read_bytes())
    text = (made[0].parent / "tiny.json").read_text()
    if harm == "damaged":
        record.write_text(text[:200])
    elif harm == "schema":
        record.write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    elif harm == "other table":
        record.write_text(text.replace(load_table(made[0]).record.sha256, "0" * 64))
    with pytest.raises(AutosplitError) as raised:
        load_table(path)
    assert str(path) in str(raised.value)
    assert {"absent": "cannot read", "damaged": "not one of this version", "schema": "schema 99",
            "other table": "SHA-256 differs"}[harm] in str(raised.value)
