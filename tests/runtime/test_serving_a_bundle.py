"""A real bundle served by its own program and asked over the network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.errors import BundleError, ConfigError
from autosplit.core.result import Result
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from autosplit.runtime.standalone.bundle.check import require_equal_answers
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.edge.processes import EdgeProcess
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from tests.runs import invoke
from tests.runtime.balancer import Balancer

for package in ("onnx", "onnxruntime", "zmq"):
    pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")

ANY_PORT = ServerOptions("tcp://127.0.0.1:0")
PATIENT = ClientOptions(timeout_ms=30_000)


@pytest.fixture(scope="module")
def bundle(runs, world, tmp_path_factory):
    """Pruned head, code, fallback."""
    folder = tmp_path_factory.mktemp("served") / "bundle"
    export_result(runs["CodePruned"] / "best.json", folder, fallback=True, cache=Cache(world.cache))
    return folder


@pytest.fixture(scope="module")
def labels(runs, prepared):
    return Deployment.from_result(Result.load(runs["CodePruned"])).run(prepared.data.test.images)[0].argmax(1).tolist()


def test_devices_get_the_labels_of_the_deployment(bundle, labels, prepared):
    images = prepared.data.test.images.numpy()
    with EdgeServer(load_edge(bundle), ANY_PORT) as server:
        edge = server.endpoint.removeprefix("tcp://")
        with DeviceClient(load_device(bundle), edge, PATIENT) as client:
            answers = client.infer(images)
    assert [a.label for a in answers] == labels
    assert {a.where for a in answers} == {"edge"}
    assert [a.payload_bytes for a in answers] == [len(p) for p in load_device(bundle).encode(images)]


def test_without_its_edge_a_device_answers_with_the_whole_network(bundle, prepared):
    images = prepared.data.test.images.numpy()
    with EdgeServer(load_edge(bundle), ANY_PORT) as server:
        edge = server.endpoint.removeprefix("tcp://")
    with DeviceClient(load_device(bundle), edge, ClientOptions(timeout_ms=200)) as client:
        answers = client.infer(images)
    whole = load_device(bundle).fallback(images)
    assert [a.label for a in answers] == whole.argmax(1).tolist()
    assert {a.where for a in answers} == {"fallback"}


def test_the_programs_in_the_bundle(bundle, labels, prepared, tmp_path):
    np.save(tmp_path / "images.npy", prepared.data.test.images.numpy())
    with EdgeServer(load_edge(bundle), ANY_PORT) as server:
        asked = subprocess.run(
            [sys.executable, "-m", "coinference", "infer", ".", str(tmp_path / "images.npy"), "--edge",
             server.endpoint.removeprefix("tcp://"), "--timeout-ms", "30000", "--json"],
            cwd=bundle, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, timeout=120, check=False)
    assert asked.returncode == 0, asked.stderr
    assert [json.loads(line)["label"] for line in asked.stdout.splitlines()] == labels


def test_the_command(bundle, labels, prepared, tmp_path):
    np.save(tmp_path / "images.npy", prepared.data.test.images.numpy()[:3])
    with EdgeServer(load_edge(bundle), ANY_PORT) as server:
        asked = invoke("infer", bundle, tmp_path / "images.npy", "--edge", server.endpoint.removeprefix("tcp://"),
                       "--timeout-ms", 30000, "--json")
    assert asked.exit_code == 0, asked.stderr
    assert [json.loads(line)["label"] for line in asked.stdout.splitlines()] == labels[:3]


class TestProviders:
    """Execution providers of onnxruntime: of a real one other than the CPU's, and of what may be wrong with one."""

    @pytest.fixture
    def card(self, monkeypatch):
        """An onnxruntime that says it has CUDA, and computes on the CPU."""
        import onnxruntime

        session, asked = onnxruntime.InferenceSession, []

        class Session(session):
            def __init__(self, path, options, providers):
                asked.append(providers)
                super().__init__(path, options, providers=["CPUExecutionProvider"])

            def get_providers(self):
                return [name for name, _ in asked[-1]]

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider",
                                                                             "CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        return Session, asked

    def test_the_edge_computes_by_it_without_shortened_factors(self, card, bundle, labels, prepared):
        payloads = load_device(bundle).encode(prepared.data.test.images.numpy())
        assert load_edge(bundle, provider="cuda").decode(payloads).argmax(1).tolist() == labels
        assert card[1][-1] == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
        assert card[1][0] == [("CPUExecutionProvider", {})]  # the device's side

    def test_one_that_is_not_there(self, bundle):
        with pytest.raises(ConfigError, match=r"'cuda': onnxruntime .* here has .*cpu.*onnxruntime-gpu"):
            load_edge(bundle, provider="cuda")
        served = invoke("serve", bundle, "--provider", "cuda")
        assert served.exit_code == 2
        assert "execution provider 'cuda'" in served.stderr
        assert "next:" not in served.stderr

    def test_one_that_does_not_start(self, card, bundle, monkeypatch):
        monkeypatch.setattr(card[0], "get_providers", lambda self: ["CPUExecutionProvider"])
        with pytest.raises(ConfigError, match="'cuda' cannot start"):
            load_edge(bundle, provider="cuda")

    def test_one_that_answers_otherwise_does_not_serve(self, card, bundle, monkeypatch):
        require_equal_answers(bundle, 1, "cuda")
        run = card[0].run
        monkeypatch.setattr(card[0], "run", lambda self, names, given: [
            -found if found.ndim == 2 else found for found in run(self, names, given)])
        with pytest.raises(ConfigError, match=r"'cuda' answers \d+ of \d+ images otherwise.*--provider cpu"):
            require_equal_answers(bundle, 1, "cuda")
        served = invoke("serve", bundle, "--provider", "cuda", "--bind", "tcp://127.0.0.1:0")
        assert served.exit_code == 2

    def test_the_check_in_the_bundle_takes_one(self, bundle):
        ran = subprocess.run([sys.executable, "-m", "coinference", "check", "--provider", "nothing"], cwd=bundle,
                             env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert "execution provider 'nothing'" in ran.stderr


class TestWorkers:
    """Several processes behind one endpoint."""

    @pytest.fixture
    def served(self, bundle):
        processes = [EdgeProcess(partial(load_edge, bundle, 1)) for _ in range(2)]
        yield processes
        for process in processes:
            process.close()

    def test_devices_get_the_labels_of_the_deployment(self, served, bundle, labels, prepared):
        images = prepared.data.test.images.numpy()
        with (EdgeServer(served, replace(ANY_PORT, max_batch=2)) as server,
              DeviceClient(load_device(bundle), server.endpoint.removeprefix("tcp://"), PATIENT) as client):
            answers = client.infer(images)
        assert [a.label for a in answers] == labels
        assert {a.where for a in answers} == {"edge"}

    def test_one_that_is_killed_costs_nobody_an_answer(self, served, bundle, labels, prepared):
        images, stop = prepared.data.test.images.numpy(), threading.Event()
        with EdgeServer(served, replace(ANY_PORT, max_batch=2)) as server:
            edge = server.endpoint.removeprefix("tcp://")

            def kill():
                while not stop.wait(0.3):
                    with contextlib.suppress(ProcessLookupError, AttributeError):
                        os.kill(served[0].pid, signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            try:
                with DeviceClient(load_device(bundle), edge, PATIENT) as client:
                    for _ in range(3):
                        answers = client.infer(images)
                        assert [a.label for a in answers] == labels
                        assert {a.where for a in answers} == {"edge"}
                        time.sleep(0.4)
            finally:
                stop.set()
                killer.join()
        assert server.stats.lost >= 1
        assert not server.stats.refused

    def test_a_bundle_that_does_not_run_is_an_error_here(self, tmp_path):
        with pytest.raises(BundleError):
            EdgeProcess(partial(load_edge, tmp_path, 1))

    def test_none_are_too_few(self, bundle):
        ran = subprocess.run([sys.executable, "-m", "coinference", "serve", "--workers", "0"], cwd=bundle,
                             env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (2, "error: workers is 0; give at least 1\n")

    def test_the_command_serves_with_several(self, bundle, labels, prepared, tmp_path):
        np.save(tmp_path / "images.npy", prepared.data.test.images.numpy()[:3])
        with subprocess.Popen([sys.executable, "-m", "coinference", "serve", ".", "--workers", "2", "--bind",
                               "tcp://127.0.0.1:0", "--json"], cwd=bundle, env={**os.environ, "PYTHONPATH": ""},
                              stdout=subprocess.PIPE, text=True) as serving:
            endpoint = json.loads(serving.stdout.readline())["serving"]
            asked = invoke("infer", bundle, tmp_path / "images.npy", "--edge", endpoint.removeprefix("tcp://"),
                           "--timeout-ms", 30000, "--json")
            serving.send_signal(signal.SIGTERM)
            ended = json.loads(serving.stdout.read().splitlines()[-1])
        assert [json.loads(line)["label"] for line in asked.stdout.splitlines()] == labels[:3]
        assert (serving.returncode, ended["answers"], ended["lost"]) == (0, 3, 0)


class TestReplicas:
    """Servers on several machines behind a balancer of TCP connections."""

    @pytest.fixture
    def replicas(self, bundle):
        command = [sys.executable, "-m", "coinference", "serve", ".", "--bind", "tcp://127.0.0.1:0", "--json"]
        with contextlib.ExitStack() as stack:
            found = []
            for _ in range(2):
                process = stack.enter_context(subprocess.Popen(
                    command, cwd=bundle, env={**os.environ, "PYTHONPATH": ""}, stdout=subprocess.PIPE, text=True))
                stack.callback(process.kill)
                port = int(json.loads(process.stdout.readline())["serving"].rpartition(":")[2])
                found.append((process, port))
            yield found

    def test_devices_of_one_that_dies_go_to_another(self, replicas, bundle, labels, prepared):
        images = prepared.data.test.images.numpy()
        options = replace(PATIENT, retry_s=0.1)
        with Balancer([port for _, port in replicas]) as balancer, contextlib.ExitStack() as stack:
            devices = [stack.enter_context(DeviceClient(load_device(bundle), f"127.0.0.1:{balancer.port}", options))
                       for _ in range(4)]
            for device in devices:
                assert [a.label for a in device.infer(images)] == labels
            replicas[0][0].kill()
            back = 0
            for device in devices:
                until = time.monotonic() + 30
                while time.monotonic() < until:
                    answers = device.infer(images)
                    wholes = load_device(bundle).fallback(images).argmax(1).tolist()
                    # by the other replica, or by the device itself until it has found that
                    assert all(a.label == (labels[i] if a.where == "edge" else wholes[i])
                               for i, a in enumerate(answers))
                    if {a.where for a in answers} == {"edge"}:
                        back += 1
                        break
                    time.sleep(0.1)
        assert back == 4
