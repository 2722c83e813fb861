"""`gateway`, as `autosplit` and as `python -m coinference` offer it."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest

import autosplit.runtime.standalone as package
from autosplit.cli import gateway as gateway_cli
from autosplit.runtime.standalone import __main__ as program
from autosplit.runtime.standalone import commands
from autosplit.runtime.standalone.gateway.fragments import ANSWERED, AWAY, PACKET_VERSION
from autosplit.runtime.standalone.options import GatewayOptions
from autosplit.runtime.standalone.protocol.keys import EdgeKeys, make_keys
from autosplit.runtime.standalone.protocol.wire import short_key
from tests.runs import failure, invoke
from tests.runtime.standalone.fakes import serving
from tests.runtime.standalone.gateway.parts import KEY, CodeEdge, Line, UdpDevice, payloads, write_bundle

ROOT = Path(__file__).parents[4]
NUMBER = short_key(KEY).hex()
AUTOSPLIT = "from autosplit.cli import main; main()"
ALONE = """
import sys
sys.modules["onnxruntime"] = sys.modules["torch"] = sys.modules["autosplit"] = None
from coinference.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


@contextlib.contextmanager
def started(code, *words, cwd=ROOT):
    """A process with a gateway that has begun; gives the process and its first line."""
    process = subprocess.Popen([sys.executable, "-c", code, "gateway", *map(str, words)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(cwd)})
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, line
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_gateway_until_a_signal(bundle, tmp_path, number):
    sent, labels = payloads(10)
    make_keys(tmp_path / "keys", "hall")
    with serving(CodeEdge(), EdgeKeys.load(tmp_path / "keys")) as server, started(
            AUTOSPLIT, bundle, "--udp", "127.0.0.1:0", "--edge", server.endpoint, "--keys", tmp_path / "keys",
            "--device", "hall", "--timeout-ms", 20_000, "--rate", 0, "--json") as (process, line):
        first = json.loads(line)
        assert first | {"gateway": "", "edge": ""} == {
            "gateway": "", "edge": "", "keys": True, "deployment": NUMBER, "packet_bytes": 255, "max_payload_bytes": 36}
        with UdpDevice(first["gateway"]) as device:
            assert [device.ask(p, i) for i, p in enumerate(sent)] == [(ANSWERED, label) for label in labels]
            device.raw(b"noise")
            device.raw(b"\xff" * 20)
            device.raw(foreign := bytes([PACKET_VERSION << 4]) + bytes(20))
            device.raw(foreign)
            assert device.ask(sent[0], 10) == (ANSWERED, labels[0])
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    warned = "warning: a first malformed packet ({}); all are counted at the end"
    assert sorted(err.splitlines()) == sorted([warned.format(reason) for reason in (
        "length", "kind", "checksum: altered, or from another deployment")])
    found = json.loads(out)
    assert (found["answers"], found["messages"], found["refused"]) == (11, 11, {})
    assert found["malformed"] == {"checksum": 2, "kind": 1, "length": 1}


def test_the_program_in_a_bundle_on_a_serial_line(bundle, tmp_path):
    """It lies in the bundle, and needs neither autosplit nor onnxruntime."""
    shutil.copytree(Path(package.__file__).parent, bundle / "coinference",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (payload,), (label,) = payloads(1)
    with serving(CodeEdge()) as server, Line() as device, started(
            ALONE, "--serial", device.port, "--edge", server.endpoint, "--timeout-ms", 20_000,
            cwd=bundle) as (process, line):
        assert line == (f"gateway from {device.port} at 115200 baud to {server.endpoint}, without keys: deployment "
                        f"{NUMBER}, packets of up to 255 bytes\n")
        assert device.ask(payload, 0) == (ANSWERED, label)
        server.stop()
        assert device.ask(payload, 1) == (AWAY, 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ("1 answers to 2 payloads in 6 packets; refused: 1 away; incomplete: 0; malformed packets: none\n"
                   .replace("6 packets", f"{2 * -(-len(payload) // 13)} packets"))
    assert re.fullmatch(rf"no answer from the edge {re.escape(server.endpoint)} \(\w+\); devices are told that it is "
                        "away until it is back\n", err)


def test_a_gateway_that_others_reach_says_so(bundle, monkeypatch):
    ended = threading.Event()
    ended.set()  # as if a signal came at once
    monkeypatch.setattr(commands, "ended_by_signal", lambda: contextlib.nullcontext(ended))
    shown = invoke("gateway", bundle, "--udp", "0.0.0.0:0", "--edge", "127.0.0.1:9")
    assert shown.exit_code == 0
    assert re.fullmatch(r"warning: everybody who reaches udp://0\.0\.0\.0:\d+ is served: packets of devices are "
                        r"checked, but neither encrypted nor authenticated\n", shown.stderr)
    assert invoke("gateway", bundle, "--udp", "127.0.0.1:0", "--edge", "127.0.0.1:9").stderr == ""


@pytest.mark.parametrize(("words", "said"), [
    (("--edge", "a:1"), "packets would come from nowhere; give one of --udp HOST:PORT and --serial PORT"),
    (("--edge", "a:1", "--udp", "a:1", "--serial", "b"), "packets would come from two places"),
    (("--udp", "127.0.0.1:0"), "name it with --edge HOST:PORT"),
    (("--udp", "127.0.0.1:0", "--edge", "nowhere"), "'nowhere' is no address of an edge; write HOST:PORT"),
    (("--udp", "nowhere", "--edge", "a:1"), "--udp 'nowhere' is no address; write HOST:PORT"),
    (("--serial", "gone", "--edge", "a:1"), "cannot open the serial port --serial gone: No such file or directory"),
    (("--udp", "127.0.0.1:0", "--edge", "127.0.0.1:9", "--packet-bytes", 9, "--rate", -1), "rate must lie in"),
    (("--udp", "127.0.0.1:0", "--edge", "127.0.0.1:9", "--packet-bytes", 8), "packet_bytes must lie in [9, 1472]"),
    (("--udp", "127.0.0.1:0", "--edge", "a:1", "--keys", "gone"), "no key in gone/device.key_secret"),
])
def test_wrong_options_are_one_line(bundle, words, said):
    assert said in failure("gateway", bundle, *words)


def test_a_gateway_of_nothing(tmp_path):
    assert "is no bundle" in failure("gateway", tmp_path / "gone", "--udp", "127.0.0.1:0", "--edge", "a:1")
    with pytest.raises(ValueError, match="name the bundle that the edge serves"):
        program._gateway(program.command_line().parse_args(["gateway", "--udp", "127.0.0.1:0", "--edge", "a:1"]))


@pytest.mark.parametrize(("code", "said"), [
    ("import sys; sys.modules['zmq'] = None; " + AUTOSPLIT, "serving needs the package zmq: pip install "),
    ("import sys; sys.modules['zmq'] = None; from autosplit.runtime.standalone.__main__ import main; sys.exit(main())",
     "a gateway needs the package pyzmq: pip install pyzmq ")])
def test_without_pyzmq(bundle, code, said):
    done = subprocess.run([sys.executable, "-c", code, "gateway", bundle, "--udp", "127.0.0.1:0", "--edge", "a:1"],
                          capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_both_command_lines_have_the_defaults_of_the_options():
    given = inspect.signature(gateway_cli.command).parameters
    expected = {f.name: f.default for f in fields(GatewayOptions)}
    assert {name: given[name].default for name in expected} == expected
    parsed = vars(program.command_line().parse_args(["gateway"]))
    assert {name: parsed[name] for name in expected} == expected
