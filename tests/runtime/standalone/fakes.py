"""Two halves of a bundle that need no network: the class of an image is its first pixel modulo 10."""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import zmq

from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
from autosplit.runtime.standalone.errors import PayloadError
from autosplit.runtime.standalone.protocol.wire import Frame, Kind, short_key

CLASSES = 10
SHAPE = (1, 4, 4)
MARK = b"payload:"
LOOPBACK = "tcp://127.0.0.1:0"


def manifest(key="a bundle"):
    return SimpleNamespace(key=key, image_shape=SHAPE, num_classes=CLASSES,
                           class_names=tuple(map(str, range(CLASSES))))


def logits_of(pixels):
    return np.eye(CLASSES, dtype=np.float32)[[int(p) % CLASSES for p in pixels]]


def images(count, seed=0):
    """Random images and their classes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return pixels, [int(p[0, 0, 0]) % CLASSES for p in pixels]


class FakeEdge:
    """Decodes; can be made to wait (`gate`), to fail (`fault`), and remembers the sizes of its batches."""

    def __init__(self, key="a bundle"):
        self.manifest = manifest(key)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fault = None
        self.batches = []

    def decode(self, payloads):
        self.entered.release()
        assert self.gate.wait(30)
        self.batches.append(len(payloads))
        if self.fault:
            raise self.fault
        for i, payload in enumerate(payloads):
            if not payload.startswith(MARK) or len(payload) != len(MARK) + 1:
                raise PayloadError(f"payload {i}: no payload")
        return logits_of([p[-1] for p in payloads])


class FakeDevice:
    """Encodes, and falls back to the same classes where `falls_back`."""

    def __init__(self, key="a bundle", *, falls_back=True, answers=False):
        self.manifest, self.answers, self.falls_back = manifest(key), answers, falls_back

    def begin(self, batch, rate=None):
        return [MARK + bytes([int(image[0, 0, 0])]) for image in batch], None

    def logits(self, batch):
        return logits_of([image[0, 0, 0] for image in batch])

    def fallback(self, batch):
        return self.logits(batch) if self.falls_back else None


def serving(edge=None, keys=None, **options):
    """A server on a free port of this machine, not started."""
    return EdgeServer(edge or FakeEdge(), ServerOptions(**{"bind": LOOPBACK, "rate": 0, **options}), keys)


def asking(server, device=None, keys=None, **options):
    """A client of a server, or of an address."""
    edge = server if isinstance(server, str) else server.endpoint
    return DeviceClient(device or FakeDevice(), edge, ClientOptions(**{"timeout_ms": 10_000, **options}), keys)


class Raw:
    """A device that sends whatever bytes it is told to.

    Args:
        endpoint: Of a server.
        hello: Whether to open a session at once.
    """

    def __init__(self, endpoint, key="a bundle", hello=True):
        self.key, self.session, self.sequence = short_key(key), 0, 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        if hello:
            self.send(Frame(Kind.HELLO, self.key, sequence=1, body=secrets.token_bytes(8)).encode())
            welcome = self.receive()
            assert welcome.kind is Kind.WELCOME
            self.session = welcome.session

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close(0)
        self._context.term()

    def send(self, *parts):
        self._socket.send_multipart(parts)

    def frame(self, kind=Kind.REQUEST, body=MARK + b"\1", **changes):
        """The next frame of the session, not sent."""
        self.sequence += 1
        return Frame(kind, **{"key": self.key, "session": self.session, "sequence": self.sequence, "body": body,
                              **changes})

    def request(self, **changes):
        frame = self.frame(**changes)
        self.send(frame.encode())
        return frame.sequence

    def receive(self, timeout_s=30):
        assert self._socket.poll(1000 * timeout_s), "no frame came"
        return Frame.decode(self._socket.recv(), self.key)

    def settle(self):
        """All frames that come until the server has handled everything sent so far."""
        ping = self.frame(Kind.PING, b"")
        self.send(ping.encode())
        found = []
        while (frame := self.receive()).kind is not Kind.PONG or frame.sequence != ping.sequence:
            found.append(frame)
        return found

    def refusals(self):
        """Reasons of the refusals that come until everything sent so far is handled."""
        return [frame.reason for frame in self.settle() if frame.kind is Kind.REFUSED]


@contextmanager
def scripted(reply):
    """An edge that welcomes devices and then answers as told; gives its endpoint.

    Args:
        reply: Function of a request's frame; gives the messages to send back, `None` to close the socket.
    """
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(LOOPBACK)
    endpoint, ended = router.getsockopt_string(zmq.LAST_ENDPOINT), threading.Event()
    key = short_key("a bundle")

    def run():
        while not ended.is_set():
            if router.poll(20):
                connection, data = router.recv_multipart()
                frame = Frame.decode(data, key)
                if frame.kind is Kind.HELLO:
                    body = (1 << 20).to_bytes(4, "big")
                    messages = [Frame(Kind.WELCOME, key, 77, frame.sequence, body).encode()]
                else:
                    messages = reply(frame) if frame.kind is Kind.REQUEST else []
                if messages is None:
                    router.close(0)
                    return
                for message in messages:
                    router.send_multipart([connection, message])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        ended.set()
        thread.join()
        router.close(0)
        context.term()


__all__ = ["CLASSES", "LOOPBACK", "MARK", "SHAPE", "FakeDevice", "FakeEdge", "Raw", "asking", "images",
           "logits_of", "manifest", "scripted", "serving"]
