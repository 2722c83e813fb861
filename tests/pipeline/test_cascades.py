"""Cascades: the network on the device first, another deployment for what it is not sure of."""

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.plan import OUTPUT, CodecSetting, Exit, Plan
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.cascades import cascades
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.replay import replay
from autosplit.pipeline.search import search_scenario as search
from autosplit.report.verdict import finding, verdict
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from tests.runs import invoke, searching

THRESHOLDS = (0.6, 0.9, 0.99)
DEVICE = Plan(split=OUTPUT, sparsity=0.5, codec=CodecSetting(kind="none"))
PICTURE = Plan(split="input", codec=CodecSetting(kind="jpeg-shared", quality=50))
SPLIT = Plan(split="layer2", codec=CodecSetting(kind="code", width=4, grid=4, bits=8))


@pytest.fixture(scope="module")
def context(prepared):
    return SearchContext(prepared, reuse=False)


@pytest.fixture(scope="module")
def scorer(world):
    return Scorer.of(world.scenario(conditions__budget_ms=1e4))


@pytest.fixture(scope="module")
def parts(context, scorer):
    return scorer.outcomes(context.measure(plan, "int8") for plan in (DEVICE, PICTURE, SPLIT))


@pytest.fixture(scope="module")
def joined(context, scorer, parts):
    return cascades(context, scorer, parts, THRESHOLDS)


def test_every_pair_at_every_threshold(joined):
    plans = [o.plan for o in joined]
    assert len(set(plans)) == len(plans) == 2 * len(THRESHOLDS)
    assert {p.without_exit for p in plans} == {PICTURE, SPLIT}
    assert {p.exit for p in plans} == {Exit(threshold=t, sparsity=0.5) for t in THRESHOLDS}


def test_nothing_to_join_without_a_half_or_a_threshold(context, scorer, parts):
    assert cascades(context, scorer, parts[:1], THRESHOLDS) == []
    assert cascades(context, scorer, parts[1:], THRESHOLDS) == []
    assert cascades(context, scorer, parts, ()) == []


def test_what_is_predicted_is_what_a_deployment_does(context, joined):
    """Joined from answers of the two, against the cascade built and run through real payloads."""
    for outcome in (joined[1], joined[-1]):
        found = context.measure(outcome.plan, "int8")
        predicted = outcome.measurement
        assert found.accuracy == pytest.approx(predicted.accuracy)
        assert found.answers == predicted.answers
        assert found.exits == predicted.exits
        assert found.workload == predicted.workload


def test_sent_grows_with_the_threshold_and_energy_with_it(joined):
    pictures = [o for o in joined if not o.plan.is_split]
    sent = [o.measurement.workload.sent for o in pictures]
    assert sent == sorted(sent)
    energies = [o.latency.energy_mj for o in pictures]
    assert energies == sorted(energies)
    assert all(o.latency.p50_ms <= o.latency.p95_ms for o in joined)


def test_answers_come_from_the_cache(prepared, scorer, parts, joined, monkeypatch):
    first = cascades(SearchContext(prepared), scorer, parts, THRESHOLDS)
    monkeypatch.setattr(Deployment, "run", None)
    again = cascades(SearchContext(prepared), scorer, parts, THRESHOLDS)
    assert again == first == joined


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("cascade") / "run"
    with searching(world) as patch:
        # of what the tiny world's few pictures cannot tell apart, one that sends some of them
        patch.setattr("autosplit.pipeline.choice._COSTS", (
            lambda o: (not o.plan.is_cascade) + abs(o.measurement.workload.sent - 0.5),))
        patch.setattr("autosplit.pipeline.choice.accuracy_difference", lambda one, other, sources=None:
                      type("Wide", (), {"high": 1.0, "half_width": 1.0}))
        search(world.scenario(conditions__budget_ms=1e4, space__exits=(0.9, 0.99, 0.999, 0.9999),
                              search__agent=world.agent("Code"), search__evaluations=2), out)
    return out


@pytest.fixture(scope="module")
def result(run):
    return Result.load(run / "best.json")


def test_a_search_takes_a_cascade_and_tells_of_it(result, run):
    assert result.plan.is_cascade
    assert result.stored.blueprint.arithmetic == "int8"
    rows = {row.name: row for row in result.comparison}
    chosen = next(row for row in result.comparison if row.chosen)
    assert chosen.is_cascade
    assert {"best cascade with a picture", "best cascade with a split"} & set(rows)
    # beside it stands what it is made of
    plans = {row.plan for row in result.comparison}
    assert {result.plan.exit.network.label, result.plan.without_exit.label} <= plans
    text = verdict(result.comparison, 1e4)
    assert text.startswith("Cascade: the whole network on the device")
    assert f"({100 * chosen.exit.sent:.1f} % of the images)" in text
    assert "cascade" in finding(result.comparison, 1e4)
    assert invoke("report", run).exit_code == 0


def test_replay_and_the_stored_network(warm, run, result, prepared):
    report = replay(run / "best.json")
    assert report.result.plan == result.plan
    assert not report.differences
    deployment = Deployment.from_result(result)
    evaluation = deployment.evaluate(prepared.data, "test")
    assert 0 < evaluation.left.sum() < evaluation.images
    assert evaluation.correct == result.test.correct


def test_the_bundle_and_its_client(run, result, world, prepared, tmp_path):
    for package in ("onnx", "onnxruntime", "zmq"):
        pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")
    from autosplit.runtime.standalone.bundle.check import check
    from autosplit.runtime.standalone.bundle.parts import load_device
    from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient

    bundle = tmp_path / "bundle"
    export_result(run / "best.json", bundle, cache=Cache(world.cache))
    deployment, images = Deployment.from_result(result), prepared.data.test.images
    device = load_device(bundle)
    assert device.manifest.exit.takes == "images"
    payloads, local = device.begin(images.numpy())
    logits, expected = deployment.run(images)
    assert payloads == expected
    left = [i for i, payload in enumerate(payloads) if not payload]
    assert 0 < len(left) < len(payloads)
    assert np.array_equal(local[left].argmax(1), logits[left].numpy().argmax(1))
    assert check(bundle).passed
    with DeviceClient(device, "127.0.0.1:9", ClientOptions(timeout_ms=50)) as client:
        answers = client.infer(images.numpy())
    assert [a.where for a in answers] == ["fallback" if payload else "exit" for payload in payloads]
    assert [a.label for a in answers] == local.argmax(1).tolist()
