"""One connection of a device with its edge: a fresh DEALER socket, one session, frames that fit it."""

from __future__ import annotations

import contextlib
import errno
import secrets
import selectors
import socket
import sys
import time
from typing import Any

import zmq

from ..errors import ConfigError, LinkError
from ..protocol.keys import DeviceKeys
from ..protocol.wire import (
    DEVICE_ID_BYTES,
    HEADER_BYTES,
    HEARTBEAT_MS,
    LOGITS,
    MAX_BODY_BYTES,
    MAX_DEADLINE_MS,
    MAX_SEQUENCE,
    SILENCE_MS,
    Frame,
    FrameError,
    Kind,
    Reason,
)

__all__ = ["DISCONNECTED", "EdgeLink", "edge_address", "is_ipv6"]

DISCONNECTED = "disconnected"
"""The reason of replies that a broken connection cost."""

_QUEUE_MESSAGES = 1000
_RECONNECT_MS, _RECONNECT_MAX_MS = 50, 1000
_PROBE_S = 0.3  # in which an edge answers a call, where its name has addresses of both kinds
_DRAIN_S = 0.02  # for frames that have arrived but are none of ours
_LAST_WORDS_MS = 10  # for what was sent before a connection broke
_MAX_WAIT_MS = 3_600_000
_REFUSED_BY_EDGE = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def edge_address(edge: str) -> str:
    """`HOST:PORT` as ZeroMQ writes it; an address with a scheme stays as it is.

    Raises:
        ConfigError: It is neither.
    """
    if "://" in edge:
        return edge
    host, _, port = edge.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16 or (":" in host and not in_brackets):
        raise ConfigError(f"{edge!r} is no address of an edge; write HOST:PORT, such as 192.168.1.20:5555 or "
                          "[fd00::20]:5555")
    return f"tcp://{edge}"


