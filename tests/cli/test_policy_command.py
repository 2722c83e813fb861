"""`autosplit train-policy`, `autosplit decide`, and searches that start from a policy."""

from __future__ import annotations

import json

import pytest

from autosplit.agents.policy import CoInferencePolicy
from autosplit.experiments.bench.table import load_table
from autosplit.latency import load_latency_model
from autosplit.pipeline.ledger import Ledger
from tests.runs import failure, invoke

LINK = ("--device", "stm32l4r5", "--channel", "ble-1m", "--budget-ms", "500")


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A policy trained, briefly, on a table of the tiny world."""
    folder = tmp_path_factory.mktemp("policies")
    table, policy = folder / "tiny.csv.gz", folder / "policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        assert invoke("bench", "table", "--scenario", world.root / "tiny.yaml", "--out", table).exit_code == 0
        shown = invoke("train-policy", table, "--out", policy, "--conditions", 16, "--steps", 5000, "--seed", 3)
    return table, policy, shown


def test_training_says_how_well_it_went(made):
    table, policy, shown = made
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith(f"policy in {policy}; regret under conditions it never met: median ")
    origin = CoInferencePolicy.load(policy, load_latency_model("analytic")).origin
    assert (origin.table, origin.sha256) == ("tiny", load_table(table).record.sha256)
    assert (origin.conditions, origin.seed) == (16, 3)
    assert origin.steps >= 5000
    assert sorted(f.name for f in policy.iterdir()) == ["policy.json", "policy.safetensors"]


def test_a_decision_is_a_plan_with_its_prediction(made):
    table, policy, _ = made
    found = json.loads(invoke("decide", "--policy", policy, *LINK, "--json").stdout)
    rows = {m.plan.model_dump_json(): m for m in load_table(table).evaluator.measurements}
    measured = rows[json.dumps(found["plan"], separators=(",", ":"))]
    assert found["accuracy"] == measured.accuracy
    assert found["latency"]["p95_ms"] <= 500
    text = invoke("decide", "--policy", policy, *LINK)
    assert text.exit_code == 0, text.stderr
    assert text.stdout.splitlines()[0] == measured.plan.label
    assert f"p95 {found['latency']['p95_ms']:.1f} ms" in text.stdout


def test_the_link_as_it_is_just_now_counts(made):
    def uplink(*options):
        found = invoke("decide", "--policy", made[1], *LINK, "--among", 1, "--json", *options)
        return json.loads(found.stdout)

    usual, slow = uplink(), uplink("--rate-kbps", 1)
    if usual["plan"] == slow["plan"] and usual["payload_bytes"]:
        assert slow["latency"]["uplink_ms"] > usual["latency"]["uplink_ms"]
    else:  # what already runs on the device alone does not begin to send on a slower link
        assert slow["payload_bytes"] < usual["payload_bytes"] or slow["payload_bytes"] == usual["payload_bytes"] == 0
    late = uplink("--access-ms", 400)
    assert late["payload_bytes"] == 0 or late["latency"]["uplink_ms"] > 400


def test_a_deadline_that_no_plan_meets(made):
    shown = invoke("decide", "--policy", made[1], *LINK[:-1], "0.001")
    assert shown.exit_code == 3
    assert "no plan is in time within 0.001 ms" in shown.stderr


@pytest.mark.parametrize(("options", "culprit"), [
    (("--policy", "nowhere"), "nowhere"),
    (("--budget-ms", "0"), "--budget-ms"),
    (("--rate-kbps", "-3"), "--rate-kbps"),
    (("--access-ms", "0"), "--access-ms"),
    (("--channel", "lora-sf7", "--access-ms", "5"), "lora-sf7"),
    (("--device", "abacus"), "abacus"),
    (("--channel", "pigeon"), "pigeon"),
    (("--latency-model", "nothing"), "nothing"),
])
def test_wrong_questions_are_one_line(made, options, culprit):
    assert culprit in failure("decide", "--policy", made[1], *LINK, *options)


@pytest.mark.parametrize(("options", "culprit"), [
    (("--factor", "0.5"), "factor"),
    (("--least-budget-ms", "2000"), "budgets"),
    (("--device", "abacus"), "abacus"),
    (("--objective", "joy"), "joy"),
])
def test_wrong_trainings_are_one_line(made, options, culprit, tmp_path):
    assert culprit in failure("train-policy", made[0], "--out", tmp_path / "policy", *options)


def test_a_training_needs_a_table(tmp_path):
    assert "nowhere.csv" in failure("train-policy", tmp_path / "nowhere.csv", "--out", tmp_path / "policy")


@pytest.mark.parametrize("agent", ["policy", "ppo"])
def test_a_search_starts_from_a_policy(made, world, monkeypatch, tmp_path, agent):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    shown = invoke("search", "--scenario", world.root / "tiny.yaml", "--agent", agent, "--policy", made[1],
                   "--evaluations", 4, "--out", tmp_path / "run")
    assert shown.exit_code == 0, shown.stderr
    scenario = world.scenario()
    policy = CoInferencePolicy.load(made[1], load_latency_model(scenario.latency_model))
    first = Ledger.read(tmp_path / "run").measurements("F1")
    if agent == "policy":
        assert policy.decide(scenario.conditions).plan in {m.plan for m in first}
    cold = Ledger.read(world.run).measurements("F1")
    assert [m.plan for m in first] != [m.plan for m in cold[: len(first)]]


def test_the_agent_policy_needs_one_before_anything_is_trained(world, tmp_path):
    line = failure("search", "--scenario", world.root / "tiny.yaml", "--agent", "policy", "--out", tmp_path / "run")
    assert "--policy" in line
    assert not (tmp_path / "run").exists()
    assert "nowhere" in failure("search", "--scenario", world.root / "tiny.yaml", "--policy", tmp_path / "nowhere",
                                "--out", tmp_path / "run")
