"""Two hosts on one machine: network namespaces joined by virtual cables, or loopback where that is not allowed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from autosplit.core.errors import LinkError

__all__ = ["Hosts", "can_make_namespaces", "run", "two_hosts"]

_numbers = itertools.count()


@dataclass(frozen=True)
class Hosts:
    """Where device, proxy and edge run.

    Attributes:
        namespaces: Whether device and edge have a network of their own each.
        device: What a command on the device begins with.
        edge: What a command on the edge begins with.
        cables: For device and edge: name of the namespace, of the cable's end in it, and of the end outside.
        edge_address: Where the edge is reached, by the proxy.
        proxy_address: Where the proxy is reached, by the device.
    """

    namespaces: bool
    device: tuple[str, ...] = ()
    edge: tuple[str, ...] = ()
    cables: tuple[tuple[str, str, str], ...] = ()
    edge_address: str = "127.0.0.1"
    proxy_address: str = "127.0.0.1"


def can_make_namespaces() -> bool:
    """Whether this is root on Linux with iproute2, and the kernel lets it make namespaces and cables."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        with two_hosts(namespaces=True):
            return True
    except LinkError:
        return False


@contextlib.contextmanager
def two_hosts(namespaces: bool) -> Iterator[Hosts]:
    """A device and an edge; their namespaces and cables are gone afterwards.

    Args:
        namespaces: Whether to make namespaces (needs root); else everything talks over loopback.

    Raises:
        LinkError: A namespace or a cable cannot be made.
    """
    if not namespaces:
        yield Hosts(namespaces=False)
        return
    tag = f"{os.getpid() % 100_000}-{next(_numbers)}"
    network = f"10.{20 + os.getpid() % 200}"  # .1.0/24 between device and proxy, .2.0/24 between proxy and edge
    sides = {"device": f"{network}.1", "edge": f"{network}.2"}
    try:
        device, edge = (_join(f"autosplit-{side}-{tag}", f"as{tag}{side[0]}", subnet) for side, subnet in sides.items())
        yield Hosts(True, ("ip", "netns", "exec", device[0]), ("ip", "netns", "exec", edge[0]), (device, edge),
                    edge_address=f"{sides['edge']}.2", proxy_address=f"{sides['device']}.1")
    finally:
        for side in sides:
            for command in (f"link del as{tag}{side[0]}", f"netns del autosplit-{side}-{tag}"):
                subprocess.run(["ip", *command.split()], capture_output=True, check=False)


def _join(name: str, cable: str, subnet: str) -> tuple[str, str, str]:
    """Make a namespace, and a cable from it to ours: .1 at our end, .2 at its; gives all names."""
    inside = f"{cable}i"
    for command in (f"netns add {name}", f"link add {cable} type veth peer name {inside} netns {name}",
                    f"addr add {subnet}.1/24 dev {cable}", f"link set {cable} up",
                    f"-n {name} addr add {subnet}.2/24 dev {inside}", f"-n {name} link set {inside} up",
                    f"-n {name} link set lo up"):
        run("ip", *command.split())
    return name, inside, cable


def run(*command: str) -> None:
    """Run a command that changes the network.

    Raises:
        LinkError: It fails, or is not installed.
    """
    if shutil.which(command[0]) is None:
        raise LinkError(f"`{command[0]}` is not installed: it is a part of iproute2")
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise LinkError(f"`{' '.join(command)}` failed ({' '.join(made.stderr.split())}); use --loopback")
