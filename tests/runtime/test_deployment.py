"""Deployments of every kind of plan: real payloads, storage, and the work that is counted on them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autosplit.compression.int8_layers import Int8Conv2d
from autosplit.core.errors import ConfigError, PayloadError, ResultError
from autosplit.core.hashing import sha256_of_file
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.result import Result
from autosplit.data.base import normalise
from autosplit.data.stored import StoredFormat
from autosplit.evaluation.live import LiveEvaluator
from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace
from autosplit.pipeline.context import SearchContext
from autosplit.runtime.building import build_network
from autosplit.runtime.deployment import Deployment
from tests.runs import KINDS

CODES = ("Code", "CodePruned")
IMAGES = ("Png", "Jpeg", "JpegBody")
ARITHMETICS = ("fp32", "int8")


@pytest.fixture(scope="module")
def results(runs):
    return {kind: Result.load(run / "best.json") for kind, run in runs.items()}


@pytest.fixture(scope="module")
def deployments(results):
    return {kind: Deployment.from_result(result) for kind, result in results.items()}


@pytest.fixture(scope="module")
def images(prepared):
    return prepared.data.test.images


@pytest.fixture(scope="module")
def raw(prepared):
    """A cut without a codec, which no search ends with, in both arithmetics."""
    plan = Plan(split="layer2", codec=CodecSetting(kind="raw"))
    return {arithmetic: SearchContext(prepared).deployment(plan, arithmetic) for arithmetic in ARITHMETICS}


def test_the_kinds_are_what_they_are_called(results):
    plans = {kind: r.plan for kind, r in results.items()}
    assert {plans[kind].split for kind in IMAGES} == {INPUT}
    assert plans["JpegBody"].codec == CodecSetting(kind="jpeg-shared", quality=50)
    assert plans["Whole"].split == plans["WholePruned"].split == OUTPUT
    assert plans["Whole"].sparsity == plans["Code"].sparsity == 0
    assert plans["WholePruned"].sparsity == plans["CodePruned"].sparsity == 0.5
    assert plans["Code"].codec.kind == plans["CodePruned"].codec.kind == "code"


# --- payloads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_counts_what_run_gives(deployments, results, prepared, kind, images):
    deployment, labels = deployments[kind], prepared.data.test.labels
    logits, payloads = deployment.run(images)
    evaluation = deployment.evaluate(prepared.data, "test")
    assert evaluation.correct == int((logits.argmax(1) == labels).sum()) == results[kind].test.correct
    assert evaluation.images == len(payloads) == len(labels)
    assert evaluation.payload_sizes.tolist() == [len(p) for p in payloads]
    assert evaluation.payload_sha256 == hashlib.sha256(b"".join(payloads)).hexdigest()
    assert evaluation.payload_sha256 == results[kind].test.payload_sha256
    assert evaluation.payload_p95 == np.percentile(evaluation.payload_sizes, 95)


@pytest.mark.parametrize("kind", CODES)
def test_what_is_decoded_is_what_was_encoded(deployments, kind, images):
    deployment = deployments[kind]
    with torch.inference_mode():
        symbols = deployment.network.symbols(normalise(images, deployment.mean, deployment.std))
        expected = deployment.network.finish(symbols)
    assert len(symbols.unique()) > 2
    assert torch.equal(deployment.decode(deployment.encode(images)), expected)


@pytest.mark.parametrize("kind", CODES)
def test_the_edge_sees_nothing_but_the_payload(deployments, kind, images):
    deployment = deployments[kind]
    payloads = deployment.encode(images[:6])
    alone = torch.cat([deployment.decode([p]) for p in payloads])
    assert torch.allclose(alone, deployment.decode(payloads), atol=1e-5)
    shuffled = deployment.decode(payloads[::-1])
    assert torch.allclose(shuffled.flip(0), deployment.decode(payloads), atol=1e-5)
    assert not torch.allclose(shuffled, deployment.decode(payloads), atol=1e-2)


@pytest.mark.parametrize("kind", CODES)
def test_damaged_payloads_are_refused(deployments, kind, images):
    deployment = deployments[kind]
    (payload,) = deployment.encode(images[:1])
    flipped = [payload[:i] + bytes([payload[i] ^ 1]) + payload[i + 1 :] for i in range(len(payload))]
    for damaged in [*flipped, payload[:-1], payload + b"\1", b""]:
        with pytest.raises(PayloadError):
            deployment.decode([damaged])


def test_payloads_of_another_deployment_are_refused(deployments, images):
    with pytest.raises(PayloadError):
        deployments["Code"].decode(deployments["CodePruned"].encode(images[:1]))


def test_images_cross_as_files(deployments, prepared, images):
    data = prepared.data
    assert deployments["Png"].encode(images) == data.stored_files("test", StoredFormat("png"))
    assert deployments["Jpeg"].encode(images) == data.stored_files("test", StoredFormat("jpeg", 50))
    assert deployments["JpegBody"].encode(images) == data.stored_files("test", StoredFormat("jpeg-shared", 50))
    with torch.inference_mode():
        # the network was tuned to pictures so coded
        coded = data.normalise(data.coded_images("test", StoredFormat("jpeg", 50)).images)
        expected = deployments["Jpeg"].network(coded)
        plain = prepared.backbone(data.normalise(images))
    assert torch.allclose(deployments["Jpeg"].run(images)[0], expected, atol=1e-4)
    assert torch.equal(deployments["JpegBody"].run(images)[0], deployments["Jpeg"].run(images)[0])
    assert torch.allclose(deployments["Png"].run(images)[0], plain, atol=1e-4)


@pytest.mark.parametrize("kind", IMAGES)
def test_what_is_no_image_of_this_deployment_is_refused(deployments, kind, images):
    deployment = deployments[kind]
    (payload,) = deployment.encode(images[:1])
    damages = [b"", b"\xff\xd9" + payload, payload + b"\xff\xd0"]
    if kind != "JpegBody":  # any bytes without a marker are a body
        damages = [b"", b"no picture", payload[:40], *deployment.encode(images[:1, :, :8, :8])]
    for damaged in damages:
        with pytest.raises(PayloadError):
            deployment.decode([damaged])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_raw_feature_crosses_as_little_endian_floats(raw, prepared, arithmetic, images):
    deployment = raw[arithmetic]
    payloads = deployment.encode(images)
    with torch.inference_mode():
        features = deployment.network.head(prepared.data.normalise(images))
        expected = deployment.network.tail(features)
    # negative zeros cross as zeros
    assert payloads[3] == np.ascontiguousarray(features[3].numpy() + 0.0).astype("<f4").tobytes()
    assert torch.allclose(deployment.decode(payloads), expected, atol=1e-5)
    evaluation = deployment.evaluate(prepared.data, "test")
    assert set(evaluation.payload_sizes.tolist()) == {4 * 8 * 8 * 8}
    for damaged in (b"", payloads[0][:-1], payloads[0] + b"\0"):
        with pytest.raises(PayloadError, match="a feature of 2048 bytes was expected"):
            deployment.decode([payloads[0], damaged])


def test_a_raw_cut_is_the_backbone_and_in_int8_its_head_is_not(raw, prepared, images):
    with torch.inference_mode():
        whole = prepared.backbone(prepared.data.normalise(images))
    assert torch.allclose(raw["fp32"].run(images)[0], whole, atol=1e-5)
    found = raw["int8"].run(images)[0]
    assert not torch.allclose(found, whole, atol=1e-5)
    assert (found - whole).abs().mean() < 0.3 * whole.abs().mean()
    assert any(isinstance(m, Int8Conv2d) for m in raw["int8"].network.head.modules())
    assert not any(isinstance(m, Int8Conv2d) for m in raw["int8"].network.tail.modules())


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_raw_cut_is_stored_counted_and_measured(raw, prepared, arithmetic, images, tmp_path):
    deployment = raw[arithmetic]
    deployment.save(tmp_path / "w.safetensors")
    again = Deployment.load(deployment.blueprint, tmp_path / "w.safetensors")
    assert again.encode(images) == deployment.encode(images)
    (work,) = LiveEvaluator(prepared).workloads([deployment.plan])
    assert deployment.workload(2048.0, 2048.0) == work
    measured = deployment.measurement(deployment.evaluate(prepared.data, "validation"))
    assert measured.feature_bytes == measured.workload.payload_bytes_mean == 2048


@pytest.mark.parametrize("kind", ["Whole", "WholePruned"])
def test_nothing_crosses_when_the_device_does_it_all(deployments, kind, images):
    logits, payloads = deployments[kind].run(images)
    assert payloads == [b""] * len(images)
    assert logits.shape == (len(images), 3)
    with pytest.raises(ConfigError, match="nothing is sent"):
        deployments[kind].decode(payloads)


# --- storage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(deployments, kind, images, tmp_path):
    deployment = deployments[kind]
    digest = deployment.save(tmp_path / "w.safetensors")
    assert digest == sha256_of_file(tmp_path / "w.safetensors")
    again = Deployment.load(deployment.blueprint, tmp_path / "w.safetensors")
    logits, payloads = deployment.run(images)
    logits_again, payloads_again = again.run(images)
    assert payloads_again == payloads
    assert torch.equal(logits_again, logits)
    assert again.save(tmp_path / "again.safetensors") == digest


def test_weights_that_share_memory_can_be_saved(prepared, tmp_path, images):
    deployment = SearchContext(prepared).deployment(Plan(split=OUTPUT, codec=CodecSetting(kind="none")), "fp32")
    first, second = [m for m in deployment.network.modules() if isinstance(m, torch.nn.BatchNorm2d)][:2]
    kept = second.weight
    try:
        second.weight = first.weight
        deployment.save(tmp_path / "w.safetensors")
        again = Deployment.load(deployment.blueprint, tmp_path / "w.safetensors")
        assert torch.equal(again.run(images)[0], deployment.run(images)[0])
    finally:
        second.weight = kept


def test_weights_that_are_missing_damaged_or_foreign(deployments, runs, tmp_path):
    blueprint = deployments["Code"].blueprint
    with pytest.raises(ResultError, match="are missing"):
        Deployment.load(blueprint, tmp_path / "gone.safetensors")
    whole = (runs["Code"] / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultError, match="cannot be read"):
        Deployment.load(blueprint, tmp_path / "cut.safetensors")
    with pytest.raises(ResultError, match="of another network"):
        Deployment.load(blueprint, runs["CodePruned"] / "best.safetensors")
    tensors = load_file(runs["Code"] / "best.safetensors")
    del tensors["input.mean"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(ResultError, match="of another network"):
        Deployment.load(blueprint, tmp_path / "less.safetensors")
    with pytest.raises(ConfigError, match="cannot write"):
        deployments["Code"].save(tmp_path / "less.safetensors" / "w.safetensors")


# --- structure ------------------------------------------------------------------------------------------------------


def test_build_prunes_for_real(deployments):
    pruned, whole = deployments["CodePruned"].blueprint, deployments["Code"].blueprint
    assert pruned.keep
    assert whole.keep == ()

    def narrowest(blueprint):
        head = build_network(blueprint.model_copy(update={"arithmetic": "fp32"})).head
        return min(m.out_channels for m in head.modules() if isinstance(m, torch.nn.Conv2d))

    assert narrowest(pruned) == 2  # half of four
    assert narrowest(whole) == 4
    assert build_network(deployments["WholePruned"].blueprint).head is not None


def test_build_refuses_another_number_of_groups(deployments):
    blueprint = deployments["CodePruned"].blueprint
    with pytest.raises(ResultError, match=f"the result file says {len(blueprint.keep) + 1}"):
        build_network(blueprint.model_copy(update={"keep": (*blueprint.keep, 1)}))


def test_build_gives_the_shapes_of_the_weights(deployments):
    for deployment in deployments.values():
        built = build_network(deployment.blueprint).state_dict()
        trained = deployment.network.state_dict()
        assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in trained.items()}


def test_keep_is_what_the_pruner_counts(deployments, prepared):
    plan = deployments["WholePruned"].plan
    pruner = HeadPruner(trace(prepared.backbone, prepared.data.shape), prepared.data.shape)
    assert deployments["WholePruned"].blueprint.keep == pruner.keep_counts(plan.sparsity)


# --- work -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_workload_is_that_of_the_live_evaluator(deployments, prepared, kind):
    (expected,) = LiveEvaluator(prepared).workloads([deployments[kind].plan])
    found = deployments[kind].workload(12.5, 34.0)
    payloads = {"payload_bytes_mean": 12.5, "payload_bytes_p95": 34.0}
    assert found == expected.model_copy(update=payloads)
    assert (found.device.macs > 0) == (kind not in IMAGES)
    assert (found.edge.macs > 0) == (not kind.startswith("Whole"))


@pytest.mark.parametrize("kind", KINDS)
def test_measurement(deployments, results, prepared, kind):
    evaluation = deployments[kind].evaluate(prepared.data, "validation")
    measured = deployments[kind].measurement(evaluation)
    recorded = results[kind].outcome.measurement
    assert measured == recorded.model_copy(update={"seconds": 0.0})
    assert measured.fidelity == "F3"
    (live,) = LiveEvaluator(prepared).measure([deployments[kind].plan])
    assert measured.feature_bytes == live.feature_bytes
