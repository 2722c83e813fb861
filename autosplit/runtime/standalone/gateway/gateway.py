"""The gateway: one loop between a link with packets and a session with the edge.

Packets become payloads (`fragments`), which are checked as the edge would check them before any is sent on; answers go
back in one packet each. The edge sees one device, the gateway, whose keys it has. Nothing waits for anything: while the
edge computes, other packets are taken, and while it is away devices learn so at once. Whatever arrives, nothing here
grows without bound.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import zmq

from ..bundle.manifest import Manifest
from ..device.exchange import TIMEOUT
from ..device.link import EdgeLink, edge_address, is_ipv6
from ..edge.sessions import TokenBucket
from ..errors import ConfigError, PayloadError
from ..options import GatewayOptions
from ..payload.header import rate_of
from ..protocol.keys import DeviceKeys
from ..protocol.wire import EdgeAnswer, Frame, Kind, Reason, short_key
from .fragments import (
    ANSWERED,
    AWAY,
    FRAGMENT_BYTES,
    MAX_FRAGMENTS,
    Fragment,
    FragmentError,
    Message,
    PacketAnswer,
    Reassembler,
    deployment_number,
)
from .links import PacketLink

if TYPE_CHECKING:
    from ..payload.coder import PayloadCoder

__all__ = ["Deployment", "Gateway", "GatewayOptions", "GatewayStats"]

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_MOST_LABEL = (1 << 16) - 1
_ELSEWHERE = frozenset({Reason.KEY, Reason.VERSION})


@dataclass(frozen=True)
class Deployment:
    """What the gateway has to know of a bundle: neither networks nor onnxruntime.

    Attributes:
        key: Identifies the deployment.
        classes: Outputs of the network.
        coders: What makes the payloads of each rate; of the only one where the bundle has no more.
    """

    key: str
    classes: int
    coders: Sequence[PayloadCoder]

    @classmethod
    def load(cls, folder: str | Path) -> Deployment:
        """That of a bundle.

        Raises:
            BundleError: The bundle is incomplete, altered, or of another format version.
            ConfigError: Its payloads have no checksum, it has more classes than an answer can name, or a package is
                not installed.
        """
        from ..bundle.parts import coders_of

        folder, manifest = Path(folder), Manifest.load(folder)
        if manifest.kind != "code":
            # of two images with one number, as a device may send after a restart, the halves would pass for a third
            raise ConfigError(f"{folder}: what crosses in this bundle ({manifest.kind}) has no checksum, so a gateway "
                              "could not tell a mixture of two payloads from one; export a plan that sends a code")
        if manifest.num_classes > _MOST_LABEL + 1:
            raise ConfigError(f"{folder}: {manifest.num_classes} classes; an answer of a gateway names one of "
                              f"{_MOST_LABEL + 1}")
        return cls(manifest.key, manifest.num_classes, coders_of(folder, manifest))

    @property
    def number(self) -> int:
        """What the checksums of packets start from."""
        return deployment_number(self.key)

    @property
    def max_payload_bytes(self) -> int:
        """No payload is longer."""
        return max(coder.max_payload_bytes for coder in self.coders)

    def check(self, payload: bytes) -> None:
        """Refuse bytes that the edge would refuse.

        Raises:
            PayloadError: They are no payload of this deployment.
        """
        rate = rate_of(payload) if len(self.coders) > 1 else 0
        if rate >= len(self.coders):
            raise PayloadError(f"a payload of rate {rate}; this bundle has rates 0 to {len(self.coders) - 1}")
        self.coders[rate].decode(payload)


class GatewayStats:
    """Counters of one gateway.

    Attributes:
        counts: `packets` received, `messages` that came whole, `requests` sent to the edge, `answers` with a label sent
            back, `unsent` (answers that the link or its limit did not take), `late` (replies of the edge to what had
            been given up), and those of `Reassembler`.
        malformed: Packets that are none, by reason.
        refused: Messages answered with a status instead of a label, by reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def wrong(self) -> set[str]:
        """What went wrong so far, a few words for each kind."""
        hints = {"checksum": "checksum: altered, or from another deployment"}
        return ({f"malformed packet ({hints.get(reason, reason)})" for reason in self.malformed}
                | {f"refused payload ({reason})" for reason in self.refused})

    def summary(self) -> dict[str, Any]:
        """Everything as JSON."""
        names = ("packets", "duplicates", "incomplete", "oversized", "evicted", "messages", "requests", "answers",
                 "unsent", "late")
        return {**{name: self.counts[name] for name in names}, "malformed": dict(sorted(self.malformed.items())),
                "refused": dict(sorted(self.refused.items()))}


