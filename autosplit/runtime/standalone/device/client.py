"""The device: sends images to the edge, and answers itself while there is none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
import zmq

from ..device.exchange import TIMEOUT, Exchange, Reply
from ..device.link import DISCONNECTED, EdgeLink, edge_address, is_ipv6
from ..device.switch import RateSwitch
from ..errors import ConfigError, LinkError
from ..options import ClientOptions
from ..protocol.interfaces import DeviceSide, Images, Logits
from ..protocol.keys import DeviceKeys
from ..protocol.wire import EdgeAnswer, Kind, Reason, short_key

__all__ = ["Answer", "Attempt", "ClientOptions", "DeviceClient", "StageMs", "Where"]

Where = Literal["edge", "exit", "fallback", "device"]
"""Who answered: the edge; the exit on the device, being sure; the device as no edge did; the device as planned."""

_REMEDIES = {
    TIMEOUT: "it is not there, cannot be reached or is too slow; start it with serve, or raise --timeout-ms",
    DISCONNECTED: "it ended, the network broke, or it wants keys; start it again with serve, or give --keys",
    "handshake": "its keys do not go with ours; use keys made by serve --make-keys",
    "key": "it serves another bundle; use the two halves of one",
    "version": "it speaks another version of the protocol; use one autosplit version at both ends",
    "busy": "it has too much to do; ask less often, or raise its --queue",
    "rate": "we ask more often than it allows; ask less often, or raise its --rate",
    "full": "it serves as many devices as it may; raise its --max-devices",
    "oversized": "our payload is longer than it accepts; raise its --max-payload-bytes",
    "payload": "our payload is none of its bundle; use the two halves of one",
    "late": "it could not answer in time; raise --timeout-ms",
    "fault": "it failed on our payload; see its log",
}


@dataclass(frozen=True)
class StageMs:
    """Milliseconds of one answer. Stages of images that were encoded together share that time evenly.

    Attributes:
        encode: Head, exit and encoder on the device.
        link: Both ways between device and edge; where there was no answer, the whole wait for it.
        queue: Waiting at the edge for its batch.
        edge: Its batch, computed at the edge.
        local: The whole network on the device.
        total: All of them.
    """

    encode: float = 0.0
    link: float = 0.0
    queue: float = 0.0
    edge: float = 0.0
    local: float = 0.0

    @property
    def total(self) -> float:
        """From image to label."""
        return self.encode + self.link + self.queue + self.edge + self.local


@dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        label: Its class.
        where: Where the network's end ran.
        reason: Why it was not the edge, where `where` is `fallback`; else empty.
        payload_bytes: Length of its payload, without the frame's header; 0 where nothing had to be sent.
        ms: Time of each stage.
        logits: float32 (classes,); from the edge only if they were asked for.
        rate: That it was encoded at, where the bundle has rates.
    """

    label: int
    where: Where
    reason: str
    payload_bytes: int
    ms: StageMs
    logits: Logits | None = None
    rate: int | None = None


@dataclass(frozen=True)
class Attempt:
    """How an image fared that had to be answered within some time.

    Attributes:
        answer: The answer; absent where there was none.
        payload_bytes: Of its payload.
        encode_ms: What the device took for head, exit and encoder.
        reply: Of the edge, or why there is none.
    """

    answer: Answer | None
    payload_bytes: int
    encode_ms: float
    reply: Reply


