"""Searches that end with a reduced head: from the supernet to replay, bundle and C, in int8."""

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.result import Result
from autosplit.pipeline.adapt import adapt
from autosplit.pipeline.adapt import run as adapt_run
from autosplit.pipeline.replay import replay
from autosplit.pipeline.search import search_scenario as search
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.compiling import compiler
from tests.runs import f1_plans, searching

SPACE = {"space__heads": ("pruned", "reduced"), "space__splits": ("layer1", "layer2"), "conditions__budget_ms": 1e4}
AGENTS = {"split": "ReducedSplit", "whole": "ReducedWhole"}


@pytest.fixture(scope="module", params=AGENTS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(world, tmp_path_factory, kind):
    out = tmp_path_factory.mktemp("reduced") / kind
    with searching(world):
        search(world.scenario(**SPACE, search__agent=world.agent(AGENTS[kind]), search__evaluations=2), out)
    return out


@pytest.fixture(scope="module")
def result(run):
    return Result.load(run / "best.json")


def test_it_is_what_was_found(result, run, kind):
    place = {"split": "layer1+reduced", "whole": "output+reduced"}[kind]
    assert result.plan.place == place
    assert {p.place for p in f1_plans(run)} == {place}
    assert result.stored.blueprint.arithmetic == "int8"
    assert "network on device, smaller pictures" in {row.name for row in result.comparison}


def test_replay_makes_it_again(warm, run, result):
    assert replay(run / "best.json").result.plan == result.plan


def test_the_bundle_answers_as_the_deployment(run, result, world, prepared, tmp_path, kind):
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    export_result(run / "best.json", tmp_path / "bundle", cache=Cache(world.cache))
    deployment, images = Deployment.from_result(result), prepared.data.test.images[:32]
    device = load_device(tmp_path / "bundle")
    if kind == "whole":
        assert np.array_equal(device.logits(images.numpy()), deployment.run(images)[0].numpy())
        return
    payloads = device.encode(images.numpy())
    assert payloads == deployment.encode(images)
    edge = load_edge(tmp_path / "bundle")
    assert np.argmax(edge.decode(payloads), 1).tolist() == deployment.decode(payloads).argmax(1).tolist()


def exact(manifest, networks):
    """Every answer and payload of a bundle is equal, and of its C sources where this machine has a compiler."""
    assert len(manifest.parity) == networks * (1 if compiler() is None else 2)
    for parity in manifest.parity:
        assert parity.images == parity.labels_equal == parity.payloads_equal  # int8 is exact


def test_it_becomes_c(run, tmp_path):
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    exact(export_result(run / "best.json", tmp_path / "bundle", target="c"), 1)


ALONE = {**SPACE, "space__heads": ("reduced",), "space__splits": ("layer2",), "space__whole_on_edge": False,
         "space__whole_on_device": False}


def test_it_becomes_a_bundle_of_rates(world, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    with searching(world):
        search(world.scenario(**ALONE, search__agent=world.agent("Quick")), tmp_path / "run")
    # networks as small as these are no better with more bytes, so one setting would be chosen
    monkeypatch.setattr(adapt_run, "codes_on_the_front", lambda found: found)
    monkeypatch.setattr(adapt_run, "spread", lambda found, scorer, grid, most: sorted(
        found, key=lambda m: m.workload.payload_bytes_mean)[:: max(1, len(found) - 1)])
    found = adapt(tmp_path / "run", tmp_path / "bundle", rates=2, epochs=1, cache=Cache(world.cache), target="c")
    assert len(found.manifest.rates) == 2
    assert {rate.plan["head"] for rate in found.manifest.rates} == {"reduced"}
    exact(found.manifest, len(found.manifest.rates))


def test_its_layers_may_be_pruned_apart(world, tmp_path):
    settings = {**ALONE, "search__granularity": "layer", "training__layer_profiles": 4}
    with searching(world):
        search(world.scenario(**settings, search__agent=world.agent("QuickLayers")), tmp_path / "run")
    plan = Result.load(tmp_path / "run" / "best.json").plan
    assert plan.place == "layer2+reduced"
    plans = f1_plans(tmp_path / "run")
    assert any(isinstance(p.sparsity, tuple) for p in plans)
    assert {p.place for p in plans} == {"layer2+reduced"}
    assert replay(tmp_path / "run" / "best.json").result.plan == plan
