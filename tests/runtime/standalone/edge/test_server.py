"""A live server on loopback: answers, batches, limits, and what it refuses."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest

from autosplit.runtime.standalone.edge.server import ServerOptions
from autosplit.runtime.standalone.errors import BundleError, ConfigError, LinkError, WorkerLostError
from autosplit.runtime.standalone.protocol.wire import HEADER_BYTES, LOGITS, EdgeAnswer, Frame, Kind, Reason, short_key
from tests.runtime.standalone.fakes import MARK, FakeEdge, Raw, asking, images, serving

FRAMES = 10_000
SILENT = {Reason.TRUNCATED, Reason.MAGIC, Reason.PARTS}


@pytest.fixture
def edge():
    return FakeEdge()


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_request_is_answered(edge):
    with serving(edge) as server, Raw(server.endpoint) as device:
        sequence = device.request(body=MARK + bytes([23]))
        answer = device.receive()
        assert (answer.kind, answer.session, answer.sequence) == (Kind.ANSWER, device.session, sequence)
        found = EdgeAnswer.decode(answer.body)
        assert (found.label, found.batch, found.logits) == (3, 1, None)
        device.request(body=MARK + bytes([24]), flags=LOGITS)
        assert EdgeAnswer.decode(device.receive().body).logits.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert server.stats.answers == server.stats.requests == 2


def test_many_devices_at_once(edge):
    right = []

    def ask(seed):
        batch, classes = images(100, seed)
        with asking(server) as client:
            found = client.infer(batch)
        right.append([a.label for a in found] == classes and {a.where for a in found} == {"edge"})

    with serving(edge) as server:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 8
    assert sum(edge.batches) == server.stats.answers == 800
    assert not server.stats.refused


def test_requests_that_wait_are_computed_together(edge):
    edge.gate.clear()
    with serving(edge, max_batch=8, max_wait_ms=0) as server, Raw(server.endpoint) as device:
        device.request()
        assert edge.entered.acquire(timeout=30)
        for _ in range(10):
            device.request()
        device.settle()
        edge.gate.set()
        answers = [EdgeAnswer.decode(device.receive().body) for _ in range(11)]
    assert edge.batches == [1, 8, 2]
    assert [a.batch for a in answers] == [1] + [8] * 8 + [2] * 2
    assert server.stats.summary()["batch"]["mean"] == pytest.approx(11 / 3)


def test_a_batch_waits_for_others(edge):
    with serving(edge, max_batch=3, max_wait_ms=60_000) as server, Raw(server.endpoint) as device:
        for _ in range(3):
            device.request()
        for _ in range(3):
            device.receive()
    assert edge.batches == [3]


def test_stopping_answers_what_is_queued(edge):
    edge.gate.clear()
    with Raw((server := serving(edge).start()).endpoint) as device:
        for _ in range(5):
            device.request()
        device.settle()
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        edge.gate.set()
        assert [device.receive().kind for _ in range(5)] == [Kind.ANSWER] * 5
        stopper.join(30)
    assert server.wait(0)
    server.stop()


# --- refusals -------------------------------------------------------------------------------------------------------


def patched(data, at, new):
    return data[:at] + new + data[at + len(new):]


def random_frames(device, count, limit, seed):
    """Frames that must all be refused, with the reason for each; all have sequence numbers that were used before."""
    rng = np.random.default_rng(seed)

    def some(**changes):
        usual = {"kind": Kind.REQUEST, "key": device.key, "session": device.session,
                 "sequence": int(rng.integers(0, device.sequence + 1)), "body": rng.bytes(rng.integers(0, 50))}
        return Frame(**{**usual, **changes}).encode()

    kinds = {
        Reason.TRUNCATED: lambda: some()[: rng.integers(0, HEADER_BYTES)],
        Reason.OVERSIZED: lambda: some(body=rng.bytes(limit + rng.integers(1, 1000))),
        Reason.MAGIC: lambda: b"\0" + rng.bytes(rng.integers(HEADER_BYTES, 80)),
        Reason.VERSION: lambda: patched(some(), 2, bytes([rng.integers(2, 256)])),
        Reason.KIND: lambda: some(kind=[Kind.WELCOME, Kind.ANSWER, Kind.PONG][rng.integers(3)]),
        Reason.FIELD: lambda: some(flags=int(rng.integers(1, 128)) * 2),
        Reason.LENGTH: lambda: some() + rng.bytes(rng.integers(1, 40)),
        Reason.CHECKSUM: lambda: patched(some(), 24, rng.bytes(4)),
        Reason.KEY: lambda: some(key=short_key(f"bundle {rng.integers(1000)}")),
        Reason.SESSION: lambda: some(session=int(rng.integers(0, 1 << 32))),
        Reason.REPLAY: some,
        Reason.PARTS: None,
    }
    for _ in range(count):
        reason = list(kinds)[rng.integers(len(kinds))]
        make = kinds[reason]
        parts = [some() for _ in range(rng.integers(2, 4))] if make is None else [make()]
        yield parts, reason


def test_ten_thousand_bad_frames_are_refused_and_counted(edge):
    limit, sent, replies = 300, Counter(), Counter()
    with serving(edge, max_payload_bytes=limit) as server, Raw(server.endpoint) as device, asking(server) as client:
        batch, classes = images(20)
        assert [a.label for a in client.infer(batch)] == classes
        for _ in range(5):
            device.request()
            device.receive()
        for i, (parts, reason) in enumerate(random_frames(device, FRAMES, limit, seed=1)):
            device.send(*parts)
            sent[reason] += 1
            if i % 100 == 99:
                replies.update(device.refusals())
            if i % 1000 == 999:  # others are served meanwhile
                assert [a.where for a in client.infer(batch)] == ["edge"] * len(batch)
        replies.update(device.refusals())
        assert [a.label for a in client.infer(batch)] == classes
        device.request()
        assert device.receive().kind is Kind.ANSWER
    assert sum(sent.values()) == FRAMES
    assert server.stats.refused == sent
    assert replies == {reason: n for reason, n in sent.items() if reason not in SILENT}
    assert server.stats.dropped == 0
    assert not server.failed


def test_noise_alone_never_gets_through(edge):
    rng = np.random.default_rng(2)
    with serving(edge) as server, Raw(server.endpoint) as device:
        for i in range(1000):
            start = b"aS\x01" if i % 2 else b""
            device.send(start + rng.bytes(rng.integers(0, 200)))
        device.settle()
        assert sum(server.stats.refused.values()) == 1000
    assert edge.batches == []


def test_a_frame_far_too_long_ends_its_connection_alone(edge):
    with serving(edge, max_payload_bytes=100) as server, asking(server) as client:
        batch, classes = images(3)
        with Raw(server.endpoint) as device:
            device.send(device.frame(body=bytes(1 << 22)).encode())
            assert [a.label for a in client.infer(batch)] == classes
        assert [a.where for a in client.infer(batch)] == ["edge"] * 3
    assert server.stats.requests == 6


def test_what_is_not_even_zeromq_harms_nobody(edge):
    rng = np.random.default_rng(3)
    with serving(edge) as server, asking(server) as client:
        batch, classes = images(5)
        address = ("127.0.0.1", int(server.endpoint.rsplit(":", 1)[1]))
        for i in range(50):
            with socket.create_connection(address, timeout=30) as stranger:
                start = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03"][i % 3]
                stranger.sendall(start + rng.bytes(rng.integers(1, 300)))
        assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]
    assert server.stats.requests == len(batch)
    assert not server.failed


def test_devices_that_come_and_go_leave_nothing(edge):
    with serving(edge, max_devices=100) as server:
        for _ in range(60):
            with Raw(server.endpoint) as device:
                device.request()
                assert device.receive().kind is Kind.ANSWER
                device.send(device.frame(Kind.BYE, b"").encode())
                device.request()
                assert device.receive().reason is Reason.SESSION
        assert len(server._sessions) == 0


def test_a_recorded_session_cannot_be_replayed(edge):
    with serving(edge) as server:
        with Raw(server.endpoint) as device:
            recorded = [device.frame().encode() for _ in range(3)]
            for data in recorded:
                device.send(data)
                assert device.receive().kind is Kind.ANSWER
            for data in recorded:
                device.send(data)
            assert device.refusals() == [Reason.REPLAY] * 3
        with Raw(server.endpoint) as another:
            for data in recorded:
                another.send(data)
            assert another.refusals() == [Reason.SESSION] * 3
    with serving(edge, bind=server.endpoint) as restarted, Raw(restarted.endpoint) as device:
        device.send(recorded[0])
        assert device.refusals() == [Reason.SESSION]
    assert sum(edge.batches) == 3


def test_bad_payloads_harm_nobody_else(edge):
    edge.gate.clear()
    with serving(edge, max_batch=16, max_wait_ms=0) as server, Raw(server.endpoint) as device:
        device.request()
        assert edge.entered.acquire(timeout=30)
        bodies = [MARK + bytes([i]) if i % 3 else b"nonsense" for i in range(10)]
        sequences = [device.request(body=body) for body in bodies]
        device.settle()
        edge.gate.set()
        device.receive()
        found = {frame.sequence: frame for frame in (device.receive() for _ in bodies)}
    for body, sequence in zip(bodies, sequences, strict=True):
        if body.startswith(MARK):
            assert EdgeAnswer.decode(found[sequence].body).label == body[-1]
        else:
            assert found[sequence].reason is Reason.PAYLOAD
    assert server.stats.refused == {Reason.PAYLOAD: 4}


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), KeyError("x")])
def test_a_network_that_fails_is_said_and_survived(edge, fault, caplog):
    with serving(edge) as server, Raw(server.endpoint) as device:
        edge.fault = fault
        device.request()
        assert device.receive().reason is Reason.FAULT
        edge.fault = None
        device.request()
        assert device.receive().kind is Kind.ANSWER
    assert "the edge failed on 1 payloads" in caplog.text


def test_logits_of_a_wrong_shape_are_a_fault(edge, monkeypatch, caplog):
    monkeypatch.setattr(edge, "decode", lambda payloads: np.zeros((3, 2), np.float32))
    with serving(edge) as server, Raw(server.endpoint) as device:
        device.request()
        assert device.receive().reason is Reason.FAULT
    assert "gave logits of shape (3, 2)" in caplog.text


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_says_busy(edge):
    edge.gate.clear()
    with serving(edge, queue=4, max_batch=1) as server, Raw(server.endpoint) as device:
        device.request()
        assert edge.entered.acquire(timeout=30)
        for _ in range(7):
            device.request()
        assert device.refusals() == [Reason.BUSY] * 3
        edge.gate.set()
        assert [device.receive().kind for _ in range(5)] == [Kind.ANSWER] * 5
        device.request()
        assert device.receive().kind is Kind.ANSWER
    assert server.stats.refused == {Reason.BUSY: 3}
    assert edge.batches == [1] * 6


def test_a_request_past_its_deadline_is_not_computed(edge):
    edge.gate.clear()
    with serving(edge, max_wait_ms=0) as server, Raw(server.endpoint) as device:
        device.request()
        assert edge.entered.acquire(timeout=30)
        device.request(deadline_ms=1)
        device.request(deadline_ms=60_000)
        device.settle()
        time.sleep(0.01)
        edge.gate.set()
        assert [device.receive().reason for _ in range(3)] == [None, Reason.LATE, None]
    assert edge.batches == [1, 1]


def test_the_rate_of_a_device_is_limited(edge):
    with serving(edge, rate=1e-6, burst=5) as server, Raw(server.endpoint) as device, Raw(server.endpoint) as another:
        for _ in range(10):
            device.request()
        found = [device.receive() for _ in range(10)]
        assert Counter(f.reason for f in found) == {None: 4, Reason.RATE: 6}  # the HELLO was the first frame
        another.request()
        assert another.receive().kind is Kind.ANSWER
    assert server.stats.refused == {Reason.RATE: 6}


def test_no_more_devices_than_allowed(edge):
    with serving(edge, max_devices=2) as server, Raw(server.endpoint), Raw(server.endpoint), \
            Raw(server.endpoint, hello=False) as third:
        third.send(Frame(Kind.HELLO, third.key, sequence=9, body=bytes(8)).encode())
        refused = third.receive()
        assert (refused.reason, refused.sequence) == (Reason.FULL, 9)


def test_a_device_that_never_reads_harms_nobody(edge):
    with serving(edge, queue=64) as server, Raw(server.endpoint) as device:
        for _ in range(2000):
            device.request(flags=LOGITS)
        with Raw(server.endpoint) as another:
            another.request()
            assert another.receive(60).kind in (Kind.ANSWER, Kind.REFUSED)
        end = time.monotonic() + 60
        while server.stats.frames < 2003:  # with two HELLOs
            assert time.monotonic() < end
            time.sleep(0.01)
    stats = server.stats
    assert stats.requests + stats.refused[Reason.BUSY] == 2001
    assert stats.requests + stats.refused[Reason.BUSY] + 2 >= stats.answers + stats.dropped >= stats.requests
    assert set(stats.refused) <= {Reason.BUSY}
    assert not server.failed


@pytest.mark.parametrize("body", [b"", b"7 bytes", b"too many bytes"])
def test_a_hello_names_its_device_in_eight_bytes(edge, body):
    with serving(edge) as server, Raw(server.endpoint, hello=False) as device:
        device.send(Frame(Kind.HELLO, device.key, sequence=1, body=body).encode())
        assert device.receive().reason is Reason.FIELD


def test_a_device_that_says_bye_is_forgotten(edge):
    with serving(edge) as server, Raw(server.endpoint) as device:
        device.send(device.frame(Kind.BYE, b"").encode())
        device.request()
        assert device.receive().reason is Reason.SESSION


# --- addresses ------------------------------------------------------------------------------------------------------


def test_two_servers_cannot_have_one_port(edge):
    with serving(edge) as server:
        with pytest.raises(LinkError, match=r"cannot listen on .*: Address already in use; .*--bind") as caught:
            serving(edge, bind=server.endpoint).start()
        assert "\n" not in str(caught.value)
        with Raw(server.endpoint) as device:
            device.request()
            assert device.receive().kind is Kind.ANSWER


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://192.0.2.1:5555", "tcp://[::]:0",
                                  "tcp://example.org:5555"])
def test_other_machines_are_not_served_without_keys(bind):
    with pytest.raises(ConfigError, match="there are no keys: give --keys"):
        serving(bind=bind)


def test_unless_told_to(caplog):
    with caplog.at_level(logging.WARNING), serving(bind="tcp://0.0.0.0:0", insecure=True) as server, \
            Raw(server.endpoint.replace("0.0.0.0", "127.0.0.1")) as device:
        device.request()
        assert device.receive().kind is Kind.ANSWER
    assert "tcp://0.0.0.0:0 without keys" in caplog.text


@pytest.mark.parametrize("bind", ["", "5555", "localhost:5555", "tcp://5555", "tcp://:5555", "tcp://localhost:x",
                                  "tcp://localhost:70000", "udp://localhost:5555", "ipc://"])
def test_what_is_no_address(bind):
    with pytest.raises(ConfigError, match="is no address to bind to"):
        serving(bind=bind)


@pytest.mark.parametrize("bind", ["tcp://localhost:0", "tcp://127.0.0.9:0"])
def test_loopback_has_many_names(bind):
    with serving(bind=bind) as server:
        assert server.endpoint.startswith("tcp://127.0.0.")


def test_an_ipc_address(tmp_path):
    with serving(bind=f"ipc://{tmp_path}/edge") as server, asking(server) as client:
        batch, classes = images(4)
        assert [a.label for a in client.infer(batch)] == classes


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_wait_ms": -1}, {"queue": 0},
                                     {"max_payload_bytes": 1 << 30},
                                     {"rate": -1}, {"rate": float("nan")}, {"burst": 0.5}, {"max_devices": 0},
                                     {"idle_s": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ServerOptions(**options)


def test_nothing_is_left_behind(edge):
    before = threading.active_count()
    for _ in range(3):
        with serving(edge) as server, asking(server) as client:
            client.infer(images(1)[0])
    assert threading.active_count() == before


class Dying(FakeEdge):
    """Its process dies of every batch, and no other one can be begun."""

    def __init__(self):
        super().__init__()
        self.fault, self.begun = WorkerLostError("a process of the edge died"), 0

    def restart(self):
        self.begun += 1
        raise BundleError("no bundle any more")


def test_a_server_ends_though_its_process_cannot_be_replaced():
    edge = Dying()
    server = serving(edge).start()
    with Raw(server.endpoint) as device:
        device.request()
        until = time.monotonic() + 30
        while not edge.begun and time.monotonic() < until:
            time.sleep(0.01)
        server.stop()
        assert server.wait(30)
        assert device.receive().reason is Reason.FAULT
    assert server.stats.lost >= 1
