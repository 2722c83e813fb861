"""The edge: answers many devices at once over one ROUTER socket.

One thread has the socket: it checks frames, keeps the sessions, refuses invalid frames and passes requests on to
a bounded queue; a full queue is answered with `busy`. Another thread computes them in batches (`batching`), or one for
each process that computes (`processes`). Whatever arrives, nothing here grows without bound.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from ..edge.batching import BatchComputer, BatchQueue, Reply, Request
from ..edge.sessions import Sessions
from ..edge.stats import ServerStats
from ..errors import ConfigError, LinkError
from ..options import ServerOptions
from ..protocol.interfaces import EdgeSide
from ..protocol.keys import EdgeKeys
from ..protocol.wire import (
    DEVICE_ID_BYTES,
    HEADER_BYTES,
    HEARTBEAT_MS,
    LOGITS,
    SILENCE_MS,
    Frame,
    FrameError,
    Kind,
    Reason,
    short_key,
)

__all__ = ["EdgeServer", "ServerOptions"]

_log = logging.getLogger(__name__)
_WELCOME = struct.Struct("!I")
_NO_REPLY = frozenset({Reason.TRUNCATED, Reason.MAGIC, Reason.PARTS})
_AT_ONCE = 64  # frames read before answers are sent again
_MARGIN_BYTES = 1 << 16  # a frame too long by less is refused with a reply, by more its connection is closed
_RECEIVE_MESSAGES, _SEND_MESSAGES = 32, 256  # high-water marks of one connection
_POLL_MS = 500
_HANDSHAKE_MS, _LINGER_MS = 5_000, 500
_HANDSHAKE_FAILURES = (zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
                       | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


class EdgeServer:
    """Serves one bundle until it is stopped.

    `start` (or `with`) binds and returns; two threads then serve. `stop` answers what is queued and ends them. A server
    is used once.

    Args:
        edge: The edge side of a bundle; several of one bundle compute side by side.
        options: How to serve.
        keys: CURVE keys; without them everybody who can connect is served.

    Attributes:
        options: As given.
        stats: What was counted.
        endpoint: The address that it is bound to.
        failed: Whether it ended by a fault of its own; the traceback is in the log.

    Raises:
        ConfigError: Other machines could connect without keys, and `options.insecure` does not say they may.

    Example:
        with EdgeServer(load_edge("bundle")) as server:
            server.wait()
    """

    def __init__(
        self, edge: EdgeSide | Sequence[EdgeSide], options: ServerOptions | None = None, keys: EdgeKeys | None = None
    ) -> None:
        self.options, self.stats = options or ServerOptions(), ServerStats()
        edges = edge if isinstance(edge, Sequence) else [edge]
        self._keys, self._key = keys, short_key(edges[0].manifest.key)
        if not keys and not self.options.is_local:
            if not self.options.insecure:
                raise ConfigError(f"{self.options.bind} can be reached by other machines, and there are no keys: give "
                                  "--keys DIR (made by serve --make-keys DIR), or bind to 127.0.0.1, or say --insecure")
            _log.warning("warning: %s without keys: everybody who reaches it is served, and nothing is encrypted",
                         self.options.bind)
        self._queue = BatchQueue(self.options.queue)
        self._computers = [BatchComputer(each, self._queue, self._computed, self.stats, self.options.max_batch,
                                         self.options.max_wait_ms) for each in edges]
        self._sessions = Sessions(self.options.max_devices, self.options.idle_s, self.options.rate, self.options.burst)
        self._outbox: deque[Reply] = deque()
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-socket", daemon=True)
        self.endpoint, self.failed = "", False

    def start(self) -> EdgeServer:
        """Bind and begin to serve.

        Raises:
            LinkError: The address cannot be bound, such as one that is in use.
        """
        self._context: zmq.Context[Any] = zmq.Context()
        self._wake_out, self._wake_in = socket.socketpair()
        self._authenticator = ThreadAuthenticator(self._context) if self._keys else None
        if self._authenticator and self._keys:
            self._authenticator.start()
            self._authenticator.configure_curve(domain="*", location=str(self._keys.allowed))
        router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),  # a reply that cannot be delivered is an error, to be counted
            (zmq.MAXMSGSIZE, HEADER_BYTES + self.options.max_payload_bytes + _MARGIN_BYTES),
            (zmq.RCVHWM, _RECEIVE_MESSAGES), (zmq.SNDHWM, _SEND_MESSAGES), (zmq.LINGER, _LINGER_MS),
            (zmq.IPV6, int("[" in self.options.bind)), (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS),
        ):
            router.setsockopt(option, value)
        if self._keys:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
            router.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        self._router = router
        # asked for before binding, so that no handshake is missed
        self._monitor = self._router.get_monitor_socket(_HANDSHAKE_FAILURES)
        try:
            self._router.bind(self.options.bind)
        except zmq.ZMQError as e:
            self._close()
            raise LinkError(f"cannot listen on {self.options.bind}: {zmq.strerror(e.errno or 0)}; choose another "
                            "address or port with --bind") from e
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        for computer in self._computers:
            computer.start()
        self._thread.start()
        return self

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has ended; false where that took longer."""
        return self._ended.wait(timeout_s)

    def stop(self) -> None:
        """Answer what is queued, then close everything; safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._wake()
            self._thread.join()

    def __enter__(self) -> EdgeServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    # --- the socket's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        # one loop waits for three things: frames, handshakes that failed, and the computing thread, which wakes it
        poller = zmq.Poller()
        for source in (self._router, self._monitor, self._wake_in):
            poller.register(source, zmq.POLLIN)
        try:
            while not self._stopping.is_set():
                ready = dict(poller.poll(_POLL_MS))
                if self._monitor in ready:
                    while self._monitor.poll(0):
                        self._monitor.recv_multipart()
                        self.stats.refuse(Reason.HANDSHAKE)
                if self._wake_in.fileno() in ready:
                    with contextlib.suppress(OSError):
                        self._wake_in.recv(4096)
                self._deliver()
                if self._router in ready:
                    self._receive()
                self._sessions.forget(time.monotonic())
                self.stats.gauge(len(self._queue), len(self._sessions))
            self._queue.close()
            for computer in self._computers:
                computer.join()
            self._deliver()
        except Exception:
            _log.exception("the edge server stopped")
            self.failed = True
            self._queue.close()
        finally:
            self._close()

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                # not copied where keys are, since what libzmq knows of the sender is attached to its own frame objects
                parts: Sequence[Any] = self._router.recv_multipart(zmq.NOBLOCK, copy=self._keys is None)
            except zmq.Again:
                return
            device = None
            if self._keys:
                device = parts[-1].get("User-Id").encode()
                parts = [part.bytes for part in parts]
            self.stats.count(frames=1)
            if len(parts) != 2:
                self._refuse(parts[0], Reason.PARTS, 0)
            else:
                self._handle(parts[0], parts[1], device, time.monotonic())

    def _handle(self, connection: bytes, data: bytes, device: bytes | None, now_s: float) -> None:
        try:
            frame = Frame.decode(data, self._key, self.options.max_payload_bytes)
        except FrameError as e:
            self._refuse(connection, e.reason, e.sequence)
            return
        reason = self._checked(connection, frame, now_s)
        if reason is not None:
            self._refuse(connection, reason, frame.sequence)
        elif frame.kind is Kind.HELLO:
            # with keys a device is who its key says; without, whoever it claims to be
            number = self._sessions.open(connection, device or frame.body, now_s)
            if isinstance(number, Reason):
                self._refuse(connection, number, frame.sequence)
            else:
                limit = _WELCOME.pack(self.options.max_payload_bytes)
                self._send(connection, Frame(Kind.WELCOME, self._key, number, frame.sequence, limit))
        elif frame.kind is Kind.REQUEST:
            deadline_s = now_s + frame.deadline_ms / 1000 if frame.deadline_ms else math.inf
            request = Request(connection, frame.session, frame.sequence, frame.body, bool(frame.flags & LOGITS), now_s,
                              deadline_s)
            if self._queue.put(request):
                self.stats.count(requests=1)
            else:
                self._refuse(connection, Reason.BUSY, frame.sequence, frame.session)
        elif frame.kind is Kind.PING:
            self._send(connection, Frame(Kind.PONG, self._key, frame.session, frame.sequence))
        else:
            self._sessions.close(connection)

    def _checked(self, connection: bytes, frame: Frame, now_s: float) -> Reason | None:
        """Why a well-formed frame is refused; `None` where it is not."""
        if frame.kind not in (Kind.HELLO, Kind.REQUEST, Kind.PING, Kind.BYE):
            return Reason.KIND
        if frame.kind is Kind.HELLO:
            return Reason.FIELD if len(frame.body) != DEVICE_ID_BYTES or frame.session else None
        if frame.kind is not Kind.REQUEST and frame.body:
            return Reason.FIELD
        return self._sessions.admit(connection, frame.session, frame.sequence, now_s)

    def _refuse(self, connection: bytes, reason: Reason, sequence: int, session: int = 0) -> None:
        self.stats.refuse(reason)
        if reason not in _NO_REPLY:
            self._send(connection, Frame(Kind.REFUSED, self._key, session, sequence, reason=reason))

    def _send(self, connection: bytes, frame: Frame) -> bool:
        try:
            self._router.send_multipart([connection, frame.encode()], zmq.NOBLOCK)
        except zmq.ZMQError:  # the device has left, or does not read its answers
            self.stats.count(dropped=1)
            return False
        return True

    # --- replies --------------------------------------------------------------------------------------------------

    def _computed(self, replies: list[Reply]) -> None:
        """Called by a computing thread, which may not touch the socket: ZeroMQ's sockets are for one thread."""
        self._outbox.extend(replies)
        self._wake()

    def _deliver(self) -> None:
        while self._outbox:
            request, answer = self._outbox.popleft()
            if isinstance(answer, Reason):
                self._refuse(request.connection, answer, request.sequence, request.session)
            elif self._send(request.connection, Frame(Kind.ANSWER, self._key, request.session, request.sequence,
                                                      answer.encode())):
                self.stats.count(answers=1)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full, so that the thread wakes anyhow; or closed
            self._wake_out.send(b"\0")

    def _close(self) -> None:
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(_LINGER_MS)
        if self._authenticator:
            self._authenticator.stop()
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()
        self._ended.set()
