"""A search that prunes layer by layer, end to end: from the command line to a replay."""

from __future__ import annotations

import json
import shutil

import pytest

from autosplit.core.result import Result
from autosplit.pipeline.ledger import Ledger
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from autosplit.training.prepare import prepare
from tests.runs import f1_plans, failure, invoke

SETTINGS = {"search.granularity": "layer", "training.layer_profiles": 4, "space.splits": ("layer2",),
            "space.whole_on_edge": False, "space.whole_on_device": False,
            "conditions.budget_ms": 31}  # too short for a whole head
OPTIONS = ("--granularity", "layer", "--set", "training.layer_profiles=4", "--set", "space.splits=[layer2]",
           "--set", "space.whole_on_edge=false", "--set", "space.whole_on_device=false", "--budget-ms", 31)


def layered(world, **changes):
    return world.scenario().replace(**{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run of `ppo`, small enough to be quick, large enough for a round of training."""
    out = tmp_path_factory.mktemp("layers") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        search(layered(world, **{"search.agent": world.agent("QuickLayers")}), out)
    return out


def test_plans_have_a_sparsity_for_each_group_and_are_in_time(run, prepared):
    plans, groups = f1_plans(run), prepared.supernet.pruners["layer2"].groups
    assert len(plans) == len(set(plans)) == 8
    profiles = [p.sparsity for p in plans if isinstance(p.sparsity, tuple)]
    assert len(profiles) >= 4
    assert all(len(p) == len(groups) > 1 and max(p) <= 0.5 for p in profiles)
    # bounding goes by predicted payloads, from which measured ones differ by a fraction of a byte: one plan measures
    # 31.05 ms
    assert all(o.latency.p95_ms <= 1.01 * o.budget_ms for o in Ledger.read(run).outcomes("F1"))


def test_the_result_is_fine_tuned_saved_and_replayed(run):
    result = Result.load(run / "best.json")
    assert isinstance(result.plan.sparsity, tuple)
    assert "pruned by layer" in result.plan.label
    assert result.outcome.measurement.fidelity == "F3"
    assert Deployment.load(result.stored.blueprint, run / result.stored.weights).blueprint.plan == result.plan
    assert invoke("replay", run / "best.json").exit_code == 0
    assert "pruned by layer" in invoke("show", run).stdout
    assert not (run / "policy").exists()  # a policy for other conditions is the uniform agent's


def test_a_larger_budget_goes_on_where_it_was(run, world, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    longer = shutil.copytree(run, tmp_path / "run")
    more = invoke("search", "--resume", longer, "--evaluations", 10, "--quiet")
    assert more.exit_code == 0, more.stderr
    assert f1_plans(longer)[:8] == f1_plans(run)
    assert len(f1_plans(longer)) == 10
    refused = failure("search", "--resume", run, "--agent", "random", "--granularity", "uniform", code=5)
    assert 'search.granularity was "layer", now "uniform"' in refused


def test_ddpg_from_the_command_line(warm, tmp_path):
    done = invoke("search", "--scenario", warm.root / "tiny.yaml", *OPTIONS, "--agent", "ddpg", "--evaluations", 4,
                  "--json", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["provenance"]["agent"], said["scenario"]["search"]["granularity"]) == ("ddpg", "layer")
    assert len(f1_plans(tmp_path / "run")) == 4
    assert invoke("replay", tmp_path / "run").exit_code == 0


def test_supernets_of_other_heads_are_not_taken_for_one_another(run, warm):
    uniform = layered(warm, **{"search.granularity": "uniform"})
    keys = {name: prepare(scenario).supernet_key for name, scenario in {
        "layer": layered(warm), "uniform": uniform,
        "layer, trained as uniform": layered(warm, **{"training.layer_profiles": 0})}.items()}
    assert keys["layer"] == Result.load(run / "best.json").provenance.supernet_key
    assert keys["layer"] != keys["uniform"] == keys["layer, trained as uniform"]
