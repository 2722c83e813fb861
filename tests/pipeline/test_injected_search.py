"""A search that ends with an injected head and a code with a rate: from the supernet to the bundle, in int8."""

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.result import Result
from autosplit.pipeline.replay import replay
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from tests.runs import f1_plans, invoke, searching

SPACE = {"codecs": ("factorised",), "space__heads": ("pruned", "injected"), "space__rates": 3, "space__bits": (4,),
         "space__splits": ("layer1", "layer2"), "training__injected_steps": 12, "conditions__budget_ms": 1e4}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("injected") / "run"
    with searching(world):
        search(world.scenario(**SPACE, search__agent=world.agent("Injected"), search__evaluations=2), out)
    return out


@pytest.fixture(scope="module")
def result(run):
    return Result.load(run / "best.json")


def test_it_is_what_was_found(result, run):
    plan = result.plan
    assert (plan.place, plan.sparsity, plan.codec.rate) == ("layer1+injected", 0.5, 2)
    assert {p.head for p in f1_plans(run)} == {"injected"}
    assert "layer1 | injected | 50% pruned" in (run / "pareto.csv").read_text()
    assert result.stored.blueprint.arithmetic == "int8"


def test_ratio_is_against_the_feature_it_stands_in_for(result, prepared):
    blueprint = result.stored.blueprint
    channels, height, width = blueprint.head["feature"]
    deployment = Deployment.from_result(result)
    measured = deployment.measurement(deployment.evaluate(prepared.data, "test"))
    assert measured.feature_bytes == 4 * channels * height * width
    assert blueprint.feature_shape != (channels, height, width)


def test_replay_makes_it_again(warm, run):
    report = replay(run / "best.json")
    assert report.result.plan.head == "injected"


def test_stored_network_answers_as_before(result, prepared):
    images = prepared.data.test.images
    one, two = (Deployment.from_result(result).run(images)[0] for _ in range(2))
    assert np.array_equal(one.numpy(), two.numpy())


def test_the_bundle_answers_as_the_deployment(run, result, world, prepared, tmp_path):
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    export_result(run / "best.json", tmp_path / "bundle", cache=Cache(world.cache))
    deployment, images = Deployment.from_result(result), prepared.data.test.images[:32]
    device, edge = load_device(tmp_path / "bundle"), load_edge(tmp_path / "bundle")
    payloads = device.encode(images.numpy())
    assert payloads == deployment.encode(images)
    assert np.argmax(edge.decode(payloads), 1).tolist() == deployment.decode(payloads).argmax(1).tolist()


def test_dry_run_shows_the_places(warm, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(warm.scenario(**SPACE).to_yaml())
    shown = invoke("search", "--scenario", file, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "layer1+injected" in shown.stdout
