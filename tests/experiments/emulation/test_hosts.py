"""Namespaces that are there, reach each other only through us, and are gone afterwards."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from autosplit.core.errors import LinkError
from autosplit.experiments.emulation import hosts
from autosplit.experiments.emulation.hosts import can_make_namespaces, two_hosts
from autosplit.experiments.emulation.links import KernelLink


def test_without_namespaces_all_is_loopback():
    with two_hosts(namespaces=False) as found:
        assert (found.device, found.edge, found.edge_address) == ((), (), "127.0.0.1")


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root on Linux with iproute2")
def test_namespaces_reach_us_and_not_each_other():
    with two_hosts(namespaces=True) as found:
        device = subprocess.run([*found.device, "ip", "route", "get", found.proxy_address], capture_output=True,
                                check=False)
        across = subprocess.run([*found.device, "ip", "route", "get", found.edge_address], capture_output=True,
                                check=False)
        assert device.returncode == 0
        assert across.returncode != 0
        names = [found.device[-1], found.edge[-1]]
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in left for name in names)


def test_a_program_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(hosts.shutil, "which", lambda name: None)
    assert not can_make_namespaces()
    with pytest.raises(LinkError, match="`ip` is not installed"), two_hosts(namespaces=True):
        pass


def test_what_fails_is_named(monkeypatch):
    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Operation not permitted\n")

    monkeypatch.setattr(hosts.subprocess, "run", refused)
    with pytest.raises(LinkError, match=r"`ip netns add .*` failed \(Operation not permitted\); use --loopback"), \
            two_hosts(namespaces=True):
        pass


def has_bucket():
    try:
        with two_hosts(namespaces=True) as found, KernelLink(100).between(found, ("127.0.0.1", 1), 0):
            return True
    except LinkError:
        return False


@pytest.mark.skipif(not can_make_namespaces() or not has_bucket(), reason="needs a kernel with the filter tbf")
def test_the_kernels_bucket_lets_one_packet_through_and_then_its_rate():
    link, message = KernelLink(400), bytes(1 << 12)
    with two_hosts(namespaces=True) as found, socket.create_server(("127.0.0.1", 0)) as edge, \
            link.between(found, edge.getsockname(), 0) as (host, port):
        sender = subprocess.Popen([*found.device, sys.executable, "-c", "import socket, time; "
                                   f"c = socket.create_connection(({host!r}, {port})); time.sleep(0.5); "
                                   "print(time.monotonic(), flush=True); "
                                   f"c.sendall(bytes({len(message)})); c.recv(1)"], stdout=subprocess.PIPE, text=True)
        device, _ = edge.accept()
        received = 0
        while received < len(message):
            received += len(device.recv(65536))
        end_s = time.monotonic()
        device.close()
        begun_s = float(sender.communicate()[0])
    assert end_s - begun_s >= 0.95 * link.counted_bytes(len(message)) * 8 / 400e3


def test_loopback_has_no_bucket():
    with two_hosts(namespaces=False) as found, pytest.raises(LinkError, match="leave --tbf-kbps away"), \
            KernelLink(100).between(found, ("127.0.0.1", 1), 0):
        pass