class DeviceClient:
    """A device and its connection to an edge, for one thread.

    The first image connects. An edge that is silent for `timeout_ms`, or whose connection breaks, counts as lost:
    images are then answered by the fallback at once (or `LinkError` is raised at once), while every `retry_s` a new
    connection is begun in the background. The first image after the edge has said it is back goes there again.

    With `options.adaptive`, images go one by one, each at the rate that the bundle's table has for the link as the
    exchanges before it showed it.

    Args:
        device: The device side of a bundle.
        edge: Where the edge is, `HOST:PORT`; empty = there is none, which only a plan that ends on the device allows.
        options: How to ask.
        keys: CURVE keys, where the edge has some.

    Attributes:
        lost: Why the edge is not asked just now, in a word; empty while it is.
        switch: What is known of the link, and the rate that follows from it; `None` where the rate stays.

    Raises:
        ConfigError: `edge` is no address, or missing, or the bundle lacks what the options ask for.
        LinkError: The name in `edge` cannot be resolved.

    Example:
        with DeviceClient(load_device("bundle"), "192.168.1.20:5555") as client:
            print(client.infer(image).label)
    """

    def __init__(self, device: DeviceSide, edge: str = "", options: ClientOptions | None = None,
                 keys: DeviceKeys | None = None) -> None:
        if not edge and not device.answers:
            raise ConfigError("this bundle needs an edge; name it with --edge HOST:PORT")
        self.options, self._device, self._keys = options or ClientOptions(), device, keys
        self._address = edge_address(edge) if edge else ""
        self._ipv6 = is_ipv6(self._address)
        # without keys an edge tells devices apart by this name alone, so it is drawn anew for each client
        self._key, self._name = short_key(device.manifest.key), secrets.token_bytes(8)
        self._shape, self._classes = tuple(device.manifest.image_shape), int(device.manifest.num_classes)
        self._context: zmq.Context[Any] = zmq.Context()
        self._link: EdgeLink | None = None
        self.lost = ""
        self.switch = RateSwitch(device.manifest) if self.options.adaptive else None
        rates = len(getattr(device.manifest, "rates", ()))  # which made-up halves may lack
        rate = self.options.rate
        if rate is not None and rate >= rates:
            raise ConfigError(f"this bundle has {rates or 'no'} rates, counted from 0; there is no rate {rate}")
        self._rate = None if not rates else device.manifest.start if rate is None else rate

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the session and close the connection; safe to call twice."""
        if self._link:
            self._link.close()
            self._link = None
        self._context.term()

    def ping(self) -> float | None:
        """Milliseconds to the edge and back; `None` where it does not answer within the timeout, or there is none.

        Also tries an edge that counts as lost, without regard to `retry_s`.
        """
        if not self._address:
            return None
        end_s = time.monotonic() + self.options.timeout_ms / 1000
        link = self._connect() if self.lost or not self._link or self._link.broken() else self._link
        sequence, start_s = 0, time.monotonic()
        while True:
            if link.ready and not sequence:
                sequence, start_s = link.ping(), time.monotonic()
            frame = link.receive(end_s) if time.monotonic() < end_s else None
            if frame and frame.reason is Reason.SESSION and link.ready:  # the edge has forgotten us
                link.hello()
                sequence = 0
            elif frame is None or frame.reason:
                self.lost = frame.reason.word if frame and frame.reason else link.broken() or TIMEOUT
                self._connect()
                return None
            elif frame.kind is Kind.PONG and frame.sequence == sequence:
                self.lost = ""
                return 1000 * (time.monotonic() - start_s)

    @overload
    def infer(self, images: Images) -> Answer: ...

    @overload
    def infer(self, images: Sequence[Images]) -> list[Answer]: ...

    def infer(self, images: Images | Sequence[Images]) -> Answer | list[Answer]:
        """Classify an image, or several.

        Args:
            images: uint8 of shape (C, H, W) for one answer, or (N, C, H, W), or a list, for a list of them.

        Raises:
            ConfigError: The images are not what the bundle was made for.
            LinkError: The edge did not answer, and there is no fallback.
        """
        try:
            batch = np.asarray(images)
        except ValueError as e:
            raise ConfigError(f"the images must all have the shape {self._shape}") from e
        single = batch.ndim == len(self._shape)
        if single:
            batch = batch[None]
        if batch.dtype != np.uint8 or batch.shape[1:] != self._shape:
            raise ConfigError(f"an image of this bundle is uint8 of shape {self._shape}, got {batch.dtype} "
                              f"{batch.shape[1:]}")
        if not len(batch):
            return []
        if self._device.answers:
            start_s = time.monotonic()
            rows = self._device.logits(batch)
            spent = StageMs(local=1000 * (time.monotonic() - start_s) / len(batch))
            answers = [Answer(int(row.argmax()), "device", "", 0, spent, row) for row in rows]
        elif self.switch is None:
            answers = self._split(batch, self._rate)
        else:  # one by one, so that each image has the rate that those before it taught
            answers = []
            for i in range(len(batch)):
                # a PING first where there is no session yet, so that its handshake is not taken for a slow link
                if not self.lost and not (self._link and self._link.ready):
                    ms = self.ping()
                    if ms is not None:
                        self.switch.pinged(ms, time.monotonic())
                answers += self._split(batch[i : i + 1], self.switch.rate)
        return answers[0] if single else answers

    def infer_within(self, image: Images, within_ms: float, rate: int | None = None) -> Attempt:
        """Classify one image, if that takes no longer than so long.

        An edge that has not answered by then does not count as lost, as it does in `infer`: where deadlines are short
        the next image may fare better. One that is lost for other reasons is tried again every `retry_s`; until then
        the fallback answers, where there is one.

        Args:
            image: uint8 of shape (C, H, W).
            within_ms: From now, the device's own work included.
            rate: That it is encoded at, where the bundle has some; the one of the options by default.
        """
        if self._device.answers:
            answer = self.infer(image)
            return Attempt(answer, 0, answer.ms.total, Reply(0.0))
        start_s = time.monotonic()
        batch = np.asarray(image)[None]
        rate = self._rate if rate is None else rate
        (payload,), sure = self._device.begin(batch, rate)
        encode_ms = 1000 * (time.monotonic() - start_s)
        if sure is not None and not payload:
            answer = Answer(int(sure[0].argmax()), "exit", "", 0, StageMs(encode_ms), sure[0], rate)
            return Attempt(answer, 0, encode_ms, Reply(0.0))
        left_ms = within_ms - encode_ms
        reply = Reply(0.0, reason=TIMEOUT) if left_ms <= 0 else self._ask([payload], left_ms)[0]
        if reply.answer:
            return Attempt(_answered(reply, reply.answer, payload, encode_ms, rate), len(payload), encode_ms, reply)
        left_ms -= reply.waited_ms
        logits = self._device.fallback(batch) if self.options.fallback and self.lost and left_ms > 0 else None
        if logits is None:
            return Attempt(None, len(payload), encode_ms, reply)
        local_ms = 1000 * (time.monotonic() - start_s) - encode_ms - reply.waited_ms
        answer = Answer(int(logits[0].argmax()), "fallback", reply.reason, len(payload),
                        StageMs(encode_ms, reply.waited_ms, local=local_ms), logits[0], rate)
        return Attempt(answer, len(payload), encode_ms, reply)

    def _split(self, batch: Images, rate: int | None) -> list[Answer]:
        """Answers by the edge, and by the fallback where it gives none."""
        start_s = time.monotonic()
        payloads, sure = self._device.begin(batch, rate)
        encode_ms = 1000 * (time.monotonic() - start_s) / len(batch)
        # what the exit is sure of is not sent
        sent = [i for i, payload in enumerate(payloads) if payload or sure is None]
        replies = dict(zip(sent, self._ask([payloads[i] for i in sent]) if sent else [], strict=True))
        if self.switch is not None and rate is not None and sent:
            self.switch.learn(rate, len(payloads[0]), replies[0], encode_ms, time.monotonic())
        missing = [i for i, reply in replies.items() if reply.answer is None]
        local: dict[int, Logits] = {}
        start_s = time.monotonic()
        if missing:
            logits = self._device.fallback(batch[missing]) if self.options.fallback else None
            if logits is None:
                reason = replies[missing[0]].reason
                without = "this bundle has no network to fall back on" if self.options.fallback else (
                    "no fallback is wanted")
                raise LinkError(f"no answer from the edge {self._address} ({reason}): "
                                f"{_REMEDIES.get(reason, reason)}; {without}")
            local = dict(zip(missing, logits, strict=True))
        local_ms = 1000 * (time.monotonic() - start_s) / max(1, len(missing))
        answers = []
        for i, payload in enumerate(payloads):
            if sure is not None and i not in replies:
                answers.append(Answer(int(sure[i].argmax()), "exit", "", 0, StageMs(encode_ms), sure[i], rate))
                continue
            reply = replies[i]
            found = reply.answer
            if found:
                answers.append(_answered(reply, found, payload, encode_ms, rate))
            else:
                spent = StageMs(encode_ms, reply.waited_ms, local=local_ms)
                label = int(local[i].argmax())
                answers.append(Answer(label, "fallback", reply.reason, len(payload), spent, local[i], rate))
        return answers

    def _ask(self, payloads: Sequence[bytes], within_ms: float | None = None) -> list[Reply]:
        """A reply for each payload; those of a lost edge at once.

        Args:
            payloads: What to send.
            within_ms: The longest wait, after which the edge does not count as lost; that of the options, after which
                it does, where left out.
        """
        if self.lost and not self._is_back():
            return [Reply(0.0, reason=self.lost)] * len(payloads)  # no image waits for an edge that is known to be lost
        # a connection that broke while nothing was in flight has lost nothing: begin another one at once
        link = self._connect() if not self._link or self._link.broken() else self._link
        wait_ms = self.options.timeout_ms if within_ms is None else within_ms
        exchange = Exchange(link, payloads, timeout_s=wait_ms / 1000, window=self.options.window,
                            logits=self.options.logits, classes=self._classes, patient=within_ms is not None)
        replies = exchange.run()
        if exchange.lost:
            self.lost = exchange.lost
            self._connect()
        return replies

    def _is_back(self) -> bool:
        """Whether a lost edge has answered a connection begun meanwhile; begins one where it is time. Never waits."""
        if self._link:
            frame = self._link.receive(0.0)
            if frame and frame.kind is Kind.WELCOME:
                self.lost = ""
                return True
            if frame and frame.reason:
                self.lost = frame.reason.word
        if self._link is None or time.monotonic() >= self._link.opened_s + self.options.retry_s:
            self._connect()
        return False

    def _connect(self) -> EdgeLink:
        """Begin a connection in place of the last one; its HELLO waits until the edge can be reached."""
        if self._link:
            self._link.close()
            self._link = None
        self._link = EdgeLink(self._context, self._address, self._key, self._name, self._keys, self._ipv6)
        return self._link


def _answered(reply: Reply, found: EdgeAnswer, payload: bytes, encode_ms: float, rate: int | None) -> Answer:
    # the edge says what it took itself: the rest of the wait is the link's
    link_ms = max(0.0, reply.waited_ms - found.queue_ms - found.edge_ms)
    spent = StageMs(encode_ms, link_ms, found.queue_ms, found.edge_ms)
    return Answer(found.label, "edge", "", len(payload), spent, found.logits, rate)
