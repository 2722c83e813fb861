"""A device and its edge: answers, timeouts, fallback, recovery."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.device.link import edge_address, is_ipv6
from autosplit.runtime.standalone.errors import ConfigError, LinkError
from autosplit.runtime.standalone.protocol.wire import EdgeAnswer, Frame, Kind, Reason, short_key
from tests.runtime.standalone.fakes import CLASSES, SHAPE, FakeDevice, FakeEdge, asking, images, scripted, serving

ROOT = Path(__file__).parents[4]
NOWHERE = "127.0.0.1:9"  # the port of `discard`, where nobody listens
GENEROUS_S = 30
KEY = short_key("a bundle")


def until_edge(client, image):
    """Ask until the edge answers."""
    end = time.monotonic() + GENEROUS_S
    while (answer := client.infer(image)).where != "edge":
        assert time.monotonic() < end, answer.reason
        time.sleep(0.01)
    return answer


# --- answers --------------------------------------------------------------------------------------------------------


def test_one_image_and_several():
    batch, classes = images(50)
    with serving() as server, asking(server, window=7) as client:
        answer = client.infer(batch[0])
        assert (answer.label, answer.where, answer.reason, answer.payload_bytes) == (classes[0], "edge", "", 9)
        assert answer.logits is None
        assert min(answer.ms.encode, answer.ms.link, answer.ms.edge) > 0
        assert answer.ms.local == 0
        assert answer.ms.total == pytest.approx(sum((answer.ms.encode, answer.ms.link, answer.ms.queue,
                                                     answer.ms.edge)))
        assert [a.label for a in client.infer(batch)] == classes
        assert [a.label for a in client.infer(list(batch))] == classes
        assert client.infer(batch[:0]) == []


def test_logits_where_asked_for():
    with serving() as server, asking(server, logits=True) as client:
        logits = client.infer(np.full(SHAPE, 3, np.uint8)).logits
    assert logits.tolist() == np.eye(CLASSES)[3].tolist()


def test_a_network_that_ends_on_the_device_needs_no_edge():
    batch, classes = images(5)
    with DeviceClient(FakeDevice(answers=True)) as client:
        found = client.infer(batch)
    assert [a.label for a in found] == classes
    assert {(a.where, a.reason, a.payload_bytes) for a in found} == {("device", "", 0)}


def test_ping():
    with serving() as server, asking(server) as client:
        assert client.ping() > 0
        assert client.ping() > 0
        assert client.infer(images(1)[0])[0].where == "edge"
        assert client.ping() > 0
    with asking(NOWHERE, timeout_ms=50) as client:
        assert client.ping() is None
        assert client.lost == "timeout"


@pytest.mark.parametrize("wrong", [np.zeros(SHAPE, np.float32), np.zeros((1, 5, 4), np.uint8),
                                   np.zeros((4, 4), np.uint8),
                                   [np.zeros(SHAPE, np.uint8), np.zeros((1, 2, 2), np.uint8)]])
def test_what_is_no_image_of_the_bundle(wrong):
    with asking(NOWHERE) as client, pytest.raises(ConfigError, match="shape"):
        client.infer(wrong)


# --- lost edges -----------------------------------------------------------------------------------------------------


def test_nobody_there_fallback_within_the_timeout():
    batch, classes = images(30)
    with asking(NOWHERE, timeout_ms=100, retry_s=60) as client:
        start = time.monotonic()
        first = client.infer(batch[0])
        assert time.monotonic() - start < 10
        assert (first.label, first.where, first.reason) == (classes[0], "fallback", "timeout")
        assert first.ms.link >= 100
        assert first.logits.tolist() == np.eye(CLASSES)[classes[0]].tolist()
        later = client.infer(batch)  # nothing is waited for any more
        assert [a.label for a in later] == classes
        assert {(a.where, a.reason, a.ms.link) for a in later} == {("fallback", "timeout", 0.0)}


@pytest.mark.parametrize(("device", "options", "why"), [
    (FakeDevice(falls_back=False), {}, "no network to fall back on"),
    (FakeDevice(), {"fallback": False}, "no fallback is wanted"),
])
def test_without_a_fallback_it_is_an_error(device, options, why):
    with asking(NOWHERE, device, timeout_ms=50, retry_s=60, **options) as client:
        for _ in range(2):
            with pytest.raises(LinkError, match=rf"no answer from the edge tcp://{NOWHERE} \(timeout\): .*; .*{why}"):
                client.infer(images(1)[0])


def test_an_edge_killed_in_the_middle():
    """A process of its own, killed by SIGKILL while images are on the way, and started again."""

    def start(address):
        process = subprocess.Popen([sys.executable, "-m", "tests.runtime.standalone.edge.process", address],
                                   stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return process, process.stdout.readline().strip()

    process, endpoint = start("tcp://127.0.0.1:0")
    try:
        batch, classes = images(200)
        with asking(endpoint, timeout_ms=300, retry_s=0.1) as client:
            assert {a.where for a in client.infer(batch)} == {"edge"}
            process.kill()
            process.wait()
            start_s = time.monotonic()
            found = client.infer(batch)
            assert time.monotonic() - start_s < 0.3 + 10
            assert [a.label for a in found] == classes
            assert {a.where for a in found} == {"fallback"}
            assert client.infer(batch[0]).ms.link == 0
            process, _ = start(endpoint)
            assert until_edge(client, batch[0]).label == classes[0]
            assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]
            assert client.lost == ""
    finally:
        process.kill()
        process.wait()


def test_an_edge_that_ends_while_it_is_asked_is_not_waited_for():
    with scripted(lambda _: None) as endpoint, asking(endpoint, timeout_ms=60_000, retry_s=60) as client:
        batch, classes = images(10)
        start = time.monotonic()
        found = client.infer(batch)
        assert time.monotonic() - start < 20
        assert [(a.label, a.where, a.reason) for a in found] == [(c, "fallback", "disconnected") for c in classes]


def test_an_edge_that_is_late_is_lost_and_its_old_answers_mean_nothing():
    edge, (batch, classes) = FakeEdge(), images(4)
    with serving(edge) as server, asking(server, timeout_ms=150, retry_s=0) as client:
        assert client.infer(batch[0]).where == "edge"
        edge.gate.clear()
        found = client.infer(batch[1])
        assert (found.label, found.where, found.reason) == (classes[1], "fallback", "timeout")
        edge.gate.set()
        for image, label in zip(batch, classes, strict=True):
            assert until_edge(client, image).label == label


def test_an_edge_that_comes_later_is_found_without_waiting():
    image, label = (x[0] for x in images(1))
    with serving() as server:
        address = server.endpoint
    with asking(address, timeout_ms=50, retry_s=60) as client:  # too long to be tried again here
        assert client.infer(image).where == "fallback"
        with serving(bind=address):
            assert until_edge(client, image).label == label


def test_an_edge_that_has_forgotten_us_is_greeted_again():
    batch, classes = images(20)
    with serving(idle_s=0.01) as server, asking(server) as client:
        assert client.infer(batch[0]).where == "edge"
        end = time.monotonic() + GENEROUS_S
        while server.stats.sessions and time.monotonic() < end:
            time.sleep(0.01)
        assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]
        assert server.stats.refused[Reason.SESSION] >= 1
        while server.stats.sessions and time.monotonic() < end:
            time.sleep(0.01)
        assert client.ping() > 0


def test_a_restarted_edge_is_greeted_again():
    batch, classes = images(20)
    with serving() as server:
        client = asking(server, timeout_ms=500, retry_s=0)
        assert client.infer(batch[0]).where == "edge"
    with client, serving(bind=server.endpoint):
        until_edge(client, batch[0])
        assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]


# --- refusals -------------------------------------------------------------------------------------------------------


def test_another_bundle_is_said_at_once_and_not_asked_again():
    image = images(1)[0][0]
    with serving(FakeEdge("another")) as server, asking(server, retry_s=60) as client:
        assert client.infer(image).reason == "key"
        assert client.infer(image).ms.link == 0
    with serving(FakeEdge("another")) as server, asking(server, FakeDevice(falls_back=False)) as client, \
            pytest.raises(LinkError, match="serves another bundle; use the two halves of one"):
        client.infer(image)


def test_a_busy_edge_is_asked_again_and_is_not_lost():
    edge, (batch, classes) = FakeEdge(), images(60)
    with serving(edge, queue=1, max_batch=1) as server, asking(server, window=32) as client:
        assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]
        assert server.stats.refused[Reason.BUSY] > 0


def test_over_the_rate_the_device_answers_itself():
    batch, classes = images(6)
    with serving(rate=1e-6, burst=4) as server, asking(server, timeout_ms=100) as client:
        found = client.infer(batch)
        assert [a.label for a in found] == classes
        assert [(a.where, a.reason) for a in found] == [("edge", "")] * 3 + [("fallback", "rate")] * 3
        assert client.lost == ""  # it is there


def test_a_payload_longer_than_the_edge_accepts_is_not_sent():
    with serving(max_payload_bytes=8) as server, asking(server) as client:
        answer = client.infer(images(1)[0][0])
        assert (answer.where, answer.reason) == ("fallback", "oversized")
        assert client.ping() > 0
    assert not server.stats.refused


def test_a_refused_payload_is_one_images_matter(monkeypatch):
    device, (batch, classes) = FakeDevice(), images(5)
    begin = device.begin
    monkeypatch.setattr(device, "begin", lambda images, rate: ([*begin(images, rate)[0][:-1], b"nonsense"], None))
    with serving() as server, asking(server, device) as client:
        found = client.infer(batch)
    assert [a.label for a in found] == classes
    assert [a.reason for a in found] == [""] * 4 + ["payload"]


@pytest.mark.parametrize("body", [b"", b"short", EdgeAnswer(CLASSES, 0, 0, 1).encode(), bytes(15)])
def test_an_answer_that_is_none(body):
    with scripted(lambda f: [Frame(Kind.ANSWER, KEY, f.session, f.sequence, body).encode()]) as endpoint, \
            asking(endpoint) as client:
        assert client.infer(images(1)[0][0]).reason == "fault"


def test_frames_that_are_not_for_us_are_passed_over():
    right = EdgeAnswer(5, 0, 0, 1).encode()

    def reply(frame):
        def made(**changes):
            usual = {"kind": Kind.ANSWER, "key": KEY, "session": frame.session, "sequence": frame.sequence,
                     "body": EdgeAnswer(6, 0, 0, 1).encode()}
            return Frame(**{**usual, **changes}).encode()

        damaged = bytearray(made())
        damaged[-1] ^= 1
        return [b"", b"noise", bytes(damaged), made(session=1), made(sequence=frame.sequence + 1), made(sequence=0),
                made(kind=Kind.PONG), made(kind=Kind.REFUSED, reason=Reason.BUSY, sequence=frame.sequence + 9),
                made(kind=Kind.WELCOME, session=3), made(body=right), made()]

    with scripted(reply) as endpoint, asking(endpoint) as client:
        assert [client.infer(images(1)[0][0]).label for _ in range(3)] == [5, 5, 5]


def test_another_version_is_said():
    def reply(frame):
        data = Frame(Kind.ANSWER, KEY, frame.session, frame.sequence).encode()
        return [data[:2] + b"\x09" + data[3:]]

    with scripted(reply) as endpoint, asking(endpoint) as client:
        assert client.infer(images(1)[0][0]).reason == "version"


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"timeout_ms": 100_000}, {"retry_s": -1}, {"window": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ClientOptions(**options)


@pytest.mark.parametrize("edge", ["localhost", ":5555", "localhost:", "localhost:x", "localhost:0", "a:70000"])
def test_what_is_no_edge(edge):
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        DeviceClient(FakeDevice(), edge)


def test_an_address_that_zeromq_refuses():
    with asking("tcp://no-port") as client, pytest.raises(ConfigError, match="is no address of an edge"):
        client.infer(images(1)[0])


def test_an_edge_is_needed():
    with pytest.raises(ConfigError, match="name it with --edge"):
        DeviceClient(FakeDevice())


def test_addresses():
    assert edge_address("10.0.0.1:5555") == "tcp://10.0.0.1:5555"
    assert edge_address("ipc:///tmp/x") == "ipc:///tmp/x"
    assert edge_address("[::1]:5555") == "tcp://[::1]:5555"
    with pytest.raises(ConfigError, match=r"such as .*\[fd00::20\]:5555"):
        edge_address("::1:5555")  # of which nobody can say where the port begins


def test_an_edge_over_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(bind="tcp://[::1]:0") as server, asking(server.endpoint.removeprefix("tcp://")) as client:
        assert client.infer(images(1)[0])[0].where == "edge"


@pytest.mark.parametrize(("families", "listening", "ipv6"), [
    ("4", "4", False), ("6", "6", True), ("6", "", True), ("46", "4", False), ("46", "6", True), ("64", "4", False),
    ("46", "", False)])
def test_a_name_is_reached_over_the_protocol_that_its_edge_listens_at(monkeypatch, families, listening, ipv6):
    kinds = {"4": (socket.AF_INET, "127.0.0.1"), "6": (socket.AF_INET6, "::1")}
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    try:
        servers = [socket.create_server((kinds[f][1], port), family=kinds[f][0]) for f in listening]
    except OSError:
        pytest.skip("this machine has no IPv6")
    entries = [(kinds[f][0], socket.SOCK_STREAM, 0, "", (kinds[f][1], port)) for f in families]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    assert is_ipv6(f"tcp://edge.example:{port}") is ipv6
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300])
def test_a_name_that_cannot_be_resolved_is_told_as_such(name):
    with pytest.raises(LinkError, match="cannot be resolved") as caught:
        DeviceClient(FakeDevice(), f"{name}:5555")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("foreign", ["another session", "damaged", "no answer", "late answers"])
def test_the_timeout_holds_while_foreign_frames_arrive(foreign):
    ends_s = time.monotonic() + 4

    def flood(request):
        frame = {"another session": Frame(Kind.ANSWER, KEY, 78, request.sequence, EdgeAnswer(0, 0, 0, 1).encode()),
                 "no answer": Frame(Kind.PONG, KEY, 77, request.sequence),
                 "late answers": Frame(Kind.ANSWER, KEY, 77, 1, EdgeAnswer(0, 0, 0, 1).encode()),
                 "damaged": Frame(Kind.PONG, KEY, 77, request.sequence)}[foreign].encode()
        while time.monotonic() < ends_s:
            yield frame if foreign != "damaged" else frame[:-1] + bytes([frame[-1] ^ 1])

    with scripted(flood) as endpoint, asking(endpoint, timeout_ms=300) as client:
        if foreign == "late answers":
            client.infer(images(1)[0])  # the first is answered, by what then comes again and again
        start_s = time.monotonic()
        answer = client.infer(images(1)[0])[0]
        assert (answer.where, answer.reason) == ("fallback", "timeout")
        assert time.monotonic() - start_s < 2
        ends_s = 0.0
