"""Gateways over real datagrams and over pseudo-terminals, from a device's payload to its label."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest

from autosplit.runtime.standalone.errors import ConfigError, LinkError
from autosplit.runtime.standalone.gateway import links
from autosplit.runtime.standalone.gateway.fragments import ANSWERED, AWAY, PacketAnswer, cobs_encode, cut
from autosplit.runtime.standalone.gateway.gateway import Gateway
from autosplit.runtime.standalone.gateway.links import SerialLink, UdpLink
from tests.runtime.standalone.fakes import serving
from tests.runtime.standalone.gateway.parts import (
    DEPLOYMENT,
    PATIENT_S,
    CodeEdge,
    Line,
    UdpDevice,
    options,
    payloads,
    running,
)

pytest.importorskip("serial", reason="an extra: pip install '.[serial]'")

FRAMES = 10_000


@pytest.fixture
def edge():
    return CodeEdge()


def over_udp(server, address="127.0.0.1:0", **given):
    chosen = options(udp=address, **given)
    endpoint = server if isinstance(server, str) else server.endpoint
    return running(Gateway(UdpLink(address, chosen.packet_bytes), DEPLOYMENT, endpoint, chosen))


def over_serial(server, port, **given):
    chosen = options(serial=port, **given)
    return running(Gateway(SerialLink(port, 115_200, chosen.packet_bytes), DEPLOYMENT, server.endpoint, chosen))


# --- UDP ------------------------------------------------------------------------------------------------------------


def test_devices_that_send_datagrams(edge):
    """Eight at once, of which all send their payloads one after the other."""
    right = []

    def ask(number):
        sent, labels = payloads(25, seed=number)
        with UdpDevice(gateway._link.name, device=number) as device:
            found = [device.ask(payload, i) for i, payload in enumerate(sent)]
        right.append(found == [(ANSWERED, label) for label in labels])

    with serving(edge) as server, over_udp(server) as gateway:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 8
    assert gateway.stats.summary() | {"packets": 0} == {
        "packets": 0, "duplicates": 0, "incomplete": 0, "oversized": 0, "evicted": 0, "messages": 200, "requests": 200,
        "answers": 200, "unsent": 0, "late": 0, "malformed": {}, "refused": {}}
    assert server.stats.answers == 200


def test_an_address_of_ipv6(edge):
    (payload,), (label,) = payloads(1)
    with serving(edge) as server, over_udp(server, "[::1]:0") as gateway:
        assert gateway._link.name.startswith("udp://[::1]:")
        with UdpDevice(gateway._link.name) as device:
            assert device.ask(payload, 0) == (ANSWERED, label)


def test_ten_thousand_datagrams_of_noise(edge):
    rng = np.random.default_rng(4)
    good, labels = payloads(100, seed=4)
    with serving(edge) as server, over_udp(server) as gateway, UdpDevice(gateway._link.name) as device, \
            UdpDevice(gateway._link.name) as stranger:
        for i, payload in enumerate(good):
            packets = cut(payload, 20, device=1, message=i, deployment=DEPLOYMENT.number)
            for _ in range(FRAMES // 100):
                noise = bytearray(rng.bytes(rng.integers(0, 60)))
                if rng.integers(2):  # nearly a packet
                    noise = bytearray(packets[rng.integers(len(packets))])
                    noise[rng.integers(len(noise))] ^= 1 << rng.integers(8)
                stranger.raw(bytes(noise))
            assert device.ask(payload, i) == (ANSWERED, labels[i])
        assert stranger.receive(0) == []
    assert edge.seen == good
    assert server.stats.requests == gateway.stats.counts["messages"] == 100
    assert sum(gateway.stats.malformed.values()) == FRAMES
    assert set(gateway.stats.malformed) == {"length", "kind", "checksum"}


def test_a_datagram_that_is_too_long_is_not_cut_to_a_packet(edge):
    (payload,), (label,) = payloads(1)
    with serving(edge) as server, over_udp(server) as gateway, UdpDevice(gateway._link.name) as device:
        for packet in cut(payload, 20, device=1, message=0, deployment=DEPLOYMENT.number):
            device.raw(packet.ljust(20, b"x") + b"x" * 500)
        assert device.ask(payload, 1) == (ANSWERED, label)
    assert gateway.stats.malformed == {"length": -(-len(payload) // 13)}
    assert gateway.stats.counts["messages"] == 1


def test_a_datagram_that_cannot_be_answered_harms_nobody(edge):
    (payload, other), (_, label) = payloads(2)
    with serving(edge) as server, over_udp(server) as gateway:
        with UdpDevice(gateway._link.name) as gone:
            gone.send(payload, 0)
        with UdpDevice(gateway._link.name) as device:
            assert device.ask(other, 1) == (ANSWERED, label)


def test_a_lost_edge_is_told_over_the_link():
    (payload,), _ = payloads(1)
    with over_udp("127.0.0.1:9", timeout_ms=50) as gateway, UdpDevice(gateway._link.name) as device:
        assert device.ask(payload, 0) == device.ask(payload, 1) == (AWAY, 0)


@pytest.mark.parametrize("address", ["", "7700", ":7700", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "::1:7700"])
def test_what_is_no_address(address):
    with pytest.raises(ConfigError, match=r"--udp .* is no address; write HOST:PORT, such as 127\.0\.0\.1:7700"):
        UdpLink(address, 20)


@pytest.mark.parametrize(("address", "reason"), [
    ("no.such.name.invalid:7700", "the name cannot be resolved"), ("192.0.2.1:7700", "cannot receive at"),
    ("x" * 300 + ":7700", "the name cannot be resolved")])
def test_an_address_of_another_machine(address, reason):
    with pytest.raises(LinkError, match=reason):
        UdpLink(address, 20)


def test_a_port_that_is_taken():
    link = UdpLink("127.0.0.1:0", 20)
    with pytest.raises(LinkError, match=r"cannot receive at --udp .*: Address already in use; choose another"):
        UdpLink(link.name.removeprefix("udp://"), 20)
    assert link.is_local
    link.close()
    everywhere = UdpLink("0.0.0.0:0", 20)
    assert not everywhere.is_local
    everywhere.close()


# --- a serial line --------------------------------------------------------------------------------------------------


def test_a_device_on_a_serial_line(edge):
    sent, labels = payloads(50, seed=2)
    with serving(edge) as server, Line() as device, over_serial(server, device.port) as gateway:
        assert gateway._link.name == f"{device.port} at 115200 baud"
        assert [device.ask(payload, i) for i, payload in enumerate(sent)] == [(ANSWERED, label) for label in labels]
    assert gateway.stats.counts["answers"] == 50
    assert not gateway.stats.malformed


def test_noise_on_a_serial_line_costs_what_it_hits_and_nothing_else(edge):
    """10,000 pieces of noise in half a megabyte, and 200 payloads in between, of which every fourth is hit."""
    rng = np.random.default_rng(6)
    good, labels = payloads(200, seed=6)
    hit, answered = [], []
    with serving(edge) as server, Line() as device, over_serial(server, device.port) as gateway:
        for i, payload in enumerate(good):
            noise = b"\0".join(rng.integers(1, 256, rng.integers(1, 100)).astype(np.uint8).tobytes()
                               for _ in range(FRAMES // 200))
            lines = [bytearray(cobs_encode(p)) for p in cut(payload, 20, device=1, message=i,
                                                            deployment=DEPLOYMENT.number)]
            if i % 4 == 3:
                line = lines[rng.integers(len(lines))]
                line[rng.integers(1, len(line) - 1)] ^= 1 << rng.integers(8)
                hit.append(i)
            device.write(noise + b"".join(lines))
            if i % 4 == 3:
                continue
            answered.append((i, device.answer(i)))
        end_s = time.monotonic() + PATIENT_S
        while gateway.stats.counts["packets"] < FRAMES:
            assert time.monotonic() < end_s
            time.sleep(0.01)
    assert answered == [(i, (ANSWERED, labels[i])) for i in range(200) if i not in hit]
    assert edge.seen == [payload for i, payload in enumerate(good) if i not in hit]
    assert server.stats.requests == 150
    assert sum(gateway.stats.malformed.values()) >= FRAMES
    assert len(hit) == 50


def test_a_line_that_takes_no_answers_loses_them_alone(edge):
    (payload,), (label,) = payloads(1)
    with Line() as device:
        link = SerialLink(device.port, 115_200, 20)
        sent = 0
        while link.send(PacketAnswer(1, 0, ANSWERED, 3).encode(DEPLOYMENT.number), None):
            sent += 1
            assert sent < 100_000, "the line never was full"
        for _ in range(10):
            assert not link.send(bytes(9), None)
        while device.receive(0.05):  # the device reads again
            pass
        with serving(edge) as server, running(Gateway(link, DEPLOYMENT, server.endpoint, options())):
            assert device.ask(payload, 200) == (ANSWERED, label)


def test_a_port_that_goes_away_and_comes_back(edge, tmp_path, monkeypatch):
    """As that of a board with USB does when it restarts."""
    monkeypatch.setattr(links, "_OPEN_AGAIN_S", 0.01)
    (payload, other), (label, another) = payloads(2)
    port = tmp_path / "ttyACM0"
    with serving(edge) as server:
        first = Line()
        port.symlink_to(first.port)
        with over_serial(server, str(port)) as gateway:
            assert first.ask(payload, 0) == (ANSWERED, label)
            port.unlink()
            first.close()
            end_s = time.monotonic() + PATIENT_S
            while gateway._link.fileno() >= 0:
                assert time.monotonic() < end_s
                time.sleep(0.01)
            assert not gateway._link.send(bytes(9), None)
            time.sleep(0.05)  # in which it is tried again, and is not there
            with Line() as second:
                port.symlink_to(second.port)
                while gateway._link.fileno() < 0:
                    assert time.monotonic() < end_s
                    time.sleep(0.01)
                assert second.ask(other, 0) == (ANSWERED, another)


@pytest.mark.parametrize(("name", "reason"), [("gone", "No such file or directory"),
                                              ("file", "Could not configure port")])
def test_what_is_no_serial_port(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(LinkError, match=rf"cannot open the serial port --serial .*{reason}.*; check its name"):
        SerialLink(str(tmp_path / name), 115_200, 20)


def test_a_port_that_another_program_has(edge):
    with Line() as device:
        link = SerialLink(device.port, 115_200, 20)
        with pytest.raises(LinkError, match="nobody else does"):
            SerialLink(device.port, 115_200, 20)
        link.close()
        SerialLink(device.port, 115_200, 20).close()


def test_without_pyserial(monkeypatch):
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ConfigError, match=r"^a serial port needs the package pyserial: pip install pyserial$"):
        SerialLink("/dev/ttyACM0", 115_200, 20)


def test_nothing_is_left_open(edge):
    def open_files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    (payload,), _ = payloads(1)
    before = None
    for _ in range(3):
        with serving(edge) as server, Line() as device, over_serial(server, device.port), \
                over_udp(server) as gateway, UdpDevice(gateway._link.name) as other:
            device.ask(payload, 0)
            other.ask(payload, 0)
        before = before or open_files()
    assert open_files() <= before
