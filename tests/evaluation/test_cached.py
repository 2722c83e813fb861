"""A measurement is taken once, within a search and across searches."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from autosplit.core.accelerator import Accelerator
from autosplit.evaluation.cached import CachedEvaluator, measurement_file
from tests.synthetic import small_table


class Counting:
    """Records what the inner evaluator is asked for, call by call and plan by plan."""

    def __init__(self):
        self.table, self.calls, self.asked = small_table(), [], []
        self.space, self.workloads = self.table.space, self.table.workloads

    def measure(self, plans):
        self.calls.append(list(plans))
        for plan in plans:
            self.asked.append(plan)
            yield from self.table.measure([plan])


@pytest.fixture
def inner():
    return Counting()


@pytest.fixture
def plans(inner):
    return inner.space.plans()[:6]


def test_never_measures_twice_and_gives_each_as_it_happens(inner, plans):
    cached = CachedEvaluator(inner)
    again = [plans[1], plans[0], plans[1], plans[2]]
    taken = []
    for number, measurement in enumerate(cached.measure(again)):
        taken.append((measurement.plan, len(inner.asked)))
        assert measurement.plan == again[number]
    assert taken == [(plans[1], 1), (plans[0], 2), (plans[1], 2), (plans[2], 3)]
    assert len(list(cached.measure(plans[:3]))) == len(inner.asked) == 3
    assert [m.plan for m in cached.measurements] == [plans[1], plans[0], plans[2]]


def test_a_batch_is_handed_on_whole(inner, plans):
    cached = CachedEvaluator(inner, known=inner.table.measure(plans[2:4]))
    assert [m.plan for m in cached.measure(plans)] == plans
    assert inner.calls == [[*plans[:2], *plans[4:]]]


def test_known_measurements_are_not_taken_again(inner, plans):
    cached = CachedEvaluator(inner, known=inner.table.measure(plans[:5]))
    assert cached.unmeasured([*plans, plans[5]]) == [plans[5]]
    list(cached.measure(plans))
    assert inner.asked == [plans[5]]
    assert cached.workloads(plans[:2]) == inner.workloads(plans[:2])
    assert cached.space == inner.space


def test_an_interrupted_batch_loses_nothing_that_was_measured(inner, plans):
    cached, seen = CachedEvaluator(inner), []
    for measurement in cached.measure(plans[:5]):
        seen.append(measurement)
        if len(seen) == 3:
            break
    assert cached.measurements == seen
    assert inner.asked == plans[:3]


def test_each_plan_is_measured_once_for_all_searches(inner, plans, tmp_path):
    path = tmp_path / "deep" / "store.jsonl"
    first = CachedEvaluator(inner, file=path)
    expected = inner.table.measure(plans)
    assert list(first.measure([*plans, plans[0]])) == [*expected, expected[0]]
    assert inner.asked == plans
    assert list(CachedEvaluator(inner, file=path).measure(plans[::-1])) == expected[::-1]
    assert inner.asked == plans


def test_each_measurement_is_on_disk_before_the_next(inner, plans, tmp_path):
    path = tmp_path / "store.jsonl"

    class Dies(Counting):
        def measure(self, plans):
            yield from super().measure(plans[:3])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(CachedEvaluator(Dies(), file=path).measure(plans))
    list(CachedEvaluator(inner, file=path).measure(plans))
    assert inner.asked == plans[3:]


@pytest.mark.parametrize("damage", [
    lambda line: line[:30], lambda line: b"\xff\xfe", lambda line: b"[]",
    lambda line: re.sub(rb'"accuracy":[0-9.]+', b'"accuracy":0.111', line),
    lambda line: json.dumps(json.loads(line)["content"]).encode(),
], ids=["half", "no text", "no object", "another accuracy", "no checksum"])
def test_a_damaged_or_altered_line_costs_one_measurement(inner, plans, tmp_path, damage, caplog):
    path = tmp_path / "store.jsonl"
    list(CachedEvaluator(inner, file=path).measure(plans))
    lines = [line for line in path.read_bytes().splitlines() if line]
    lines[2] = damage(lines[2])
    path.write_bytes(b"\n".join(lines) + b"\n")
    again = Counting()
    assert list(CachedEvaluator(again, file=path).measure(plans)) == inner.table.measure(plans)
    assert again.asked == [plans[2]]
    assert "a damaged line is skipped" in caplog.text


def test_a_last_line_without_its_end_spoils_no_other(inner, plans, tmp_path):
    path = tmp_path / "store.jsonl"
    list(CachedEvaluator(inner, file=path).measure(plans[:3]))
    path.write_bytes(path.read_bytes()[:-20])  # killed while writing the third
    list(CachedEvaluator(inner, file=path).measure(plans))
    again = Counting()
    list(CachedEvaluator(again, file=path).measure(plans))
    assert again.asked == []


def test_a_folder_that_cannot_be_written_costs_time_only(inner, plans, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cached = CachedEvaluator(inner, file=tmp_path / "file" / "store.jsonl")
    assert list(cached.measure(plans)) == inner.table.measure(plans)
    assert "not kept for later searches" in caplog.text


def test_the_file_is_that_of_networks_and_measuring_not_of_conditions(prepared):
    def file(**changes):
        return measurement_file(replace(prepared, scenario=prepared.scenario.replace(**changes)))

    assert file(conditions__budget_ms=3.0, search__agent="random", search__seed=9) == measurement_file(prepared)
    others = {file(search__validation_images=7), file(search__recalibration_images=7),
              measurement_file(replace(prepared, supernet_key="other")), measurement_file(prepared)}
    assert len(others) == 4
    assert all(f.parent == prepared.cache.root / "measurements" for f in others)


@pytest.mark.parametrize("what", ["core.accelerator.arithmetic_key", "evaluation.cached.source_hash"])
def test_the_file_is_that_of_a_processor_and_of_the_code_that_counts(prepared, monkeypatch, what):
    here = measurement_file(prepared)
    monkeypatch.setattr(f"autosplit.{what}", lambda *_: "another")
    assert measurement_file(prepared) != here


def test_the_file_is_that_of_an_accelerator(prepared):
    elsewhere = replace(prepared, data=prepared.data.on(Accelerator("mps")))
    assert measurement_file(elsewhere) != measurement_file(prepared)