def is_ipv6(address: str) -> bool:
    """Whether an edge is to be reached over IPv6, as its address or the entries of its name say.

    Of a name that has entries of both kinds those are taken that somebody listens at just now, IPv4 where nobody does.

    Raises:
        LinkError: The name has no entry.
    """
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not port.isdigit() or host.startswith("["):  # what is no address ZeroMQ says
        return host.startswith("[")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as e:  # a UnicodeError where it can be no name at all
        reason = (e.strerror if isinstance(e, OSError) else None) or e
        raise LinkError(f"the edge's name {host!r} cannot be resolved ({reason}); check its spelling, or give the "
                        "address itself") from e
    families = {entry[0] for entry in found}
    if len(families) == 1:
        return socket.AF_INET6 in families
    # all at once, as browsers do; the first that is answered is taken
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for family, kind, protocol, _, where in found:
            caller = stack.enter_context(socket.socket(family, kind, protocol))
            caller.setblocking(False)
            if caller.connect_ex(where) in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                selector.register(caller, selectors.EVENT_WRITE, family)
        end_s = time.monotonic() + _PROBE_S
        while selector.get_map() and (left_s := end_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:  # type: ignore[union-attr]
                    return bool(key.data == socket.AF_INET6)
                selector.unregister(key.fileobj)
    return False


class EdgeLink:
    """A connection from its first HELLO until something is lost; then it is closed and another one made.

    The HELLO waits in the socket until the edge can be reached, libzmq tries to connect on its own. So a link opened
    while the edge is away is ready as soon as it is back, without anybody waiting for it.

    Args:
        context: ZeroMQ's.
        address: Of the edge, with its scheme.
        key: `short_key` of the deployment.
        device: Names the device to the edge, 8 bytes.
        keys: CURVE keys, or `None`.
        ipv6: What `is_ipv6` says of the address.

    Attributes:
        opened_s: When (`time.monotonic`).
        max_payload_bytes: What the edge accepts; known once there is a session.

    Raises:
        ConfigError: The address is none.
    """

    def __init__(self, context: zmq.Context[Any], address: str, key: bytes, device: bytes, keys: DeviceKeys | None,
                 ipv6: bool = False) -> None:
        self._key, self._device, self._session, self._sequence = key, device[:DEVICE_ID_BYTES], 0, 0
        self._hello = 0
        self.opened_s, self.max_payload_bytes = time.monotonic(), MAX_BODY_BYTES
        dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option, value in ((zmq.MAXMSGSIZE, HEADER_BYTES + MAX_BODY_BYTES), (zmq.SNDHWM, _QUEUE_MESSAGES),
                              (zmq.RCVHWM, _QUEUE_MESSAGES), (zmq.LINGER, 0), (zmq.IPV6, int(ipv6)),
                              (zmq.RECONNECT_IVL, _RECONNECT_MS), (zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS),
                              (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)):
            dealer.setsockopt(option, value)
        if keys:
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
            dealer.setsockopt(zmq.CURVE_SERVERKEY, keys.edge)
        self._socket = dealer
        # libzmq reconnects without a word; only its monitor tells that a connection broke or that keys were refused
        self._monitor = self._socket.get_monitor_socket(_REFUSED_BY_EDGE | zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._events = 0
        try:
            self._socket.connect(address)
        except zmq.ZMQError as e:
            self.close()
            raise ConfigError(f"{address!r} is no address of an edge ({zmq.strerror(e.errno or 0)}); "
                              "write HOST:PORT") from e
        self.hello()

    @property
    def ready(self) -> bool:
        """Whether the edge has opened a session that can take another request."""
        return self._session != 0 and self._sequence < MAX_SEQUENCE

    def hello(self) -> None:
        """Ask for a session, a new one where there is one."""
        self._session, self._sequence = 0, 0
        # drawn at random, so that a WELCOME to an earlier HELLO of this connection is not taken for the answer
        self._hello = 1 + secrets.randbelow(MAX_SEQUENCE)
        self._send(Frame(Kind.HELLO, self._key, sequence=self._hello, body=self._device))

    def request(self, payload: bytes, *, logits: bool, deadline_ms: float) -> int:
        """Send a payload; returns its sequence number, 0 where the socket takes no more just now."""
        self._sequence += 1  # even where it is not sent: the edge accepts gaps, but no number twice
        sent = self._send(Frame(Kind.REQUEST, self._key, self._session, self._sequence, payload,
                                LOGITS if logits else 0, deadline_ms=min(MAX_DEADLINE_MS, max(1, int(deadline_ms)))))
        return self._sequence if sent else 0

    def ping(self) -> int:
        """Send a PING; returns its sequence number."""
        self._sequence += 1
        self._send(Frame(Kind.PING, self._key, self._session, self._sequence))
        return self._sequence

    def receive(self, until_s: float) -> Frame | None:
        """The next frame for this session.

        What is damaged, or belongs to an earlier session, is skipped. A WELCOME opens the session and is returned;
        a frame of another version or deployment is returned as a refusal that says so.

        Args:
            until_s: How long to wait for it (`time.monotonic`), however many frames for others arrive meanwhile; a time
                in the past takes only what has arrived.
        """
        end_s = max(until_s, time.monotonic() + _DRAIN_S)
        while self._arrived(until_s) and time.monotonic() < end_s:
            parts = self._socket.recv_multipart()
            try:
                frame = Frame.decode(parts[0], self._key)
            except FrameError as e:
                if e.reason in (Reason.VERSION, Reason.KEY):  # the edge's own: it has another bundle, or autosplit
                    return Frame(Kind.REFUSED, self._key, reason=e.reason)
                continue
            if len(parts) == 1 and self._is_ours(frame):
                return frame
        return None

    def broken(self) -> str:
        """Why no more frames will come in this session, in a word; empty where they may."""
        while self._monitor.poll(0):
            self._events |= int.from_bytes(self._monitor.recv_multipart()[0][:2], sys.byteorder)
        if self._events & _REFUSED_BY_EDGE:
            return Reason.HANDSHAKE.word
        return DISCONNECTED if self._events & zmq.EVENT_DISCONNECTED else ""

    def close(self) -> None:
        """End the session, with a BYE if the edge is there, and close the socket."""
        if self._session:
            self._sequence += 1
            self._send(Frame(Kind.BYE, self._key, self._session, self._sequence))
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(100 if self._session else 0)

    def _arrived(self, until_s: float) -> bool:
        """Wait for a message; false when the time is over or the connection has broken."""
        while True:
            wait_ms = max(0, min(_MAX_WAIT_MS, round(1000 * (until_s - time.monotonic()))))
            ready = dict(self._poller.poll(wait_ms))
            if self._socket in ready:
                return True
            # time is over, or an event came: where it means a break, what was sent before it may still arrive
            if self._monitor not in ready or self.broken():
                return bool(self._socket.poll(_LAST_WORDS_MS if ready else 0))

    def _is_ours(self, frame: Frame) -> bool:
        """Whether a frame answers something that was sent in this session; a WELCOME opens it."""
        if frame.kind is Kind.WELCOME:
            if self._session or frame.sequence != self._hello or len(frame.body) != 4 or not frame.session:
                return False
            self._session, self.max_payload_bytes = frame.session, int.from_bytes(frame.body, "big")
            return True
        # a refusal without a session's number: to our HELLO, or of a frame whose session the edge does not know
        if frame.kind is Kind.REFUSED and (not self._session or frame.session == 0):
            return frame.sequence == self._hello if not self._session else 0 < frame.sequence <= self._sequence
        return bool(self._session) and frame.session == self._session and 0 < frame.sequence <= self._sequence

    def _send(self, frame: Frame) -> bool:
        try:
            self._socket.send(frame.encode(), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
