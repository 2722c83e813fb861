"""The gateway between a link in memory and live edges: what crosses, what does not, and what devices are told."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from autosplit.runtime.standalone.errors import BundleError, ConfigError, LinkError
from autosplit.runtime.standalone.gateway.fragments import ANSWERED, AWAY, Fragment, PacketAnswer, cut
from autosplit.runtime.standalone.gateway.gateway import Deployment, Gateway
from autosplit.runtime.standalone.options import GatewayOptions
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.protocol.keys import DeviceKeys, EdgeKeys, make_keys
from autosplit.runtime.standalone.protocol.wire import EdgeAnswer, Frame, Kind, Reason, short_key
from tests.runtime.standalone.fakes import CLASSES, LOOPBACK, scripted, serving
from tests.runtime.standalone.gateway.parts import (
    CODE,
    CODER,
    DEPLOYMENT,
    TABLE,
    Bench,
    CodeEdge,
    ScriptedLink,
    options,
    payloads,
    write_bundle,
)

FRAMES = 10_000
NOWHERE = "127.0.0.1:9"


@pytest.fixture
def edge():
    return CodeEdge()


# --- what crosses ---------------------------------------------------------------------------------------------------


def test_payloads_are_answered(edge):
    sent, labels = payloads(60)
    with serving(edge) as server, Bench(server) as bench:
        for i, payload in enumerate(sent):
            bench.payload(payload, i % 20, device=i // 20)
        found = bench.answers(60)
    assert sorted(found) == [(i // 20, i % 20, ANSWERED, labels[i]) for i in range(60)]
    assert sorted(edge.seen) == sorted(sent)
    summary = bench.stats.summary()
    assert (summary["messages"], summary["requests"], summary["answers"]) == (60, 60, 60)
    assert (summary["malformed"], summary["refused"], summary["incomplete"]) == ({}, {}, 0)
    assert bench.link.closed


def test_answers_go_where_the_packets_came_from(edge):
    (one, other), (label, another) = payloads(2)
    with serving(edge) as server, Bench(server) as bench:
        bench.payload(one, 5, device=7, source=("10.0.0.1", 1))
        bench.payload(other, 5, device=7, source=("10.0.0.2", 1))
        bench.answers(2)
    assert {source: a.label for source, a in bench.link.sent} == {("10.0.0.1", 1): label, ("10.0.0.2", 1): another}


def test_a_lost_packet_costs_one_answer(edge):
    """Loss, duplicates and another order within a payload; each payload is answered if all of its packets came."""
    rng = np.random.default_rng(5)
    sent, labels = payloads(300, seed=5)
    expected, lost = [], 0
    with serving(edge) as server, Bench(server) as bench:
        for i, payload in enumerate(sent):
            packets = cut(payload, 20, device=3, message=i % 256, deployment=DEPLOYMENT.number)
            came = [p for p in packets if rng.random() > 0.1]
            lost += len(packets) - len(came)
            order = came + [p for p in came if rng.random() < 0.2]
            bench.packets(*(order[j] for j in rng.permutation(len(order))))
            if len(came) == len(packets):
                expected.append((3, i % 256, ANSWERED, labels[i]))
            bench.gateway.step(0)
        found = bench.answers(len(expected))
    assert found == expected
    assert lost > 60
    assert 150 < len(expected) < 250
    assert bench.stats.counts["requests"] == len(expected)


def malformed(rng, count):
    """Packets that must all be refused, with the reason for each."""
    number, longest = DEPLOYMENT.number, DEPLOYMENT.max_payload_bytes

    def some(deployment=number, size=None, **changes):
        usual = {"device": int(rng.integers(4)), "message": int(rng.integers(256)), "index": int(rng.integers(128)),
                 "last": bool(rng.integers(2)), "data": rng.bytes(size or rng.integers(1, 14))}
        return Fragment(**{**usual, **changes}).encode(deployment)

    def flipped(packet):
        packet = bytearray(packet)
        for bit in rng.choice(8 * (len(packet) - 1), rng.integers(1, 4), replace=False):
            packet[1 + bit // 8] ^= 1 << bit % 8
        return bytes(packet)

    kinds = [
        (lambda: some()[: rng.integers(0, 8)], "length"), (lambda: some(size=rng.integers(14, 300)), "length"),
        (lambda: rng.bytes(rng.integers(21, 200)), "length"),
        (lambda: bytes([rng.integers(0x11, 0x100)]) + some()[1:], "kind"),
        (lambda: PacketAnswer(1, 2, 0, 3).encode(number), "kind"),
        (lambda: flipped(some()), "checksum"), (lambda: b"\x10" + rng.bytes(rng.integers(7, 20)), "checksum"),
        (lambda: some(deployment=(number + rng.integers(1, 1 << 16)) % (1 << 16)), "checksum"),
        (lambda: some()[:-1] if rng.integers(2) else some() + rng.bytes(1), None)]
    assert longest < 128 * 13
    for _ in range(count):
        make, reason = kinds[rng.integers(len(kinds))]
        packet = make()
        yield packet, reason or ("length" if not 8 <= len(packet) <= 20 else "checksum")


def test_ten_thousand_malformed_packets_do_not_cross_and_good_ones_between_them_do(edge):
    rng, sent = np.random.default_rng(1), Counter()
    good, labels = payloads(200, seed=1)
    with serving(edge) as server, Bench(server) as bench:
        bad = malformed(rng, FRAMES)
        for i, payload in enumerate(good):
            packets = cut(payload, 20, device=2, message=i, deployment=DEPLOYMENT.number)
            for j in range(FRAMES // 200):
                packet, reason = next(bad)
                bench.packets(packet)
                sent[reason] += 1
                if j % 10 == 0 and packets:  # in the middle of the noise
                    bench.packets(packets.pop(0))
            bench.packets(*packets)
            assert bench.answers(1) == [(2, i, ANSWERED, labels[i])]
        assert bench.stats.malformed == sent
    assert sum(sent.values()) == FRAMES
    assert edge.seen == good
    assert server.stats.requests == bench.stats.counts["requests"] == len(good)
    assert not server.stats.refused
    assert bench.stats.counts["packets"] == FRAMES + sum(len(cut(p, 20, device=0, message=0, deployment=0))
                                                         for p in good)


def test_ten_thousand_well_formed_packets_with_nonsense_in_them_do_not_cross(edge):
    """As somebody sends them who knows the deployment's number: the payload's own checksum is what they meet."""
    rng = np.random.default_rng(2)
    (good,), (label,) = payloads(1)
    with serving(edge) as server, Bench(server, max_devices=64) as bench:
        for i in range(FRAMES // 2):
            pieces = rng.integers(1, 4)
            data = rng.bytes(rng.integers(1, 13 * pieces + 1))
            if i % 5 == 0:  # mixtures: the end of a payload behind the beginning of another
                data = bytes([0x20]) + data
            bench.payload(data, int(rng.integers(256)), device=int(rng.integers(200)), source=int(rng.integers(3)))
            if i % 20 == 0:
                bench.gateway.step(0)
        for _ in range(FRAMES // 2):
            fragment = Fragment(int(rng.integers(200)), int(rng.integers(256)), int(rng.integers(128)),
                                bool(rng.integers(2)), rng.bytes(rng.integers(1, 14)))
            bench.packets(fragment.encode(DEPLOYMENT.number))
        bench.steps(lambda: not bench.link.come)
        assert bench.stats.counts["requests"] == 0
        assert bench.stats.counts["packets"] > FRAMES
        assert set(bench.stats.refused) == {"payload"}
        taken = len(bench.link.sent)
        assert {a.status for _, a in bench.link.sent} == {Reason.PAYLOAD}
        bench.payload(good, 9, device=65_535)
        bench.answers(taken)
        assert bench.answers(1) == [(65_535, 9, ANSWERED, label)]
    assert edge.seen == [good]


def test_a_payload_of_another_deployment_does_not_cross(edge):
    other = PayloadCoder(TABLE, CODE, b"another bundle")
    with serving(edge) as server, Bench(server) as bench:
        bench.payload(other.encode(np.zeros(CODE, dtype=np.int64)), 1)
        assert bench.answers(1) == [(1, 1, Reason.PAYLOAD, 0)]
    assert server.stats.requests == 0


def test_a_device_that_restarts_is_answered_again(edge):
    (one, two), (_, label) = payloads(2, seed=3)
    with serving(edge) as server, Bench(server) as bench:
        packets = cut(one, 20, device=1, message=0, deployment=DEPLOYMENT.number)
        bench.packets(*packets[:-1])  # it restarts before the last one, and counts from 0 again
        bench.payload(two, 0)
        assert bench.answers(1) == [(1, 0, ANSWERED, label)]
        assert bench.stats.counts["incomplete"] == 1


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_device_over_its_rate_is_told(edge):
    (payload, other), _ = payloads(2)
    with serving(edge) as server, Bench(server, rate=1e-6) as bench:
        bench.payload(payload, 1)
        bench.payload(payload, 2)
        bench.payload(other, 1, device=2)
        found = bench.answers(3)
    assert sorted(f[:3] for f in found) == [(1, 1, ANSWERED), (1, 2, Reason.RATE), (2, 1, ANSWERED)]
    assert bench.stats.refused == {"rate": 1}


def test_more_than_the_queue_holds_is_told_busy(edge):
    sent, _ = payloads(5)
    edge.gate.clear()
    with serving(edge) as server, Bench(server, queue=3) as bench:
        for i, payload in enumerate(sent):
            bench.payload(payload, i)
        assert [f[:3] for f in bench.answers(2)] == [(1, 3, Reason.BUSY), (1, 4, Reason.BUSY)]
        edge.gate.set()
        assert [f[:3] for f in bench.answers(3)] == [(1, i, ANSWERED) for i in range(3)]


def test_an_edge_that_is_busy_is_told_to_the_device(edge):
    sent, _ = payloads(3)
    edge.gate.clear()
    with serving(edge, queue=1, max_batch=1) as server, Bench(server) as bench:
        bench.payload(sent[0], 0)
        bench.steps(lambda: edge.entered.acquire(blocking=False))
        bench.payload(sent[1], 1)
        bench.payload(sent[2], 2)
        assert [f[:3] for f in bench.answers(1)] == [(1, 2, Reason.BUSY)]
        edge.gate.set()
        assert [f[:3] for f in bench.answers(2)] == [(1, 0, ANSWERED), (1, 1, ANSWERED)]


def test_answers_are_limited_for_a_narrow_link_back(edge):
    sent, _ = payloads(4)
    with serving(edge) as server, Bench(server, answer_rate=2e-6) as bench:
        for i, payload in enumerate(sent):
            bench.payload(payload, i)
        bench.steps(lambda: bench.stats.counts["unsent"] == 3)
        assert len(bench.link.sent) == bench.stats.counts["answers"] == 1


def test_a_link_that_takes_no_answers_loses_them_alone(edge):
    (payload, _), (label, _) = payloads(2)
    with serving(edge) as server, Bench(server) as bench:
        bench.link.full = True
        bench.payload(payload, 0)
        bench.steps(lambda: bench.stats.counts["unsent"] == 1)
        bench.link.full = False
        bench.payload(payload, 1)
        assert bench.answers(1) == [(1, 1, ANSWERED, label)]


def test_the_edge_says_how_long_a_payload_may_be(edge):
    (payload,), _ = payloads(1)
    with serving(edge, max_payload_bytes=len(payload) - 1) as server, Bench(server) as bench:
        bench.steps(lambda: bench.gateway._session._link.ready)
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, Reason.OVERSIZED, 0)]


# --- an edge that is slow or away -----------------------------------------------------------------------------------


def test_a_slow_answer_keeps_no_other_device_waiting():
    (slow, quick), _ = payloads(2, seed=9)
    held = []

    def reply(frame):
        answer = Frame(Kind.ANSWER, short_key(DEPLOYMENT.key), frame.session, frame.sequence,
                       EdgeAnswer(4, 0, 0, 1).encode()).encode()
        if frame.body == slow:
            held.append(answer)
            return []
        return [answer] if frame.body == quick else [*held, answer]

    with scripted(reply) as endpoint, Bench(endpoint) as bench:
        bench.payload(slow, 0, device=1)
        for i in range(20):
            bench.payload(quick, i, device=2)
        assert bench.answers(20) == [(2, i, ANSWERED, 4) for i in range(20)]
        bench.payload(payloads(3, seed=8)[0][2], 0, device=3)
        assert sorted(bench.answers(2)) == [(1, 0, ANSWERED, 4), (3, 0, ANSWERED, 4)]


def test_an_answer_that_takes_too_long_is_late_and_not_sent_afterwards():
    (slow, quick, third), _ = payloads(3, seed=9)
    held = []

    def reply(frame):
        answer = Frame(Kind.ANSWER, short_key(DEPLOYMENT.key), frame.session, frame.sequence,
                       EdgeAnswer(4, 0, 0, 1).encode()).encode()
        if frame.body == slow:
            held.append(answer)
            return []
        return [answer] if frame.body == quick else [*held, answer]

    with scripted(reply) as endpoint, Bench(endpoint, timeout_ms=600) as bench:
        bench.payload(slow, 0)
        bench.payload(quick, 1)  # by whose answer the edge is known to be there
        assert bench.answers(1) == [(1, 1, ANSWERED, 4)]
        assert bench.answers(1) == [(1, 0, Reason.LATE, 0)]
        bench.payload(third, 2)
        assert bench.answers(1) == [(1, 2, ANSWERED, 4)]
        assert bench.stats.counts["late"] == 1
        assert len(bench.link.sent) == 3


def test_without_an_edge_devices_are_told_at_once(caplog):
    sent, _ = payloads(3)
    with Bench(NOWHERE, timeout_ms=150, retry_s=60) as bench:
        bench.payload(sent[0], 0)
        start_s = time.monotonic()
        assert bench.answers(1) == [(1, 0, AWAY, 0)]
        assert 0.1 < time.monotonic() - start_s < 5
        assert bench.gateway.lost == "timeout"
        bench.payload(sent[1], 1)
        bench.payload(sent[2], 2)
        bench.gateway.step(0)
        assert bench.answers(2) == [(1, 1, AWAY, 0), (1, 2, AWAY, 0)]
    assert caplog.text.count("no answer from the edge tcp://127.0.0.1:9 (timeout)") == 1
    assert bench.stats.refused == {"away": 3}


def test_an_edge_that_ends_and_comes_back(edge, caplog):
    (payload, _), (label, _) = payloads(2)
    with serving(edge) as server, Bench(server) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, ANSWERED, label)]
        server.stop()
        bench.steps(lambda: bench.gateway.lost == "disconnected")
        bench.payload(payload, 1)
        assert bench.answers(1) == [(1, 1, AWAY, 0)]
        with serving(edge, bind=server.endpoint):
            bench.steps(lambda: not bench.gateway.lost)
            bench.payload(payload, 2)
            assert bench.answers(1) == [(1, 2, ANSWERED, label)]
    assert "is back" in caplog.text


def test_what_was_asked_when_the_edge_ended_is_away():
    (payload,), _ = payloads(1)
    with scripted(lambda frame: None) as endpoint, Bench(endpoint) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, AWAY, 0)]


def test_an_edge_that_has_forgotten_the_gateway_is_asked_again(edge):
    (payload,), (label,) = payloads(1)
    with serving(edge) as server, Bench(server) as bench:
        for i in range(3):
            bench.payload(payload, i)
            assert bench.answers(1) == [(1, i, ANSWERED, label)]
            server._sessions.forget(float("inf"))  # as after `idle_s`
        assert server.stats.refused[Reason.SESSION] == 2


def test_an_edge_of_another_bundle_is_none(edge, caplog):
    (payload,), _ = payloads(1)
    with serving(CodeEdge("another bundle")) as server, Bench(server) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, AWAY, 0)]
        assert bench.gateway.lost == "key"
        bench.steps(lambda: server.stats.refused[Reason.KEY] > 1)
        server.stop()
        with serving(edge, bind=server.endpoint):  # somebody notices, and serves the right one
            bench.steps(lambda: not bench.gateway.lost)
            bench.payload(payload, 1)
            assert bench.answers(1)[0][2] == ANSWERED
    assert "(key)" in caplog.text


def test_a_network_that_fails_is_told_to_the_device(edge):
    (payload,), _ = payloads(1)
    edge.fault = RuntimeError("out of memory")
    with serving(edge) as server, Bench(server) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, Reason.FAULT, 0)]


def test_a_label_that_cannot_be_is_a_fault():
    (payload,), _ = payloads(1)

    def reply(frame):
        return [Frame(Kind.ANSWER, short_key(DEPLOYMENT.key), frame.session, frame.sequence,
                      EdgeAnswer(CLASSES, 0, 0, 1).encode()).encode()]

    with scripted(reply) as endpoint, Bench(endpoint) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, Reason.FAULT, 0)]


def test_devices_that_wait_when_the_gateway_ends_are_told(edge):
    (payload,), _ = payloads(1)
    edge.gate.clear()
    with serving(edge) as server:
        bench = Bench(server)
        bench.payload(payload, 0)
        bench.steps(lambda: edge.entered.acquire(blocking=False))
        bench.gateway.close()
        bench.gateway.close()
        assert bench.answers(1) == [(1, 0, AWAY, 0)]
        edge.gate.set()


@pytest.mark.parametrize("name", ["gateway", "stranger"])
def test_the_gateways_keys(edge, tmp_path, name):
    make_keys(tmp_path, "gateway")
    make_keys(tmp_path, "stranger")
    (tmp_path / "allowed" / "stranger.key").unlink()
    (payload,), (label,) = payloads(1)
    with serving(edge, keys=EdgeKeys.load(tmp_path)) as server, \
            Bench(server, keys=DeviceKeys.load(tmp_path, name)) as bench:
        bench.payload(payload, 0)
        assert bench.answers(1) == [(1, 0, ANSWERED, label) if name == "gateway" else (1, 0, AWAY, 0)]
        assert bench.gateway.lost == ("" if name == "gateway" else "handshake")


# --- what it is made of ---------------------------------------------------------------------------------------------


def test_a_bundle_of_a_gateway(tmp_path):
    found = Deployment.load(write_bundle(tmp_path / "bundle"))
    assert (found.key, found.classes, found.number) == (DEPLOYMENT.key, CLASSES, DEPLOYMENT.number)
    assert found.max_payload_bytes == CODER.max_payload_bytes
    found.check(payloads(1)[0][0])
    with pytest.raises(BundleError, match="is no bundle"):
        Deployment.load(tmp_path / "gone")


@pytest.mark.parametrize(("kind", "changes"), [("png", {}), ("raw", {}), ("none", {})])
def test_payloads_without_a_checksum_are_not_for_a_gateway(tmp_path, kind, changes):
    folder = write_bundle(tmp_path / "bundle", kind=kind, code_shape=(), **changes)
    with pytest.raises(ConfigError, match=rf"what crosses in this bundle \({kind}\) has no checksum"):
        Deployment.load(folder)


def test_payloads_of_several_rates():
    coders = [PayloadCoder(TABLE, CODE, f"{DEPLOYMENT.key}/{n}".encode(), n) for n in range(2)]
    both = Deployment(DEPLOYMENT.key, CLASSES, coders)
    for coder in coders:
        both.check(coder.encode(np.ones(CODE, dtype=np.int64)))
    third = PayloadCoder(TABLE, CODE, f"{DEPLOYMENT.key}/2".encode(), 2).encode(np.ones(CODE, dtype=np.int64))
    with pytest.raises(ValueError, match="a payload of rate 2; this bundle has rates 0 to 1"):
        both.check(third)
    with pytest.raises(ValueError, match="checksum"):
        both.check(coders[0].encode(np.ones(CODE, dtype=np.int64))[:-1])


def test_packets_too_short_for_the_bundle():
    big = Deployment(DEPLOYMENT.key, CLASSES, [PayloadCoder(TABLE, (4, 32, 32), b"k")])
    with pytest.raises(ConfigError, match=r"has up to 2052 bytes, which 128 packets of 20 bytes cannot carry; give "
                                          r"--packet-bytes of at least 24"):
        Gateway(ScriptedLink(), big, NOWHERE, options())
    Gateway(ScriptedLink(), big, NOWHERE, options(packet_bytes=24)).close()


@pytest.mark.parametrize(("edge", "error"), [("nowhere", ConfigError), ("no.such.name.invalid:5555", LinkError)])
def test_edges_that_cannot_be(edge, error):
    with pytest.raises(error):
        Gateway(ScriptedLink(), DEPLOYMENT, edge, options())


@pytest.mark.parametrize("given", [{"baud": 10}, {"packet_bytes": 8}, {"packet_bytes": 2000}, {"timeout_ms": 0},
                                   {"retry_s": 0}, {"assembly_s": 0.5}, {"rate": -1}, {"rate": float("nan")},
                                   {"answer_rate": -1}, {"max_devices": 0}, {"queue": 0}])
def test_options_out_of_range(given):
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must lie in"):
        GatewayOptions(udp="127.0.0.1:0", **given)


@pytest.mark.parametrize(("given", "where"), [({}, "nowhere"), ({"udp": "a:1", "serial": "b"}, "two places")])
def test_packets_come_from_one_place(given, where):
    with pytest.raises(ConfigError, match=f"packets would come from {where}; give one of --udp HOST:PORT and --serial"):
        GatewayOptions(**given)


def test_serving_elsewhere_is_unchanged(edge):
    """The edge sees the gateway as one device, whatever numbers come."""
    sent, _ = payloads(30)
    with serving(edge, max_devices=1, bind=LOOPBACK) as server, Bench(server) as bench:
        for i, payload in enumerate(sent):
            bench.payload(payload, 0, device=i)
        assert {f[2] for f in bench.answers(30)} == {ANSWERED}
