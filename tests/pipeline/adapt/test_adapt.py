"""A bundle of rates: what it answers, what it refuses, and that its table is what the policy says."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.agents.policy import CoInferencePolicy
from autosplit.core.cache import Cache
from autosplit.core.errors import BundleError, ConfigError, PayloadError
from autosplit.core.measurement import Measurement, Workload
from autosplit.core.plan import Plan
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.adapt import adapt
from autosplit.pipeline.adapt.links import LinkGrid
from autosplit.pipeline.adapt.run import Adapted
from autosplit.runtime.standalone.bundle.check import check
from autosplit.runtime.standalone.bundle.manifest import Manifest
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.bundle.rates import tail_file
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from autosplit.runtime.standalone.payload.header import rate_of
from benchmarks.adaptive import ADAPTIVE, StretchedDevice, ask
from benchmarks.adaptive_plot import draw
from benchmarks.shaping import Trace
from tests.runs import failure, invoke
from tests.runtime.test_export import run_alone


@pytest.fixture(scope="module")
def manifest(adapted):
    return adapted[0].manifest


@pytest.fixture(scope="module")
def halves(adapted):
    return load_device(adapted[1]), load_edge(adapted[1])


@pytest.fixture(scope="module")
def images(prepared):
    return prepared.data.test.images.numpy()


# --- what is in it --------------------------------------------------------------------------------------------------


def test_rates_are_settings_of_one_codec_behind_one_head(manifest):
    plans = [Plan.model_validate(rate.plan) for rate in manifest.rates]
    assert 2 <= len(plans) <= 3
    assert len({(p.split, p.sparsity, p.codec.family) for p in plans}) == 1
    assert len({p.codec for p in plans}) == len(plans)
    sizes = [rate.payload_bytes for rate in manifest.rates]
    assert sizes == sorted(sizes)
    assert {"device.onnx", "fallback.onnx"} < set(manifest.files)
    assert not {"edge.onnx", "tables.npy"} & set(manifest.files)


def test_every_rate_answers_as_its_deployment(manifest, images):
    found = {parity.network: parity for parity in manifest.parity}
    names = [*(f"rate {i}" for i in range(len(manifest.rates))), "fallback"]
    in_c = [f"C, {name}" for name in names] if compiler() else []
    assert list(found) == names + in_c
    for parity in manifest.parity:
        assert parity.holds
        assert parity.images == parity.labels_equal == parity.payloads_equal == len(images)  # int8 is exact


def test_recorded_figures_are_those_of_the_bundle(manifest, halves, prepared):
    device, edge = halves
    for part, accuracy, size in (("validation", "accuracy", "payload_bytes"),
                                 ("test", "test_accuracy", "test_payload_bytes")):
        split = prepared.data.split(part)
        for number, rate in enumerate(manifest.rates):
            payloads = device.encode(split.images.numpy(), number)
            right = edge.decode(payloads).argmax(1) == split.labels.numpy()
            assert right.mean() == pytest.approx(getattr(rate, accuracy))
            assert np.mean([len(p) for p in payloads]) == pytest.approx(getattr(rate, size))


def test_it_runs_without_torch(adapted, manifest):
    done = run_alone(adapted[1], "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["labels_equal"] == said["payloads_equal"] == said["answers"] == 8 * len(manifest.rates)


def test_check_looks_at_every_rate(adapted, tmp_path, manifest):
    copy = shutil.copytree(adapted[1], tmp_path / "bundle")
    last = len(manifest.rates) - 1
    shutil.copy(copy / tail_file(0), copy / tail_file(last))
    with pytest.raises(BundleError, match="was altered"):
        check(copy)


# --- payloads of several rates ---------------------------------------------------------------------------------------


def test_payloads_say_their_rate_and_may_come_mixed(halves, manifest, images):
    device, edge = halves
    rates = range(len(manifest.rates))
    apart = [device.encode(images[:4], rate) for rate in rates]
    assert [[rate_of(p) for p in payloads] for payloads in apart] == [[rate] * 4 for rate in rates]
    mixed = [payload for quartet in zip(*apart, strict=True) for payload in quartet]
    expected = np.stack([edge.decode(payloads) for payloads in apart], axis=1).reshape(len(mixed), -1)
    assert np.allclose(edge.decode(mixed), expected, atol=1e-5)
    assert device.encode(images[:4]) == apart[manifest.start]


def test_payloads_of_rates_that_are_not_its_own_are_refused(halves, manifest, images):
    device, edge = halves
    good, = device.encode(images[:1], 0)
    count = len(manifest.rates)
    for rate in range(1, 16):
        foreign = bytes([good[0] | rate]) + good[1:]
        message = r"checksum|bytes; this deployment's" if rate < count else f"of rate {rate}, this bundle has rates"
        with pytest.raises(PayloadError, match=rf"^payload 1: .*({message})"):
            edge.decode([good, foreign])


def test_rates_that_it_lacks_cannot_be_asked_for(halves, manifest, images):
    device, _ = halves
    with pytest.raises(ConfigError, match=f"there is no rate {len(manifest.rates)}"):
        device.encode(images[:1], len(manifest.rates))
    with pytest.raises(ConfigError, match="there is no rate 9"):
        DeviceClient(device, "127.0.0.1:9", ClientOptions(rate=9))


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(world, manifest):
    """The run's policy for the rates as they measure now, with the run's scorer."""
    scorer = Scorer.of(Result.load(world.run / "best.json").scenario)
    policy = CoInferencePolicy.load(world.run / "policy", scorer.latency_model, scorer.objective)
    work = {w.plan: w for w in policy.knowledge.workloads}
    measured = []
    for rate in manifest.rates:
        plan = Plan.model_validate(rate.plan)
        workload = Workload.model_validate({**work[plan].model_dump(), "payload_bytes_mean": rate.payload_bytes,
                                            "payload_bytes_p95": rate.payload_bytes_p95})
        measured.append(Measurement(plan=plan, accuracy=rate.accuracy, workload=workload))
    return policy.restricted(measured), scorer, measured


def test_the_table_holds_what_the_policy_answers(asked, manifest):
    policy, scorer, measured = asked
    grid, table = LinkGrid.around(scorer.conditions), manifest.switching
    assert (table.uplink_kbps, table.delays_ms) == (grid.rates_kbps, grid.delays_ms)
    number = {m.plan: i for i, m in enumerate(measured)}
    answers = [number[policy.decide(c, strict=False).plan] for c in grid.conditions]
    agree = np.array(answers) == np.array(table.picks).ravel()
    assert agree.mean() > 0.97  # the fine-tuned decoder's work is that of the supernet's but for what int8 folds
    assert table.start == number[policy.decide(scorer.conditions, strict=False).plan]


def test_a_restricted_policy_answers_with_its_plans_alone(asked):
    policy, scorer, measured = asked
    grid = LinkGrid.around(scorer.conditions)
    assert {policy.knowledge.plans[i] for i in policy.ranked(grid.conditions[0])} == {m.plan for m in measured}
    assert policy.regret(grid.conditions[::37]).max() == 0  # with so few plans it looks at all of them
    with pytest.raises(ConfigError, match="does not know the plan"):
        policy.restricted([measured[0].model_copy(update={"plan": Plan.model_validate(
            {"split": "nowhere", "codec": measured[0].plan.codec})})])


def test_a_grid_reaches_around_its_link(asked):
    conditions = asked[1].conditions
    grid = LinkGrid.around(conditions)
    usual = conditions.channel
    assert grid.rates_kbps[0] < usual.uplink_kbps.value / 30
    assert grid.rates_kbps[-1] > usual.uplink_kbps.value * 30
    assert len(grid.conditions) == len(grid.rates_kbps) * len(grid.delays_ms)
    second = grid.conditions[1].channel
    assert second.uplink_kbps.value == pytest.approx(grid.rates_kbps[0])
    assert 2 * second.access_ms_p50.value == pytest.approx(grid.delays_ms[1])
    tails = {c.channel.access_ms_p95.value / c.channel.access_ms_p50.value for c in grid.conditions}
    assert max(tails) == pytest.approx(min(tails)) == pytest.approx(usual.access_ms_p95.value
                                                                    / usual.access_ms_p50.value)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_an_adaptive_device_and_a_fixed_one(halves, images, manifest):
    device, edge = halves
    with EdgeServer(edge, ServerOptions("tcp://127.0.0.1:0", rate=0)) as server:
        where = server.endpoint.removeprefix("tcp://")
        with DeviceClient(device, where, ClientOptions(timeout_ms=30_000, adaptive=True)) as client:
            found = client.infer(images[:6])
            assert client.switch.link.exchanges == 7  # six images and a PING before the first
        with DeviceClient(device, where, ClientOptions(timeout_ms=30_000, rate=0)) as client:
            fixed = client.infer(images[:6])
    for i, answer in enumerate(found):
        assert answer.where == "edge"
        (payload,) = device.encode(images[i : i + 1], answer.rate)
        assert answer.payload_bytes == len(payload)
        assert answer.label == edge.decode([payload]).argmax()
    assert [a.rate for a in fixed] == [0] * 6
    assert [a.label for a in fixed] == edge.decode(device.encode(images[:6], 0)).argmax(1).tolist()


def test_the_command_line_adapts(adapted, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:3])
    with EdgeServer(load_edge(adapted[1]), ServerOptions("tcp://127.0.0.1:0")) as server:
        where = server.endpoint.removeprefix("tcp://")
        done = invoke("infer", adapted[1], tmp_path / "images.npy", "--edge", where, "--adaptive", "--json",
                      "--timeout-ms", 30_000)
        assert done.exit_code == 0, done.stderr
        assert {json.loads(line)["rate"] for line in done.stdout.splitlines()} <= {0, 1, 2}
    assert "choose one" in failure("infer", adapted[1], tmp_path / "images.npy", "--edge", where, "--adaptive",
                                   "--rate", 0)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_tells_of_every_rate(world, warm, tmp_path, monkeypatch, adapted):
    seen = {}

    def made(run, out, **options):
        seen.update(options, run=run, out=out)
        out.mkdir()
        return Adapted(adapted[0].manifest, adapted[0].regret)

    monkeypatch.setattr("autosplit.pipeline.adapt.adapt", made)
    shown = invoke("adapt", world.run, "--out", tmp_path / "b", "--rates", 3, "--quiet")
    assert shown.exit_code == 0, shown.stderr
    for rate in adapted[0].manifest.rates:
        assert rate.label in shown.stdout
    assert (seen["rates"], seen["run"], seen["fallback"]) == (3, world.run, False)
    said = json.loads(invoke("adapt", world.run, "--out", tmp_path / "c", "--json", "--quiet").stdout)
    assert said["regret"]["links"] == adapted[0].regret.links
    assert Manifest.load(adapted[1]).rates == adapted[0].manifest.rates


def test_runs_without_a_policy_or_a_code_are_refused(world, tmp_path):
    cache = Cache(world.cache)
    without = tmp_path / "run"
    shutil.copytree(world.run, without)
    shutil.rmtree(without / "policy")
    with pytest.raises(ConfigError, match="holds no policy"):
        adapt(without, tmp_path / "b", cache=cache)
    for rates in (1, 17):
        with pytest.raises(ConfigError, match="2 to 16 rates"):
            adapt(world.run, tmp_path / "b", rates=rates, cache=cache)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        adapt(world.run, tmp_path / "b", cache=cache)
    assert "no such result file" in failure("adapt", tmp_path, "--out", tmp_path / "c")


def test_a_bundle_with_one_rate_has_nothing_to_adapt():
    plain = SimpleNamespace(key="k", image_shape=(1, 4, 4), num_classes=2, rates=(), switching=None)
    device = SimpleNamespace(manifest=plain, answers=False)
    with pytest.raises(ConfigError, match="nothing to adapt"):
        DeviceClient(device, "127.0.0.1:9", ClientOptions(adaptive=True))


def test_a_moment_of_the_benchmark(halves, prepared, tmp_path, manifest):
    device, edge = halves
    trace, begun, fixed = Trace((0.0, 0.5), (1000.0, 30.0)), [], [str(i) for i in range(len(manifest.rates))]
    with EdgeServer(edge, ServerOptions("tcp://127.0.0.1:0", rate=0)) as server:
        port = int(server.endpoint.rpartition(":")[2])
        rows = [row for name in (ADAPTIVE, *fixed) for row in
                ask(StretchedDevice(device, stretch=False), port, name, 0, prepared.data.test, trace, 0.05,
                    begun.append)]
    assert len(begun) == 1 + len(fixed)
    assert [r.baseline for r in rows] == [name for name in (ADAPTIVE, *fixed) for _ in range(10)]
    assert [r.image for r in rows[:10]] == [r.image for r in rows[-10:]]
    assert {r.rate for r in rows[-10:]} <= {len(fixed) - 1, -1}
    assert all(r.believed_kbps > 0 for r in rows[:10])
    draw(rows, manifest, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
