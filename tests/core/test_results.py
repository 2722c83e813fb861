"""The result file by itself: saving, loading, schema, provenance."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.result import SCHEMA_VERSION, Result, json_schema, provenance
from autosplit.core.version import __version__
from autosplit.runtime.deployment import Deployment


@pytest.fixture(scope="module")
def result(world):
    return Result.load(world.run / "best.json")


def test_save_and_load(result, tmp_path):
    result.save(tmp_path / "best.json")
    assert Result.load(tmp_path / "best.json") == result
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]
    assert (tmp_path / "best.json").read_text().endswith("}\n")


def test_weights_are_addressed_from_the_result(world, result, tmp_path):
    copy = world.root / "elsewhere" / "best.json"
    copy.parent.mkdir()
    result.save(copy, weights=world.run / result.stored.weights)
    moved = Result.load(copy)
    assert moved.stored.weights == "../run/best.safetensors"
    assert Deployment.from_result(moved).plan == result.plan
    assert moved.stored.sha256 == result.stored.sha256


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="no such result file"):
        Result.load(tmp_path / "best.json")
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(ResultError, match="probably truncated"):
        Result.load(tmp_path / "best.json")
    (tmp_path / "best.json").write_text('{"schema_version": 1}')
    with pytest.raises(ResultError, match=r"scenario: Field required \(and \d+ more\)"):
        Result.load(tmp_path / "best.json")


def test_schema_names_every_field_and_its_version():
    schema = json_schema()
    assert set(schema["properties"]) == {field.alias or name for name, field in Result.model_fields.items()}
    assert schema["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    json.dumps(schema)


@pytest.mark.parametrize("chosen", [0, 2])
def test_exactly_one_row_is_the_chosen_plan(result, chosen):
    rows = [row.model_copy(update={"chosen": i < chosen}) for i, row in enumerate(result.comparison)]
    with pytest.raises(ValidationError, match="exactly one row"):
        Result.model_validate(result.model_dump() | {"comparison": [r.model_dump() for r in rows]})


def test_results_do_not_change(result):
    with pytest.raises(ValidationError):
        result.feasible = False


def test_provenance(world, result):
    known = result.provenance
    assert known.autosplit == __version__
    assert known.seed == 0
    assert known.agent == "ppo"
    assert "unknown" not in known.versions.values()
    assert {"torch", "constriction", "torch-pruning"} <= set(known.versions)
    assert set(known.seconds) >= {"prepare", "baselines", "search", "fine-tune"}
    assert all(s >= 0 for s in known.seconds.values())
    again = provenance(**known.model_dump(include={"seed", "data_fingerprint", "backbone_key", "supernet_key", "agent",
                                                   "evaluations", "seconds"}))
    assert again.versions == known.versions
