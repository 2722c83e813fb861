"""Bytes through the proxy: all of them, in order, never too early."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from autosplit.core.errors import LinkError
from autosplit.experiments.emulation.proxy import ShapingProxy
from tests.latency.channels import moving

MESSAGE = bytes(range(256)) * 8


@pytest.fixture
def echo():
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    while chunk := peer.recv(65536):
                        peer.sendall(chunk)
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()


def there_and_back(address, message):
    begun = time.monotonic()
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(message)
        found = b""
        while len(found) < len(message):
            found += client.recv(65536)
    return found, time.monotonic() - begun


def test_nothing_is_lost_and_nothing_is_early(echo):
    channel = moving(uplink_kbps=400, downlink_kbps=1000, packet_loss=0.2, access_ms_p50=5, access_ms_p95=5,
                     retransmit_ms=2)
    with ShapingProxy(("127.0.0.1", 0), echo, channel, seed=0) as proxy:
        for _ in range(2):
            found, seconds = there_and_back(proxy.address, MESSAGE)
            assert found == MESSAGE
            packets = -(-len(MESSAGE) // 200)
            least_ms = 5 + (len(MESSAGE) + packets * 25) * 8 / 400  # the last packet comes down alone, at least
            assert seconds >= least_ms / 1000
        assert proxy.uplink.lost_packets > 0
        assert proxy.uplink.sent_packets - proxy.uplink.lost_packets >= 2 * packets


def test_a_proxy_without_an_edge_closes_what_connects():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with (ShapingProxy(("127.0.0.1", 0), address, moving(), seed=0) as proxy,
          socket.create_connection(proxy.address, timeout=20) as client):
        assert client.recv(1) == b""


def test_an_address_in_use_is_named(echo):
    with pytest.raises(LinkError, match=f"cannot listen at 127.0.0.1:{echo[1]}"):
        ShapingProxy(echo, echo, moving(), seed=0)
