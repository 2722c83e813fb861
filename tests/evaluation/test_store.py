"""Measurements that outlive a search."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autosplit.evaluation.store import StoredEvaluator, measurement_file
from tests.synthetic import small_table


class Counting:
    """A table that counts."""

    def __init__(self):
        self.table, self.asked = small_table(), []
        self.space, self.workloads = self.table.space, self.table.workloads

    def measure(self, plans):
        self.asked.extend(plans)
        return self.table.measure(plans)


@pytest.fixture
def inner():
    return Counting()


@pytest.fixture
def plans(inner):
    return inner.space.plans()[:6]


def test_each_plan_is_measured_once_for_all_searches(inner, plans, tmp_path):
    path = tmp_path / "deep" / "store.jsonl"
    first = StoredEvaluator(inner, path)
    expected = inner.table.measure(plans)
    assert first.measure([*plans, plans[0]]) == [*expected, expected[0]]
    assert inner.asked == plans
    assert StoredEvaluator(inner, path).measure(plans[::-1]) == expected[::-1]
    assert inner.asked == plans


def test_it_passes_on_what_it_does_not_store(inner, plans, tmp_path):
    stored = StoredEvaluator(inner, tmp_path / "store.jsonl")
    assert stored.space == inner.space
    assert stored.workloads(plans) == inner.workloads(plans)
    assert inner.asked == []


def test_each_measurement_is_on_disk_before_the_next(inner, plans, tmp_path):
    path = tmp_path / "store.jsonl"

    class Dies(Counting):
        def measure(self, plans):
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().measure(plans)

    with pytest.raises(KeyboardInterrupt):
        StoredEvaluator(Dies(), path).measure(plans)
    StoredEvaluator(inner, path).measure(plans)
    assert inner.asked == plans[3:]


@pytest.mark.parametrize("damage", [b'{"plan": {"split"', b"\xff\xfe", b"[]"])
def test_a_damaged_line_costs_one_measurement(inner, plans, tmp_path, damage, caplog):
    path = tmp_path / "store.jsonl"
    StoredEvaluator(inner, path).measure(plans)
    lines = [line for line in path.read_bytes().splitlines() if line]
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    again = Counting()
    assert StoredEvaluator(again, path).measure(plans) == inner.table.measure(plans)
    assert again.asked == [plans[2]]
    assert "a damaged line is skipped" in caplog.text


def test_a_last_line_without_its_end_spoils_no_other(inner, plans, tmp_path):
    path = tmp_path / "store.jsonl"
    StoredEvaluator(inner, path).measure(plans[:3])
    path.write_bytes(path.read_bytes()[:-20])  # killed while writing the third
    StoredEvaluator(inner, path).measure(plans)
    again = Counting()
    StoredEvaluator(again, path).measure(plans)
    assert again.asked == []


def test_a_folder_that_cannot_be_written_costs_time_only(inner, plans, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    stored = StoredEvaluator(inner, tmp_path / "file" / "store.jsonl")
    assert stored.measure(plans) == inner.table.measure(plans)
    assert "not kept for later searches" in caplog.text


def test_the_file_is_that_of_networks_and_measuring_not_of_conditions(prepared):
    def file(**changes):
        return measurement_file(replace(prepared, scenario=prepared.scenario.replace(**changes)))

    assert file(conditions__budget_ms=3.0, search__agent="random", search__seed=9) == measurement_file(prepared)
    others = {file(search__validation_images=7), file(search__recalibration_images=7),
              measurement_file(replace(prepared, supernet_key="other")), measurement_file(prepared)}
    assert len(others) == 4
    assert all(f.parent == prepared.cache.root / "measurements" for f in others)
