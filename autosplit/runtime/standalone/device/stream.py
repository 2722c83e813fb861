"""Pictures that arrive while others are answered: a queue with deadlines, and what decides over each of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..control.estimates import RECENT
from ..device.choosers import BUFFER, Chooser, Seen
from ..device.client import Answer, DeviceClient
from ..errors import ConfigError
from ..protocol.interfaces import Images

__all__ = ["Outcome", "PictureStream", "Settled"]

Outcome = Literal["answered", "late", "skipped", "dropped"]
"""In time; begun and not in time; passed over on purpose; too old, or too many waited."""


@dataclass(frozen=True)
class Settled:
    """What became of a picture.

    Attributes:
        name: That it was offered with.
        outcome: In a word.
        age_ms: From its arrival until it was settled.
        waited_ms: Of that, until its turn came; all of it where it never came.
        answer: The answer; absent where there was none by the deadline, or it was not tried.
    """

    name: str
    outcome: Outcome
    age_ms: float
    waited_ms: float
    answer: Answer | None = None


@dataclass(frozen=True)
class _Picture:
    name: str
    image: Images
    arrived_s: float


class PictureStream:
    """Answers pictures in the order in which they come, the newest ones where more come than can be answered.

    One thread, a camera's say, offers pictures; another iterates over what became of them:

        device = load_device("bundle")
        with DeviceClient(device, "192.168.1.20:5555") as client:
            stream = PictureStream(client, *chooser_of(device.manifest, device.controller))
            threading.Thread(target=camera, args=(stream.offer,)).start()
            for settled in stream:
                print(settled.name, settled.outcome)

    A picture is dropped when it has grown as old as its deadline, or when more than `buffer` wait, the oldest first.

    Args:
        client: Of a bundle with rates.
        chooser: Decides over each picture.
        deadline_ms: From a picture's arrival to its answer.
        buffer: Pictures that wait at most.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, client: DeviceClient, chooser: Chooser, deadline_ms: float, buffer: int = BUFFER) -> None:
        if not 0 < deadline_ms <= 65_000 or buffer < 1:
            raise ConfigError(f"deadline and buffer are {deadline_ms:g} ms and {buffer} pictures; the first must "
                              "lie in (0, 65000], the second be at least 1")
        self._client, self._chooser, self._deadline_ms, self._buffer = client, chooser, deadline_ms, buffer
        self._waiting: deque[_Picture] = deque()
        self._dropped: deque[Settled] = deque()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._arrived, self._first_s, self._closed = 0, 0.0, False
        self._changed = threading.Condition()

    def offer(self, name: str, image: Images, arrived_s: float | None = None) -> None:
        """Add a picture; never waits.

        Args:
            name: To know it by.
            image: uint8 of shape (C, H, W).
            arrived_s: When it arrived (`time.monotonic`); now by default.
        """
        with self._changed:
            at_s = time.monotonic() if arrived_s is None else arrived_s
            if not self._arrived:
                self._first_s = at_s
            self._arrived += 1
            self._recent.append(at_s)
            self._waiting.append(_Picture(name, image, at_s))
            while len(self._waiting) > self._buffer:
                self._drop(time.monotonic())
            self._changed.notify()

    def close(self) -> None:
        """No more pictures come: what waits is answered, then the iteration ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Settled]:
        ms = self._client.ping()
        if ms is not None:
            self._chooser.pinged(ms, time.monotonic())
        while True:
            turn, dropped, over = self._next()
            yield from dropped
            if turn is not None:
                yield self._settle(*turn)
            elif over:
                return

    def _next(self) -> tuple[tuple[_Picture, Seen] | None, list[Settled], bool]:
        """The picture whose turn it is, if there is one; what was dropped; whether no more come.

        Waits until one of the three is to be told.
        """
        with self._changed:
            while True:
                now_s = time.monotonic()
                while self._waiting and 1000 * (now_s - self._waiting[0].arrived_s) >= self._deadline_ms:
                    self._drop(now_s)
                if self._waiting or self._dropped or self._closed:
                    break
                self._changed.wait()
            dropped, turn = list(self._dropped), None
            self._dropped.clear()
            if self._waiting:
                picture = self._waiting.popleft()
                next_age_ms = 1000 * (now_s - self._waiting[0].arrived_s) if self._waiting else 0.0
                turn = picture, Seen(
                    1000 * (now_s - picture.arrived_s), len(self._waiting), next_age_ms,
                    1000 * (now_s - self._recent[0]), self._arrived, 1000 * (now_s - self._first_s))
            return turn, dropped, self._closed

    def _drop(self, now_s: float) -> None:
        old = self._waiting.popleft()
        age_ms = 1000 * (now_s - old.arrived_s)
        self._dropped.append(Settled(old.name, "dropped", age_ms, age_ms))

    def _settle(self, picture: _Picture, seen: Seen) -> Settled:
        start_s = time.monotonic()
        rate = self._chooser.choose(seen, start_s)
        if rate is None:
            return Settled(picture.name, "skipped", seen.age_ms, seen.age_ms)
        tried = self._client.infer_within(picture.image, self._deadline_ms - seen.age_ms, rate)
        now_s = time.monotonic()
        self._chooser.learn(rate, tried.payload_bytes, tried.reply, tried.encode_ms, now_s)
        age_ms = 1000 * (now_s - picture.arrived_s)
        in_time = tried.answer is not None and age_ms <= self._deadline_ms
        return Settled(picture.name, "answered" if in_time else "late", age_ms, seen.age_ms, tried.answer)
