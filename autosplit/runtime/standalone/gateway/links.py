"""Where packets come from and where answers go: UDP, or a serial port, behind one small interface."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Hashable
from typing import Any, Protocol

from ..errors import ConfigError, LinkError
from .fragments import LineReader, cobs_encode

__all__ = ["PacketLink", "SerialLink", "UdpLink"]

_AT_ONCE = 64  # datagrams read before the edge has its turn again
_READ_BYTES = 4096
_BUFFER_BYTES = 1 << 20  # for bursts; the system may give less
_OPEN_AGAIN_S = 0.5


class PacketLink(Protocol):
    """Packets of many devices. The gateway makes no other thread; nothing here waits."""

    @property
    def name(self) -> str:
        """The link for people, such as `udp://127.0.0.1:7700`."""

    def fileno(self) -> int:
        """What becomes readable when packets come; -1 while there is nothing to wait for."""

    def receive(self) -> list[tuple[Hashable, bytes]]:
        """Packets that have come, each with its source; an empty packet stands for bytes that are none."""

    def send(self, packet: bytes, source: Hashable) -> bool:
        """Send a packet back to a source; false where it could not be sent."""

    def close(self) -> None:
        """Receive nothing more."""


class UdpLink:
    """One datagram, one packet.

    Args:
        address: `HOST:PORT` to receive at; port 0 takes a free one.
        packet_bytes: Longest packet; longer ones come cut to one byte more, so that they can be refused.

    Attributes:
        is_local: Whether only this machine can send to it.

    Raises:
        ConfigError: It is no address.
        LinkError: It cannot be resolved or bound.
    """

    def __init__(self, address: str, packet_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        in_brackets = host.startswith("[") and host.endswith("]")
        if not host or not port.isdigit() or int(port) >= 1 << 16 or (":" in host and not in_brackets):
            raise ConfigError(f"--udp {address!r} is no address; write HOST:PORT, such as 127.0.0.1:7700 or "
                              "[::1]:7700")
        self._most = packet_bytes + 1
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port),
                                                                  type=socket.SOCK_DGRAM)[0]
        except (OSError, ValueError) as e:  # a UnicodeError where it can be no name at all
            raise LinkError(f"--udp {address}: the name cannot be resolved ({getattr(e, 'strerror', None) or e}); give "
                            "an address of this machine") from e
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.bind(where)
        except OSError as e:
            self._socket.close()
            raise LinkError(f"cannot receive at --udp {address}: {e.strerror or e}; choose another address or "
                            "port") from e
        bound = self._socket.getsockname()
        self.is_local = ipaddress.ip_address(bound[0].partition("%")[0]).is_loopback
        self._name = f"udp://{f'[{bound[0]}]' if family == socket.AF_INET6 else bound[0]}:{bound[1]}"

    @property
    def name(self) -> str:
        """As of `PacketLink`."""
        return self._name

    def fileno(self) -> int:
        """As of `PacketLink`."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[Hashable, bytes]]:
        """As of `PacketLink`; a packet's source is its sender's address."""
        found: list[tuple[Hashable, bytes]] = []
        for _ in range(_AT_ONCE):
            try:
                packet, source = self._socket.recvfrom(self._most)
            except BlockingIOError:
                break
            except OSError:  # what came of an earlier answer, such as a port that nobody listens at
                continue
            found.append((source, packet))
        return found

    def send(self, packet: bytes, source: Hashable) -> bool:
        """As of `PacketLink`."""
        try:
            return self._socket.sendto(packet, source) == len(packet)  # type: ignore[call-overload, no-any-return]
        except OSError:  # the system's buffer is full, or there is no way to this address
            return False

    def close(self) -> None:
        """As of `PacketLink`."""
        self._socket.close()


class SerialLink:
    """Packets on a serial port, between zero bytes.

    A port that goes away, as that of a board with USB does whenever the board restarts, is opened again.

    Args:
        port: Its name, such as `/dev/ttyACM0`.
        baud: Bits a second.
        packet_bytes: Longest packet.

    Raises:
        ConfigError: The package pyserial is not installed, or cannot be used here.
        LinkError: The port cannot be opened.
    """

    def __init__(self, port: str, baud: int, packet_bytes: int) -> None:
        try:
            import serial
        except ImportError as e:
            raise ConfigError("a serial port needs the package pyserial: pip install pyserial") from e
        if os.name != "posix":
            raise ConfigError("a serial port can be waited for on Linux and macOS only; run the gateway there, or send "
                              "it datagrams (--udp)")
        import termios  # which other systems lack

        self._serial, self._where, self._baud, self._packet_bytes = serial, port, baud, packet_bytes
        self._faults = (OSError, ValueError, termios.error)  # pyserial's own is an OSError, of baud a ValueError
        self._next_s = 0.0
        self._port: Any = None
        try:
            self._open()
        except self._faults as e:
            code = getattr(e, "errno", None)
            raise LinkError(f"cannot open the serial port --serial {port}: {os.strerror(code) if code else e}; check "
                            "its name (ls /dev/tty*), and that you may use it and nobody else does") from e

    def _open(self) -> None:
        self._port = self._serial.Serial(self._where, self._baud, timeout=0, exclusive=True)
        self._reader = LineReader(self._packet_bytes)

    @property
    def name(self) -> str:
        """As of `PacketLink`."""
        return f"{self._where} at {self._baud} baud"

    def fileno(self) -> int:
        """As of `PacketLink`."""
        return int(self._port.fileno()) if self._port else -1

    def receive(self) -> list[tuple[Hashable, bytes]]:
        """As of `PacketLink`; all packets have the same source."""
        if self._port is None:
            if time.monotonic() < self._next_s:
                return []
            try:
                self._open()
            except self._faults:
                self._next_s = time.monotonic() + _OPEN_AGAIN_S
                return []
        try:
            data = self._port.read(_READ_BYTES)
        except OSError:
            self._lose()
            return []
        return [(None, packet) for packet in self._reader.feed(data)]

    def send(self, packet: bytes, source: Hashable) -> bool:  # noqa: ARG002
        """As of `PacketLink`. An answer that is cut since the line takes no more harms none after it."""
        stuffed = cobs_encode(packet)
        try:
            # not by pyserial, which waits in a loop where the line is full
            return bool(self._port) and os.write(self._port.fileno(), stuffed) == len(stuffed)
        except BlockingIOError:
            return False
        except OSError:
            self._lose()
            return False

    def close(self) -> None:
        """As of `PacketLink`."""
        if self._port:
            self._port.close()
            self._port = None

    def _lose(self) -> None:
        self.close()
        self._next_s = time.monotonic() + _OPEN_AGAIN_S
