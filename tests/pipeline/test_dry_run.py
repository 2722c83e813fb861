"""What a dry run tries: plans of every kind, built and exported as a search would."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.progress import NullProgress
from autosplit.evaluation.scorer import Scorer
from autosplit.latency import CheckedLatencyModel
from autosplit.pipeline import dry_run
from autosplit.pipeline.dry_run import plans_to_try, try_deployments
from autosplit.training.prepare import untrained

pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")


@pytest.fixture(scope="module")
def networks(world):
    return untrained(world.scenario(codecs=("nested", "factorised"), **{"space.heads": ("pruned", "injected")}))


def test_one_plan_for_each_codec_and_head_in_the_middle(networks):
    plans = plans_to_try(networks)
    assert [(p.place == p.split, p.codec.family) for p in plans] == [
        (own, family) for own in (True, False) for family in ("nested", "factorised")]
    assert {p.split for p in plans} == {networks.points[len(networks.points) // 2].name}
    most = max(networks.scenario.space.sparsities)
    assert {p.sparsity for p in plans if p.place == p.split} == {most}


def test_plans_of_packaged_networks_can_be_exported(networks):
    try_deployments(networks, Scorer.of(networks.scenario), NullProgress())


def test_a_latency_model_that_does_not_know_the_plans_is_told(networks):
    class Table:
        def latency(self, workloads, conditions):
            raise KeyError(workloads[0].plan.split)

    scorer = replace(Scorer.of(networks.scenario), latency_model=CheckedLatencyModel(Table(), "mine"))
    with pytest.raises(PluginError, match=r"latency model 'mine' on plan .*raised KeyError"):
        try_deployments(networks, scorer, NullProgress())


def test_what_cannot_be_exported_names_the_plan(networks, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConfigError("torch cannot export the network to ONNX: no bessel_j0")

    monkeypatch.setattr(dry_run, "export_bundle", refuse)
    with pytest.raises(ConfigError, match=r"would run, but .* could not be exported \(layer2 .*b\): torch cannot"):
        try_deployments(networks, Scorer.of(networks.scenario), NullProgress())


def test_without_the_packages_plans_are_built_all_the_same(networks, monkeypatch):
    def absent(*names):
        raise ConfigError("ONNX needs the package onnx")

    monkeypatch.setattr(dry_run, "require_onnx", absent)
    monkeypatch.setattr(dry_run, "export_bundle", None)
    try_deployments(networks, Scorer.of(networks.scenario), NullProgress())
