"""A controller for a bundle: what is chosen, what is written, and that a device runs it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from autosplit.core.errors import BundleError, ConfigError
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.pipeline import controllers
from autosplit.pipeline.controllers import FIXED, MYOPIC, NETWORK, RULE, control
from autosplit.runtime.standalone.bundle.check import check
from autosplit.runtime.standalone.bundle.manifest import Manifest
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.control.network import NetworkController
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from tests.runs import failure, invoke
from tests.runtime.test_export import BLOCKED, run_alone

INFER = BLOCKED.replace('main(["check", *sys.argv[1:]])', "main()").replace(', "zmq"', "")

FEW = {"_TRAINING": 6, "_TUNING": 3, "_CHOOSING": 6, "_TESTING": 6, "_EPISODES": 2, "_PICTURES": 12}


@pytest.fixture
def few(monkeypatch):
    for name, value in FEW.items():
        monkeypatch.setattr(controllers, name, value)


@pytest.fixture
def bundle(adapted, tmp_path):
    return shutil.copytree(adapted[1], tmp_path / "bundle")


def files_of(folder):
    return sorted(path.name for path in folder.glob("controller-*"))


def test_the_rule_is_taken_where_the_network_is_not_ahead(world, bundle, few):
    before = Manifest.load(bundle)
    found = control(world.run, bundle, Arrivals(5.0), steps=256)
    assert [row.name for row in found.compared] == [MYOPIC, FIXED, RULE, NETWORK]
    assert found.chosen == RULE  # so little training moves nothing
    by_name = {row.name: row for row in found.compared}
    assert by_name[RULE].behind == 0 == by_name[RULE].interval.low
    for row in found.compared:
        assert row.behind == pytest.approx(by_name[RULE].in_time_accuracy - row.in_time_accuracy)
        assert row.interval.low <= row.behind <= row.interval.high
    written = Manifest.load(bundle)
    assert written == found.manifest
    assert written.controller.in_time_accuracy == by_name[RULE].in_time_accuracy
    assert repr(load_device(bundle).controller) == by_name[RULE].setting
    assert files_of(bundle) == []
    # nothing else has changed, so that the edge may keep its half
    assert (written.key, written.rates, written.files) == (before.key, before.rates, before.files)
    again = control(world.run, bundle, Arrivals(5.0), steps=256)
    assert (again.manifest, again.compared) == (found.manifest, found.compared)


def test_a_network_is_taken_where_it_is_ahead_and_replaced_whole(world, bundle, few, monkeypatch):
    made = []

    def trained(streams, settings, seed, *, advance):
        sizes = {"level": (13 + 12, 4, 4, 1), "skip": (13 + 6, 4, 4, 1)}
        weights = {}
        for name in NetworkController.NAMES:
            part, layer, kind = name.split(".")
            after, before = sizes[part][int(layer) // 2 + 1], sizes[part][int(layer) // 2]
            weights[name] = np.full((after,) if kind == "bias" else (after, before), 0.01 * len(made), np.float32)
        weights["skip.4.bias"] = np.full(1, -100.0, np.float32)
        made.append(NetworkController(weights))
        return made[-1]

    # a rule that loses everything, so that the untrained network, which is nearly the myopic rule, wins
    monkeypatch.setattr(controllers, "best_for_all", lambda candidates, core, episodes, seed: Skips())
    monkeypatch.setattr(controllers, "train_controller", trained)
    found = control(world.run, bundle, Arrivals(2.0), deadline_ms=5000.0)
    assert found.chosen == NETWORK
    assert found.network_ahead.low > 0
    first = files_of(bundle)
    assert len(first) == 1
    assert load_device(bundle).controller.weights.keys() == made[0].weights.keys()
    control(world.run, bundle, Arrivals(2.0), devices=3, deadline_ms=5000.0)
    assert len(files_of(bundle)) == 1
    assert files_of(bundle) != first
    assert load_device(bundle).controller.shares
    assert Manifest.load(bundle).controller.sharing == 3
    assert check(bundle).passed
    (bundle / files_of(bundle)[0]).write_bytes(b"damaged")
    with pytest.raises(BundleError, match="was altered"):
        load_device(bundle)


class Skips:
    """Answers nothing."""

    def decide(self, view):
        return np.full(len(view.age_ms), view.levels)


def test_a_device_runs_it_without_torch(world, bundle, few, prepared, tmp_path):
    invoke("train-controller", world.run, bundle, "--per-s", 20, "--steps", 256, "--budget-ms", 5000)
    np.save(tmp_path / "pictures.npy", prepared.data.test.images[:12].numpy())
    labels = prepared.data.test.labels[:12].tolist()
    with EdgeServer(load_edge(bundle), ServerOptions("tcp://127.0.0.1:0")) as server:
        edge = server.endpoint.removeprefix("tcp://")
        done = run_alone(bundle, "infer", ".", tmp_path / "pictures.npy", "--edge", edge, "--adaptive", "--per-s",
                         "20", "--json", code=INFER)
        here = invoke("infer", bundle, tmp_path / "pictures.npy", "--edge", edge, "--per-s", 20, "--rate", 1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["outcome"] for line in lines] == ["answered"] * 12
    assert all(line["age_ms"] >= line["waited_ms"] >= 0 for line in lines)
    assert np.mean([line["label"] == label for line, label in zip(lines, labels, strict=True)]) > 0.3
    assert "12 images, 20 a second, within 5000 ms: 12 answered, 0 late, 0 skipped, 0 dropped" in done.stderr
    assert here.stdout.count("at rate 1") == 12


def test_what_cannot_be(world, bundle, tmp_path, adapted):
    with pytest.raises(ConfigError, match=r"devices must lie in \[1, 1000\]"):
        control(world.run, bundle, Arrivals(1.0), devices=0)
    with pytest.raises(ConfigError, match="deadline must lie in"):
        control(world.run, bundle, Arrivals(1.0), deadline_ms=0.0)
    assert "pictures a second" in failure("train-controller", world.run, bundle, "--per-s", 0)
    assert "peak must lie between" in failure("train-controller", world.run, bundle, "--per-s", 1, "--peak", 9)
    assert "is no bundle" in failure("train-controller", world.run, tmp_path, "--per-s", 1)
    assert "arrive in a second must lie in" in failure("infer", bundle, tmp_path, "--per-s", 0)
    other = shutil.copytree(world.run, tmp_path / "other")
    record = json.loads((other / "best.json").read_text())
    record["provenance"]["data_fingerprint"] = "0" * 16
    (other / "best.json").write_text(json.dumps(record))
    assert "was not made of" in failure("train-controller", other, bundle, "--per-s", 1)
