"""How an edge serves, and how devices and gateways ask; without pyzmq, so that command lines can be read without it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from .errors import ConfigError
from .gateway.fragments import MAX_PACKET_BYTES, MIN_PACKET_BYTES
from .payload.header import MAX_RATES
from .protocol.wire import MAX_BODY_BYTES

__all__ = ["PROFILE_ENGINES", "PROFILE_SIDES", "PROVIDER", "ClientOptions", "GatewayOptions", "ProfileOptions",
           "ServerOptions"]

PROVIDER = "cpu"
"""The execution provider of onnxruntime that a bundle was exported and compared with."""

PROFILE_SIDES = ("device", "edge")
PROFILE_ENGINES = ("onnxruntime", "c")


@dataclass(frozen=True)
class ServerOptions:
    """How an edge serves.

    Attributes:
        bind: Address, `tcp://HOST:PORT`; port 0 takes a free one.
        max_batch: Most requests computed at once.
        max_wait_ms: How long the first request of a batch waits for others; with 0 those that come while a batch is
            computed make up the next.
        queue: Most requests that wait; above it devices get the reply `busy`.
        max_payload_bytes: Longest payload.
        rate: Frames a second of one device; 0 = no limit.
        burst: Frames of one device at once; 0 = as many as `rate` allows in a second.
        max_devices: Most devices, and most connections, that have a session.
        idle_s: After so long without a frame a device is forgotten; it may come back.
        insecure: Whether other machines may connect although there are no keys.

    Raises:
        ConfigError: A number is out of its range.
    """

    bind: str = "tcp://127.0.0.1:5555"
    max_batch: int = 16
    max_wait_ms: float = 0.0
    queue: int = 256
    max_payload_bytes: int = 1 << 20
    rate: float = 1000.0
    burst: float = 0.0
    max_devices: int = 1024
    idle_s: float = 60.0
    insecure: bool = False

    def __post_init__(self) -> None:
        _check(self, max_batch=(1, 65_535), max_wait_ms=(0, 60_000), queue=(1, 1_000_000),
               max_payload_bytes=(1, MAX_BODY_BYTES), rate=(0, math.inf), burst=(0, math.inf),
               max_devices=(1, 1_000_000), idle_s=(0.001, math.inf))
        if 0 < self.burst < 1:
            raise ConfigError(f"burst must be 0 or at least 1, got {self.burst:g}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect to the address.

        Raises:
            ConfigError: `bind` is no address.
        """
        scheme, _, rest = self.bind.partition("://")
        host, _, port = rest.rpartition(":")
        if scheme == "ipc" and rest:
            return True
        valid_port = port == "*" or (port.isdigit() and int(port) < 1 << 16)
        if scheme != "tcp" or not host or not valid_port:
            raise ConfigError(f"{self.bind!r} is no address to bind to; write tcp://HOST:PORT, such as "
                              "tcp://127.0.0.1:5555")
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True)
class ClientOptions:
    """How a device asks.

    Attributes:
        timeout_ms: The longest wait for the edge, per image.
        retry_s: How often a lost edge is tried again; in between nothing is waited for.
        window: Most requests in flight at once.
        fallback: Whether the device answers itself where the edge does not, if its bundle can.
        logits: Whether the edge shall send all logits (4 bytes each) beside the label.
        adaptive: Whether to change between the rates of the bundle as the link changes; one image at a time is then
            in flight, whatever `window` says.
        rate: The rate that images are encoded at; the one that the bundle starts with where left out.

    Raises:
        ConfigError: A number is out of its range, or a rate is named and to be changed.
    """

    timeout_ms: float = 1000.0
    retry_s: float = 1.0
    window: int = 16
    fallback: bool = True
    logits: bool = False
    adaptive: bool = False
    rate: int | None = None

    def __post_init__(self) -> None:
        _check(self, timeout_ms=(1, 65_000), retry_s=(0, 86_400), window=(1, 1024))
        if self.rate is not None:
            _check(self, rate=(0, MAX_RATES - 1))
        if self.adaptive and self.rate is not None:
            raise ConfigError(f"rate {self.rate} is named and adaptive is asked for; choose one of them")


