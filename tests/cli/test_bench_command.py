"""`autosplit bench table`, and the tables it writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest

from autosplit import agents
from autosplit.cli.bench import usable_agents
from autosplit.core.errors import AutosplitError, ConfigError, PluginError
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.experiments.bench.table import load_table
from tests.runs import failure, invoke, messages


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
    assert messages(shown) == []
    table = load_table(path)
    space = table.evaluator.space
    assert len(space) == table.record.plans == len(table.evaluator.measurements)
    assert shown.stdout.startswith(f"{len(space)} plans in {path}")
    assert table.record.scenario.fingerprint == world.scenario().anchored().fingerprint
    assert table.record.provenance.supernet_key
    assert {m.fidelity for m in table.evaluator.measurements} == {"F1"}


def test_a_search_and_a_table_measure_alike(made, world):
    from autosplit.pipeline.ledger import Ledger

    rows = {m.plan: m for m in load_table(made[0]).evaluator.measurements}
    for measured in Ledger.read(world.run).measurements("F1"):
        row = rows[measured.plan]
        assert (row.accuracy, row.workload) == (measured.accuracy, measured.workload)


def test_a_table_that_was_stopped_is_gone_on_with(made, world, monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    taken = []
    monkeypatch.setattr(CachedEvaluator, "_keep", lambda self, m: taken.append(m))
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
    assert {"absent": "is missing", "damaged": "not valid JSON", "schema": "schema 99",
            "other table": "SHA-256 differs"}[harm] in str(raised.value)


# --- bench search ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heavy(made, tmp_path_factory):
    """The table as it were of a network with 2,000 times the work, on pictures of 30 times the bytes.

    The tiny world is in time everywhere as it is, so that there would be nothing to search.
    """
    path = tmp_path_factory.mktemp("heavy") / "heavy.csv.gz"
    rows = pd.read_csv(made[0])
    rows[[c for c in rows if c.endswith("_macs")]] *= 2000.0
    rows.loc[rows.split == "input", ["payload_bytes_mean", "payload_bytes_p95"]] *= 30.0
    rows.to_csv(path, index=False)
    record = load_table(made[0]).record.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    (path.parent / "heavy.json").write_text(record.model_dump_json())
    return path


def grid(table, out, *more):
    return invoke("bench", "search", table, "--out", out, "--agent", "random", "--agent", "exhaustive", "--scenarios",
                  2, "--seeds", 2, "--evaluations", 8, *more)


@pytest.fixture(scope="module")
def searched(heavy, tmp_path_factory):
    out = tmp_path_factory.mktemp("searches")
    return out, grid(heavy, out)


def test_every_method_scenario_and_seed_is_searched(searched):
    out, shown = searched
    assert shown.exit_code == 0, shown.stderr
    runs = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 2 * 2
    for run in runs:
        assert len(run["regret"]) == 8
        assert all(0 <= b <= a <= 1 for a, b in pairwise(run["regret"]))
    assert "### heavy" in shown.stdout
    assert (out / "summary.md").read_text() == shown.stdout
    for name in ("summary.csv", "scenarios.csv", "regret.png", "regret.svg"):
        assert (out / name).stat().st_size > 0


def test_regret_is_against_the_enumerated_optimum(heavy, searched):
    from autosplit.agents.base import SearchProblem
    from autosplit.evaluation.objective import load_objective
    from autosplit.evaluation.scorer import score
    from autosplit.experiments.bench.runs import Grid, settings_of
    from autosplit.latency import load_latency_model

    table = load_table(heavy).evaluator
    setting = settings_of(Grid((heavy,), ("random",), 2, 0, 2, 8))["heavy", 0]
    model, objective = load_latency_model("analytic"), load_objective("in-time-accuracy")
    outcomes = score(table.measurements, model, objective, setting.conditions)
    assert setting.optimum == pytest.approx(max(o.reward for o in outcomes if o.feasible))
    exhaustive = SearchProblem.of(table, model, objective, setting.conditions)
    first = [o for o, wanted in zip(outcomes, exhaustive.candidates, strict=True) if wanted][:8]
    expected = 1 - max(o.reward for o in first) / setting.optimum
    runs = [json.loads(line) for line in (searched[0] / "runs.jsonl").read_text().splitlines()]
    found = [r["regret"][-1] for r in runs if (r["method"], r["scenario"]) == ("exhaustive", 0)]
    assert found == pytest.approx([expected, expected], abs=1e-6)


def test_searches_that_are_done_are_not_done_again(heavy, searched, tmp_path):
    lines = (searched[0] / "runs.jsonl").read_text().splitlines()
    (tmp_path / "grid.json").write_text((searched[0] / "grid.json").read_text())
    (tmp_path / "runs.jsonl").write_text("\n".join([*lines[:5], lines[5][:20]]) + "\n")
    assert grid(heavy, tmp_path).exit_code == 0
    again = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert again[:5] == lines[:5]
    assert len(again) == len(lines) == 8  # the damaged line is made good

    def curves(text):
        rows = [json.loads(line) for line in text if line.endswith("}")]
        return {(r["scenario"], r["method"], r["seed"]): r["regret"] for r in rows}

    assert curves(again) == curves(lines)


def test_a_search_ends_with_the_batch_that_holds_the_best_plan(heavy, tmp_path, monkeypatch):
    from autosplit.experiments.bench import runs

    asked = runs.Grid((heavy,), ("benchmarks/model_only.py:ModelRandomAgent", "random"), 2, 0, 2, 20)
    monkeypatch.setattr(runs, "_BATCH", 20)
    whole = [run.regret for run in runs.run_grid(asked, tmp_path / "whole")]
    monkeypatch.setattr(runs, "_BATCH", 2)
    cut = [run.regret for run in runs.run_grid(asked, tmp_path / "cut")]
    assert min(map(len, cut)) < 20 == min(map(len, whole))
    for short, full in zip(cut, whole, strict=True):
        assert short == full[:len(short)]
        assert set(full[len(short):]) <= {0.0}
        assert (short[-1] == 0.0) == (len(short) < 20 or full[-1] == 0.0)
        assert 0.0 not in short[:-2]


def test_processes_give_the_same_searches(heavy, searched, tmp_path):
    assert grid(heavy, tmp_path, "--jobs", 2).exit_code == 0
    def curves(folder):
        rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
        return {(r["scenario"], r["method"], r["seed"]): r["regret"] for r in rows}

    assert curves(tmp_path) == curves(searched[0])


def test_a_folder_of_another_grid_is_refused(heavy, searched):
    refused = failure("bench", "search", heavy, "--out", searched[0], "--agent", "random", "--scenarios", 3,
                      "--evaluations", 8)
    assert "another grid" in refused


def test_searches_under_another_latency_model_of_the_same_name_are_not_mixed_in(heavy, searched, monkeypatch):
    from autosplit.experiments.bench import runs

    asked = runs.Grid((heavy,), ("random", "exhaustive"), 2, 0, 2, 8)
    before = (searched[0] / "grid.json").read_text()
    assert len(runs.run_grid(asked, searched[0])) == 8
    settings = {key: replace(s, rewards=s.rewards + 1e-3) for key, s in runs.settings_of(asked).items()}
    monkeypatch.setattr(runs, "settings_of", lambda grid: settings)
    with pytest.raises(ConfigError, match="another grid"):
        runs.run_grid(asked, searched[0])
    assert (searched[0] / "grid.json").read_text() == before


def test_a_table_too_small_for_the_measurements_is_refused(made, tmp_path):
    assert "fewer --evaluations" in failure("bench", "search", made[0], "--out", tmp_path, "--agent", "random")


def test_every_agent_that_can_be_loaded_takes_part_unless_named(monkeypatch, capsys):
    load_agent = agents.load_agent

    def load(name):
        if name == "cmaes":
            raise PluginError("agent 'cmaes' needs the package cmaes")
        return load_agent(name)

    monkeypatch.setattr(agents, "load_agent", load)
    methods = usable_agents(policy=False)
    assert methods[0] == "ppo"
    assert sorted(methods) == [name for name in agents.list_agents() if name not in {"cmaes", "policy"}]
    assert capsys.readouterr().err == "left out: agent 'cmaes' needs the package cmaes\n"


def test_unknown_agents_are_refused_before_anything_is_searched(made, tmp_path):
    assert "unknown agent 'ranbom'" in failure("bench", "search", made[0], "--out", tmp_path, "--agent", "ranbom")
    assert not list(tmp_path.iterdir())
