"""The device: asks the edge, and says how it got on when there was none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
import zmq

from ..device.exchange import TIMEOUT, Exchange, Reply
from ..device.link import DISCONNECTED, EdgeLink, edge_address
from ..device.switch import RateSwitch
from ..errors import ConfigError, LinkError
from ..options import ClientOptions
from ..protocol.interfaces import DeviceSide, Images, Logits
from ..protocol.keys import DeviceKeys
from ..protocol.wire import Kind, Reason, short_key

__all__ = ["Answer", "ClientOptions", "DeviceClient", "StageMs", "Where"]

Where = Literal["edge", "fallback", "device"]
"""Where the tail ran: at the edge; on the device for want of an edge; on the device because the plan says so."""

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
        encode: Head and encoder on the device.
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
        self._key, self._name = short_key(device.manifest.key), secrets.token_bytes(8)
        self._shape, self._classes = tuple(device.manifest.image_shape), int(device.manifest.num_classes)
        self._context: zmq.Context[Any] = zmq.Context()
        self._link: EdgeLink | None = None
        self.lost = ""
        self.switch = RateSwitch(device.manifest) if self.options.adaptive else None
        self._rate = _fixed_rate(device.manifest, self.options)

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Tell the edge and close the connection; safe to call twice."""
        self._drop_link()
        self._context.term()

    def ping(self) -> float | None:
        """Milliseconds to the edge and back; `None` where it does not answer within the timeout.

        Also tries an edge that counts as lost, without regard to `retry_s`.
        """
        end_s = time.monotonic() + self.options.timeout_ms / 1000
        if self.lost or (self._link and self._link.broken()):
            self._drop_link()
        link = self._link = self._link or self._new_link()
        sequence, start_s = 0, time.monotonic()
        while True:
            if link.ready and not sequence:
                sequence, start_s = link.ping(), time.monotonic()
            frame = link.receive(end_s)
            if frame and frame.reason is Reason.SESSION and link.ready:  # the edge has forgotten us
                link.hello()
                sequence = 0
            elif frame is None or frame.reason:
                self._lose(frame.reason.word if frame and frame.reason else link.broken() or TIMEOUT)
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
            answers = self._on_device(batch)
        elif self.switch is None:
            answers = self._split(batch, self._rate)
        else:
            answers = [self._adapted(batch[i : i + 1], self.switch) for i in range(len(batch))]
        return answers[0] if single else answers

    # --- the edge -------------------------------------------------------------------------------------------------

    def _adapted(self, image: Images, switch: RateSwitch) -> Answer:
        """The answer to one image, (1, C, H, W), from which the switch learns."""
        if not self.lost and not (self._link and self._link.ready):  # so that no handshake is taken for a slow link
            ms = self.ping()
            if ms is not None:
                switch.pinged(ms, time.monotonic())
        (answer,) = self._split(image, switch.rate)
        return answer

    def _learn(self, switch: RateSwitch, rate: int, payload: bytes, reply: Reply, encode_ms: float) -> None:
        """Take in how one image fared, whatever becomes of it."""
        found, now_s = reply.answer, time.monotonic()
        if found:
            edge_ms = found.queue_ms + found.edge_ms
            logits_bytes = 0 if found.logits is None else found.logits.nbytes
            switch.answered(rate, len(payload) + logits_bytes, reply.waited_ms - edge_ms, encode_ms + edge_ms, now_s)
        elif reply.reason == TIMEOUT and reply.waited_ms > 0:
            switch.missed(len(payload), reply.waited_ms, now_s)

    def _split(self, batch: Images, rate: int | None) -> list[Answer]:
        start_s = time.monotonic()
        payloads = self._device.encode(batch, rate)
        encode_ms = 1000 * (time.monotonic() - start_s) / len(batch)
        replies = self._ask(payloads)
        if self.switch is not None and rate is not None:
            self._learn(self.switch, rate, payloads[0], replies[0], encode_ms)
        missing = [i for i, reply in enumerate(replies) if reply.answer is None]
        local, local_ms = self._fall_back(batch, missing, replies) if missing else (None, 0.0)
        rows: Iterator[Logits] = iter(local if local is not None else ())
        answers = []
        for payload, reply in zip(payloads, replies, strict=True):
            found = reply.answer
            if found:
                spent = StageMs(encode_ms, max(0.0, reply.waited_ms - found.queue_ms - found.edge_ms), found.queue_ms,
                                found.edge_ms)
                answers.append(Answer(found.label, "edge", "", len(payload), spent, found.logits, rate))
            else:
                row = next(rows)
                spent = StageMs(encode_ms, reply.waited_ms, local=local_ms)
                answers.append(Answer(int(row.argmax()), "fallback", reply.reason, len(payload), spent, row, rate))
        return answers

    def _ask(self, payloads: Sequence[bytes]) -> list[Reply]:
        """A reply for each payload; those of a lost edge at once."""
        if self.lost and not self._is_back():
            return [Reply(0.0, reason=self.lost)] * len(payloads)
        if self._link and self._link.broken():  # while nothing was on the way, so that nothing is lost
            self._drop_link()
        link = self._link = self._link or self._new_link()
        exchange = Exchange(link, payloads, timeout_s=self.options.timeout_ms / 1000, window=self.options.window,
                            logits=self.options.logits, classes=self._classes)
        replies = exchange.run()
        if exchange.lost:
            self._lose(exchange.lost)
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
            self._drop_link()
            self._link = self._new_link()
        return False

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._drop_link()
        self._link = self._new_link()  # whose HELLO reaches the edge when that is back

    def _new_link(self) -> EdgeLink:
        return EdgeLink(self._context, self._address, self._key, self._name, self._keys)

    def _drop_link(self) -> None:
        if self._link:
            self._link.close()
            self._link = None

    # --- the device -----------------------------------------------------------------------------------------------

    def _on_device(self, batch: Images) -> list[Answer]:
        start_s = time.monotonic()
        logits = self._device.logits(batch)
        spent = StageMs(local=1000 * (time.monotonic() - start_s) / len(batch))
        return [Answer(int(row.argmax()), "device", "", 0, spent, row) for row in logits]

    def _fall_back(self, batch: Images, missing: Sequence[int], replies: Sequence[Reply]) -> tuple[Logits, float]:
        """Logits of the images without an answer, and milliseconds for each."""
        start_s = time.monotonic()
        logits = self._device.fallback(batch[list(missing)]) if self.options.fallback else None
        if logits is None:
            reason = replies[missing[0]].reason
            without = "this bundle has no network to fall back on" if self.options.fallback else "no fallback is wanted"
            raise LinkError(f"no answer from the edge {self._address} ({reason}): {_REMEDIES.get(reason, reason)}; "
                            f"{without}")
        return logits, 1000 * (time.monotonic() - start_s) / len(missing)


def _fixed_rate(manifest: Any, options: ClientOptions) -> int | None:
    """The rate that all images are encoded at; `None` where the bundle has none.

    Raises:
        ConfigError: The options name one that it lacks.
    """
    rates = len(getattr(manifest, "rates", ()))
    if options.rate is not None and options.rate >= rates:
        raise ConfigError(f"this bundle has {rates or 'no'} rates, counted from 0; there is no rate {options.rate}")
    return (manifest.start if options.rate is None else options.rate) if rates else None
