"""A TCP proxy with a channel in it: bytes come out as late as the radio of a profile would deliver them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from functools import partial
from types import TracebackType

from autosplit.core.errors import LinkError
from autosplit.core.plugins import one_line
from autosplit.core.profiles import ChannelProfile
from autosplit.experiments.emulation.radio import DIRECTIONS, Radio

__all__ = ["Pump", "ShapingProxy"]

_CHUNK = 1 << 16
_CONNECT_S = 10.0


class Pump:
    """One direction of one connection: takes bytes as they come, hands them on packet by packet.

    Bytes that find the channel idle wait for its access delay; those that come while it is busy follow at once.

    Args:
        source: Where bytes come from.
        sink: Where they go.
        radio: The channel; `None` = nothing holds them up.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, radio: Radio | None) -> None:
        self._source, self._sink, self._radio = source, sink, radio
        self._waiting: deque[bytes] = deque()
        self._ended = False
        self._arrived = threading.Condition()

    def start(self) -> None:
        """Start the threads that do it, which end with the connection."""
        targets = (self._pass_on,) if self._radio is None else (self._take, partial(self._hand_on, self._radio))
        for target in targets:
            threading.Thread(target=target, daemon=True).start()

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._source.recv(_CHUNK):
                self._sink.sendall(chunk)
            self._sink.shutdown(socket.SHUT_WR)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._source.recv(_CHUNK):
                with self._arrived:
                    self._waiting.append(chunk)
                    self._arrived.notify()
        with self._arrived:
            self._ended = True
            self._arrived.notify()

    def _hand_on(self, radio: Radio) -> None:
        with contextlib.suppress(OSError):
            while self._wait():
                time_s = radio.start_s(time.monotonic()).item()
                _sleep_until(time_s)  # meanwhile the rest of the message may come
                while packet := self._packet(radio.packet_bytes):
                    time_s = radio.arrival_s(time_s, len(packet)).item()
                    _sleep_until(time_s)
                    self._sink.sendall(packet)
            self._sink.shutdown(socket.SHUT_WR)

    def _wait(self) -> bool:
        """Wait for bytes; whether there are any, or else the source has ended."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._ended)
            return bool(self._waiting)

    def _packet(self, most: int) -> bytes:
        """The next bytes, as many as a packet holds; none where nothing waits."""
        found = bytearray()
        with self._arrived:
            while self._waiting and len(found) < most:
                chunk, room = self._waiting.popleft(), most - len(found)
                found += chunk[:room]
                if len(chunk) > room:
                    self._waiting.appendleft(chunk[room:])
        return bytes(found)


class ShapingProxy:
    """Listens where the device connects, and connects to the edge; a context manager.

    Every connection shares the channel's draws of its direction but not its time: it is meant for one device.

    Args:
        listen: Address and port to listen at; port 0 takes a free one.
        edge: Address and port of the edge.
        channel: What lies between; `None` = nothing, bytes are handed on as they come.
        seed: Of the channel's chance.

    Attributes:
        address: Where it listens, `(host, port)`.
        uplink: The radio from device to edge, if there is a channel.
        downlink: The radio from edge to device, likewise.

    Raises:
        LinkError: It cannot listen there.
    """

    def __init__(self, listen: tuple[str, int], edge: tuple[str, int], channel: ChannelProfile | None,
                 seed: int) -> None:
        self._edge = edge
        self.uplink, self.downlink = (None if channel is None else Radio(channel, direction, seed)
                                      for direction in DIRECTIONS)
        self._open: list[socket.socket] = []
        try:
            self._listener = socket.create_server(listen)
        except OSError as e:
            raise LinkError(f"the proxy cannot listen at {listen[0]}:{listen[1]} ({one_line(e)})") from e
        self.address: tuple[str, int] = self._listener.getsockname()[:2]

    def __enter__(self) -> ShapingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                try:
                    edge = socket.create_connection(self._edge, timeout=_CONNECT_S)
                except OSError:  # the device notices, and tries again
                    device.close()
                    continue
                edge.settimeout(None)
                for each in (device, edge):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [device, edge]
                Pump(device, edge, self.uplink).start()
                Pump(edge, device, self.downlink).start()


def _sleep_until(end_s: float) -> None:
    left_s = end_s - time.monotonic()
    if left_s > 0:
        time.sleep(left_s)