@dataclass(frozen=True)
class GatewayOptions:
    """How a gateway takes packets of devices that have only a radio or a serial line, and asks an edge for them.

    Attributes:
        udp: Where datagrams come, `HOST:PORT`; port 0 takes a free one.
        serial: Name of a serial port, such as `/dev/ttyACM0`. Either this or `udp` is given.
        baud: Bits a second of the serial port.
        packet_bytes: Longest packet that is taken; devices may send shorter ones.
        timeout_ms: The longest wait for the edge, per payload; after it the device is told.
        retry_s: How often a lost edge is tried again; in between devices are told at once that it is away.
        assembly_s: How long a payload may take from its first packet to its last.
        rate: Payloads a second of one device; 0 = no limit.
        answer_rate: Answers a second that the link back may carry; 0 = no limit.
        max_devices: Most devices that are remembered; beyond it that which was silent longest is forgotten.
        queue: Most payloads that wait for the edge; above it devices get the reply `busy`.

    Raises:
        ConfigError: A number is out of its range, or packets would come from nowhere or from two places.
    """

    udp: str = ""
    serial: str = ""
    baud: int = 115_200
    packet_bytes: int = 255
    timeout_ms: float = 1000.0
    retry_s: float = 1.0
    assembly_s: float = 10.0
    rate: float = 20.0
    answer_rate: float = 0.0
    max_devices: int = 1024
    queue: int = 256

    def __post_init__(self) -> None:
        if bool(self.udp) == bool(self.serial):
            raise ConfigError(f"packets would come from {'two places' if self.udp else 'nowhere'}; give one of --udp "
                              "HOST:PORT and --serial PORT")
        # a device that was forgotten begins with a full allowance, so it is remembered until it has one anyhow
        _check(self, baud=(50, 10_000_000), packet_bytes=(MIN_PACKET_BYTES, MAX_PACKET_BYTES), timeout_ms=(1, 65_000),
               retry_s=(0.01, 86_400), assembly_s=(1, 3600), rate=(0, math.inf), answer_rate=(0, math.inf),
               max_devices=(1, 1_000_000), queue=(1, 1_000_000))


@dataclass(frozen=True)
class ProfileOptions:
    """What of a bundle is timed, and how.

    Attributes:
        side: Whose networks: those of the `device`, or of the `edge`.
        engine: `onnxruntime`, or the `c` sources of the bundle, compiled here.
        threads: Of onnxruntime.
        repeats: Passes through each network at most, three times.
        clock_mhz: Ticks a microsecond of the counter of a board, whose log is read instead.
        active_mw: Power of the machine while computing, if it is known.
        idle_mw: Power while waiting, if it is known.

    Raises:
        ConfigError: A number is out of its range, or a word is unknown.
    """

    side: str = "device"
    engine: str = "onnxruntime"
    threads: int = 1
    repeats: int = 60
    clock_mhz: float | None = None
    active_mw: float | None = None
    idle_mw: float | None = None

    def __post_init__(self) -> None:
        for name, words in (("side", PROFILE_SIDES), ("engine", PROFILE_ENGINES)):
            if getattr(self, name) not in words:
                raise ConfigError(f"{name} must be {' or '.join(words)}, got {getattr(self, name)!r}")
        _check(self, threads=(1, 1024), repeats=(10, 100_000))
        given = {name: bounds for name, bounds in (("clock_mhz", (1e-3, 1e5)), ("active_mw", (0, 1e9)),
                                                   ("idle_mw", (0, 1e9))) if getattr(self, name) is not None}
        _check(self, **given)


def _check(options: object, **ranges: tuple[float, float]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")
