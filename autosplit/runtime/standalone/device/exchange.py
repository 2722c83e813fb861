"""Payloads sent and answers collected over one link: several requests in flight, none waited for too long."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..device.link import EdgeLink
from ..errors import PayloadError
from ..protocol.wire import EdgeAnswer, Frame, Kind, Reason

__all__ = ["TIMEOUT", "Exchange", "Reply"]

TIMEOUT = "timeout"
"""The reason of replies to which the edge was silent."""

_LATER = frozenset({Reason.BUSY, Reason.RATE})
_ELSEWHERE = frozenset({Reason.KEY, Reason.VERSION})
_BACKOFF_S, _BACKOFF_MAX_S = 0.005, 0.1
_FULL_S = 0.01  # after which a socket that took no more is tried again


@dataclass(frozen=True)
class Reply:
    """What became of one payload.

    Attributes:
        waited_ms: From when it was first its turn until the answer, or until there would be none.
        answer: What the edge answered.
        reason: Why it did not, in a word of `Reason`, or `TIMEOUT`.
    """

    waited_ms: float
    answer: EdgeAnswer | None = None
    reason: str = ""


class Exchange:
    """Sends payloads over a link and waits for their answers. Used once.

    Requests that the edge was too busy for are sent again, fewer at a time and at growing intervals, until their time
    is over.

    Args:
        link: The connection; its session need not be open yet.
        payloads: What to send.
        timeout_s: The longest wait for one payload, from when it is its turn.
        window: Most requests in flight.
        logits: Whether answers shall hold all logits.
        classes: Outputs of the network; an answer that does not fit is none.
        patient: Whether an edge that did not answer in time is taken to be there still, if it has opened a session: as
            where pictures have short deadlines.
    """

    def __init__(self, link: EdgeLink, payloads: Sequence[bytes], *, timeout_s: float, window: int, logits: bool,
                 classes: int, patient: bool = False) -> None:
        self._link, self._payloads, self._timeout_s = link, payloads, timeout_s
        self._window, self._logits, self._classes, self._patient = window, logits, classes, patient
        self._room = float(window)  # for requests in flight: less when the edge is busy, and slowly more again
        self._waiting = list(range(len(payloads)))  # a heap, so that none is overtaken for long
        self._flight: dict[int, int] = {}  # sequence number -> index
        self._started: dict[int, float] = {}  # index -> when it was first its turn
        self._put_off: dict[int, str] = {}  # index -> why the edge asked for it later
        self._not_before_s, self._backoff_s = 0.0, _BACKOFF_S
        self._full = False
        self._heard_s = -math.inf
        self._replies: dict[int, Reply] = {}
        self.lost = ""

    def run(self) -> list[Reply]:
        """One reply for each payload.

        Afterwards `lost` says why the link can no longer be used; it is empty where it can.
        """
        while not self.lost:
            self._send()
            if len(self._replies) == len(self._payloads):
                break
            now_s = time.monotonic()
            # until whatever comes first: a frame, the time to send more, or the end of a wait
            could_send = self._waiting and self._link.ready and len(self._flight) < int(self._room)
            next_send_s = max(self._not_before_s, now_s + _FULL_S if self._full else 0.0) if could_send else math.inf
            next_end_s = min((self._started[i] for i in self._open()), default=now_s) + self._timeout_s
            frame = self._link.receive(min(next_send_s, next_end_s))
            if frame is not None:
                self._heard_s = time.monotonic()
                self._take(frame)
            else:
                self.lost = self._link.broken()
            if frame is None or time.monotonic() >= next_end_s:  # which frames that answer nothing do not put off
                self._expire()
        for index in range(len(self._payloads)):
            if index not in self._replies:
                self._end(index, reason=self.lost)
        return [self._replies[i] for i in range(len(self._payloads))]

    def _send(self) -> None:
        now_s = time.monotonic()
        if self._waiting:  # its time begins to run even if nothing can be sent just now
            self._started.setdefault(self._waiting[0], now_s)
        if now_s < self._not_before_s:
            return
        while self._waiting and len(self._flight) < int(self._room) and self._link.ready:
            index = self._waiting[0]
            left_s = self._started.setdefault(index, now_s) + self._timeout_s - now_s
            if len(self._payloads[index]) > self._link.max_payload_bytes:
                self._end(heapq.heappop(self._waiting), reason=Reason.OVERSIZED.word)
                continue
            sequence = self._link.request(self._payloads[index], logits=self._logits, deadline_ms=1000 * left_s)
            self._full = not sequence
            if self._full:
                return
            self._flight[sequence] = heapq.heappop(self._waiting)

    def _open(self) -> list[int]:
        """Payloads that were sent, or would be next."""
        return [*self._flight.values(), *(i for i in self._waiting if i in self._started)]

    def _expire(self) -> None:
        """End what was waited for long enough."""
        now_s = time.monotonic()
        for index in [i for i in self._open() if self._started[i] + self._timeout_s <= now_s]:
            # an edge that said `busy` a moment ago is there; one that said nothing at all is lost, with all that waits
            said_busy = index in self._put_off and self._heard_s + self._timeout_s > now_s
            if not said_busy and not (self._patient and self._link.ready):
                self.lost = self.lost or TIMEOUT
                return
            if index in self._waiting:
                self._waiting.remove(index)
                heapq.heapify(self._waiting)
            self._flight = {s: i for s, i in self._flight.items() if i != index}
            self._end(index, reason=self._put_off.get(index, TIMEOUT))

    def _take(self, frame: Frame) -> None:
        reason = frame.reason
        if reason and (reason in _ELSEWHERE or not self._link.ready):
            self.lost = reason.word
        elif reason is Reason.SESSION:  # the edge has forgotten us, or is another process than before
            for index in self._flight.values():
                heapq.heappush(self._waiting, index)
            self._flight.clear()
            self._link.hello()
        elif frame.sequence not in self._flight:
            return  # the late answer to a request that was given up
        elif reason:
            self._refused(self._flight.pop(frame.sequence), reason)
        elif frame.kind is Kind.ANSWER:
            index = self._flight.pop(frame.sequence)
            try:
                answer = EdgeAnswer.decode(frame.body)
            except PayloadError:
                answer = None
            if answer is None or answer.label >= self._classes or (
                    self._logits and (answer.logits is None or answer.logits.size != self._classes)):
                self._end(index, reason=Reason.FAULT.word)
                return
            # additive increase, multiplicative decrease, as TCP shares a line: one request more each round trip, half
            # as many once the edge says that it is too busy
            self._backoff_s = _BACKOFF_S
            self._room = min(float(self._window), self._room + 1 / self._room)
            self._end(index, answer)

    def _refused(self, index: int, reason: Reason) -> None:
        if reason not in _LATER:
            self._end(index, reason=reason.word)
            return
        self._put_off[index] = reason.word
        heapq.heappush(self._waiting, index)
        now_s = time.monotonic()
        if now_s >= self._not_before_s:  # once for all that were sent together
            self._not_before_s = now_s + self._backoff_s
            self._backoff_s = min(_BACKOFF_MAX_S, 2 * self._backoff_s)
            self._room = max(1.0, self._room / 2)

    def _end(self, index: int, answer: EdgeAnswer | None = None, reason: str = "") -> None:
        waited_ms = 1000 * (time.monotonic() - self._started[index]) if index in self._started else 0.0
        self._replies[index] = Reply(waited_ms, answer, reason)