class Gateway:
    """Takes packets of a link to an edge, and its answers back, until it is told to end. For one thread.

    Args:
        link: Where packets come from; closed by `close`.
        deployment: Of the bundle that the edge serves.
        edge: Where the edge is, `HOST:PORT`.
        options: Limits and timeouts.
        keys: CURVE keys, where the edge has some.

    Attributes:
        stats: What was counted.

    Raises:
        ConfigError: `edge` is no address, or packets of this length cannot carry the deployment's payloads.
        LinkError: The name in `edge` cannot be resolved.
    """

    def __init__(self, link: PacketLink, deployment: Deployment, edge: str, options: GatewayOptions,
                 keys: DeviceKeys | None = None) -> None:
        longest = deployment.max_payload_bytes
        least = -(-longest // MAX_FRAGMENTS) + FRAGMENT_BYTES
        if options.packet_bytes < least:
            raise ConfigError(f"a payload of this bundle has up to {longest} bytes, which {MAX_FRAGMENTS} packets of "
                              f"{options.packet_bytes} bytes cannot carry; give --packet-bytes of at least {least}")
        self.stats = GatewayStats()
        self._link, self._deployment, self._options = link, deployment, options
        self._number = deployment.number
        self._reassembler = Reassembler(longest, options.max_devices, options.assembly_s, options.rate,
                                        self.stats.counts)
        burst = max(1.0, options.answer_rate)
        self._answers = TokenBucket(options.answer_rate, burst, burst, time.monotonic())
        self._session = _EdgeSession(edge, deployment, options, keys, self.stats)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def lost(self) -> str:
        """Why the edge is not asked just now, in a word; empty while it is."""
        return self._session.lost

    def step(self, wait_s: float = _POLL_S) -> None:
        """Wait for packets or for the edge, at most so long, and handle all that has come."""
        poller = zmq.Poller()
        if (number := self._link.fileno()) >= 0:
            poller.register(number, zmq.POLLIN)
        for socket in self._session.sources:
            poller.register(socket, zmq.POLLIN)
        poller.poll(max(0, round(1000 * min(wait_s, self._session.next_s - time.monotonic()))))
        for source, packet in self._link.receive():
            self._take(source, packet, time.monotonic())
        now_s = time.monotonic()
        for message, status, label in self._session.replies(now_s):
            self._reply(message, status, label)
        self._reassembler.forget(now_s)

    def close(self) -> None:
        """Tell the devices that wait that the edge is away, and close everything; safe to call twice."""
        for message in self._session.close():
            self._reply(message, AWAY)
        self._link.close()

    def _take(self, source: Hashable, packet: bytes, now_s: float) -> None:
        self.stats.counts["packets"] += 1
        try:
            fragment = Fragment.decode(packet, self._number, self._options.packet_bytes)
        except FragmentError as e:
            self.stats.malformed[e.reason] += 1
            return
        message = self._reassembler.take(source, fragment, now_s)
        if message is None:
            return
        self.stats.counts["messages"] += 1
        if not message.allowed:
            self._reply(message, Reason.RATE)
            return
        try:
            self._deployment.check(message.payload)
        except PayloadError:
            self._reply(message, Reason.PAYLOAD)
            return
        refused = self._session.ask(message, now_s)
        if refused is not None:
            self._reply(message, refused)

    def _reply(self, message: Message, status: int, label: int = 0) -> None:
        if status != ANSWERED:
            self.stats.refused["away" if status == AWAY else Reason(status).word] += 1
        answer = PacketAnswer(message.device, message.number, status, label).encode(self._number)
        if not self._answers.take(time.monotonic()) or not self._link.send(answer, message.source):
            self.stats.counts["unsent"] += 1
        elif status == ANSWERED:
            self.stats.counts["answers"] += 1


class _PolledLink(EdgeLink):
    """A connection to the edge that can be waited for together with others."""

    @property
    def sources(self) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
        """What becomes readable when `receive` or `broken` have something to say."""
        return self._socket, self._monitor


@dataclass
class _Asked:
    message: Message
    began_s: float


_Outcome = tuple[Message, int, int]  # with status and label


class _EdgeSession:
    """Requests of all devices in one session with the edge.

    One for all, and not one a device: whoever makes up numbers of devices would open connections to the edge. Unlike
    `device.exchange`, which sends a batch and waits for it, this one never waits, and tells of each request when it is
    known what became of it.
    """

    def __init__(self, edge: str, deployment: Deployment, options: GatewayOptions, keys: DeviceKeys | None,
                 stats: GatewayStats) -> None:
        self._address = edge_address(edge)
        self._ipv6 = is_ipv6(self._address)
        self._key, self._classes, self._keys, self._stats = short_key(deployment.key), deployment.classes, keys, stats
        self._timeout_s, self._retry_s, self._limit = options.timeout_ms / 1000, options.retry_s, options.queue
        self._name = secrets.token_bytes(8)
        self._waiting: deque[_Asked] = deque()  # for the session
        self._flight: dict[int, _Asked] = {}  # by sequence number; in order, as `_waiting` is
        self._heard_s = self._hello_s = 0.0
        self.lost = ""
        self._context: zmq.Context[Any] = zmq.Context()
        self._link = self._opened()

    @property
    def sources(self) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
        """What becomes readable when the edge has something to say."""
        return self._link.sources

    @property
    def next_s(self) -> float:
        """When there is something to do though nothing comes (`time.monotonic`)."""
        oldest = self._oldest()
        ends_s = [] if oldest is None else [oldest.began_s + self._timeout_s]
        if not self._link.ready:
            ends_s.append(self._hello_s + (self._retry_s if self.lost else self._timeout_s))
        return min(ends_s, default=float("inf"))

    def ask(self, message: Message, now_s: float) -> int | None:
        """Send a payload to the edge; gives the status to answer at once where it is not sent."""
        if self.lost:
            return AWAY
        if len(self._waiting) + len(self._flight) >= self._limit:
            return Reason.BUSY
        if self._link.ready and len(message.payload) > self._link.max_payload_bytes:
            return Reason.OVERSIZED
        self._waiting.append(_Asked(message, now_s))
        self._send(now_s)
        return None

    def replies(self, now_s: float) -> list[_Outcome]:
        """What became of requests since the last call."""
        found: list[_Outcome] = []
        while (frame := self._link.receive(0.0)) is not None:
            self._heard_s = now_s
            found += self._heard(frame)
        broken = self._link.broken()
        if broken and not self.lost:
            found += self._lose(broken)
        found += self._expired(now_s)
        if not self.lost and not self._link.ready and now_s >= self._hello_s + self._timeout_s:
            found += self._lose(TIMEOUT)
        if self.lost and now_s >= self._hello_s + self._retry_s:
            self._connect_again()
        self._send(now_s)
        return found

    def close(self) -> list[Message]:
        """End the session; gives the messages that were not answered."""
        if not self._context.closed:
            self._link.close()
            self._context.term()
        return self._given_up()

    def _opened(self) -> _PolledLink:
        """A new connection; its HELLO waits until the edge can be reached."""
        self._hello_s = time.monotonic()
        return _PolledLink(self._context, self._address, self._key, self._name, self._keys, self._ipv6)

    def _connect_again(self) -> None:
        self._link.close()
        self._link = self._opened()

    def _given_up(self) -> list[Message]:
        messages = [asked.message for asked in (*self._flight.values(), *self._waiting)]
        self._flight.clear()
        self._waiting.clear()
        return messages

    def _oldest(self) -> _Asked | None:
        # what is in flight was asked before what waits
        return next(iter(self._flight.values()), None) or (self._waiting[0] if self._waiting else None)

    def _send(self, now_s: float) -> None:
        while self._waiting and self._link.ready:
            asked = self._waiting[0]
            left_ms = 1000 * (asked.began_s + self._timeout_s - now_s)
            sequence = self._link.request(asked.message.payload, logits=False, deadline_ms=left_ms)
            if not sequence:  # the socket takes no more just now
                return
            self._stats.counts["requests"] += 1
            self._flight[sequence] = self._waiting.popleft()

    def _heard(self, frame: Frame) -> list[_Outcome]:
        reason = frame.reason
        if reason and (reason in _ELSEWHERE or not self._link.ready):
            return self._lose(reason.word)
        if frame.kind is Kind.WELCOME:
            if self.lost:
                _log.warning("the edge %s is back", self._address)
            self.lost = ""
            return []
        if reason is Reason.SESSION:  # the edge has forgotten us, or is another process than before
            self._waiting.extendleft(reversed(self._flight.values()))
            self._flight.clear()
            self._hello_s = time.monotonic()
            self._link.hello()
            return []
        asked = self._flight.pop(frame.sequence, None)
        if asked is None:
            self._stats.counts["late"] += 1
            return []
        if reason:
            return [(asked.message, reason, 0)]
        try:
            label = EdgeAnswer.decode(frame.body).label
        except PayloadError:
            label = -1
        if frame.kind is not Kind.ANSWER or not 0 <= label < self._classes:
            return [(asked.message, Reason.FAULT, 0)]
        return [(asked.message, ANSWERED, label)]

    def _expired(self, now_s: float) -> list[_Outcome]:
        found: list[_Outcome] = []
        while (asked := self._oldest()) is not None and asked.began_s + self._timeout_s <= now_s:
            if self._heard_s < asked.began_s:  # silent all the while
                return found + self._lose(TIMEOUT)
            if self._flight:
                self._flight.pop(next(iter(self._flight)))
            else:
                self._waiting.popleft()
            found.append((asked.message, Reason.LATE, 0))
        return found

    def _lose(self, reason: str) -> list[_Outcome]:
        """Give up everything that was asked; the edge is tried again at once, then every `retry_s`."""
        if self.lost:
            self.lost = reason
            return []
        _log.warning("no answer from the edge %s (%s); devices are told that it is away until it is back",
                     self._address, reason)
        self.lost = reason
        self._connect_again()
        return [(message, AWAY, 0) for message in self._given_up()]
