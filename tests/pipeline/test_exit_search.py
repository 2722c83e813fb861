"""A search that ends with an exit on the device: from the measurement to the bundle and its client, in int8."""

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.ledger import Ledger
from autosplit.pipeline.replay import replay
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from tests.runs import invoke, searching

SPACE = {"space__exits": (0.9, 0.9999, 0.999999), "space__exit_by": ("classifier",), "space__splits": ("layer1",),
         "conditions__budget_ms": 1e4}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("exit") / "run"
    with searching(world) as patch:
        # the tiny world's exit would not be chosen for what it brings
        patch.setattr(Scorer, "with_best_exits", lambda scorer, outcomes: scorer.outcomes(
            o.measurement.variants[min(2, len(o.measurement.variants) - 1)] for o in outcomes))
        patch.setattr("autosplit.pipeline.choice._COSTS", (lambda o: o.measurement.workload.sent,))
        patch.setattr("autosplit.pipeline.choice.accuracy_difference", lambda one, other, sources=None:
                      type("Wide", (), {"high": 1.0, "half_width": 1.0}))
        search(world.scenario(**SPACE, search__agent=world.agent("CodePruned"), search__evaluations=2), out)
    return out


@pytest.fixture(scope="module")
def result(run):
    return Result.load(run / "best.json")


def measured(run):
    return [o.measurement for o in Ledger.read(run).outcomes()]


def test_every_measurement_of_a_split_knows_what_its_exits_would_do(run):
    split = next(m for m in measured(run) if m.fidelity == "F1" and m.plan.is_split)
    assert [p.exit.threshold for p in split.exits] == [0.9, 0.9999, 0.999999]
    assert np.all(np.diff([p.sent for p in split.exits]) >= 0)
    assert split.plan.exit is None
    for point, variant in zip(split.exits, split.variants[1:], strict=True):
        # each image is answered by one of the two
        assert variant.accuracy == pytest.approx(point.accuracy)
        assert variant.workload.device.macs > split.workload.device.macs
        if point.sent == 1.0:
            assert variant.accuracy == pytest.approx(split.accuracy)


def test_what_was_found_has_an_exit_and_a_sibling_without(run, result):
    assert result.plan.exit.threshold == 0.9999
    assert result.stored.blueprint.arithmetic == "int8"
    assert result.stored.blueprint.exit["classes"] == result.stored.blueprint.num_classes
    tuned = {m.plan for m in measured(run) if m.fidelity == "F3"}
    assert {result.plan, result.plan.without_exit} <= tuned


def test_figures_are_those_of_both_branches(result, prepared):
    deployment = Deployment.from_result(result)
    evaluation = deployment.evaluate(prepared.data, "test")
    assert 0 < evaluation.left.sum() < evaluation.images
    found = deployment.measurement(evaluation)
    point = found.exits[0]
    assert found.accuracy == pytest.approx(point.accuracy)
    assert found.workload.sent == pytest.approx(1 - evaluation.left.mean())
    assert found.workload.payload_bytes_mean == pytest.approx(evaluation.payload_sizes[~evaluation.left].mean())
    row = next(row for row in result.comparison if row.chosen)
    assert row.exit == point
    assert row.in_time_accuracy == pytest.approx(point.in_time_accuracy(row.latency.in_time))


def test_what_is_sent_is_answered_as_without_an_exit(result, prepared, run):
    deployment, images = Deployment.from_result(result), prepared.data.test.images
    payloads = deployment.encode(images)
    logits, sent = deployment.run(images)
    assert payloads == sent
    some = [i for i, payload in enumerate(payloads) if payload]
    assert np.array_equal(logits[some].numpy(), deployment.decode([payloads[i] for i in some]).numpy())


def test_replay_makes_it_again(warm, run, result):
    report = replay(run / "best.json")
    assert report.result.plan == result.plan
    assert not report.differences


def test_optunas_study_has_the_threshold(run, result):
    optuna = pytest.importorskip("optuna")
    file = run / "study.log"
    assert invoke("show", run, "--optuna", file).exit_code == 0
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert {t.params.get("exit") for t in study.trials} == {None, result.plan.exit.threshold}


def test_it_is_told_in_tables_and_on_the_map(run):
    shown = invoke("show", run)
    assert "exit at 99.99%" in shown.stdout
    assert invoke("map", run).exit_code == 0
    assert invoke("report", run).exit_code == 0


@pytest.fixture(scope="module")
def bundle(run, world, tmp_path_factory):
    for package in ("onnx", "onnxruntime", "zmq"):
        pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")
    out = tmp_path_factory.mktemp("exit-bundle") / "bundle"
    export_result(run / "best.json", out, cache=Cache(world.cache))
    return out


def test_answers_as_the_deployment(bundle, result, prepared):
    from autosplit.runtime.standalone.bundle.check import check
    from autosplit.runtime.standalone.bundle.parts import load_device

    deployment, images = Deployment.from_result(result), prepared.data.test.images[:48]
    device = load_device(bundle)
    payloads, local = device.begin(images.numpy())
    logits, expected = deployment.run(images)
    assert payloads == expected
    assert 0 < sum(not p for p in payloads) < len(payloads)
    left = [i for i, payload in enumerate(payloads) if not payload]
    assert np.array_equal(local[left].argmax(1), logits[left].numpy().argmax(1))
    assert check(bundle).passed


def test_the_device_sends_what_it_is_not_sure_of_and_falls_back_on_the_exit(bundle, prepared):
    from autosplit.runtime.standalone.bundle.parts import load_device
    from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient

    images, device = prepared.data.test.images[:16].numpy(), load_device(bundle)
    payloads, local = device.begin(images)
    with DeviceClient(device, "127.0.0.1:9", ClientOptions(timeout_ms=50)) as client:
        answers = client.infer(images)
    assert [a.where for a in answers] == ["fallback" if payload else "exit" for payload in payloads]
    assert [a.label for a in answers] == local.argmax(1).tolist()
    assert [a.payload_bytes for a in answers] == [len(p) for p in payloads]
