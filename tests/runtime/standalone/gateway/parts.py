"""A deployment with real payloads, an edge that decodes them, links, and devices that cut payloads into packets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import tty
from collections import deque

import numpy as np

from autosplit.runtime.standalone.bundle.manifest import FORMAT_VERSION, TABLES, Manifest, Normalisation
from autosplit.runtime.standalone.files import file_sha256
from autosplit.runtime.standalone.gateway.fragments import FragmentError, LineReader, PacketAnswer, cobs_encode, cut
from autosplit.runtime.standalone.gateway.gateway import Deployment, Gateway
from autosplit.runtime.standalone.options import GatewayOptions
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from tests.runtime.standalone.fakes import CLASSES, SHAPE, FakeEdge, logits_of
from tests.runtime.standalone.payload.codes import codes_of

KEY = "a bundle"
CODE = (4, 4, 4)
SYMBOLS = codes_of(CODE, 4, 2.0)
TABLE = FrequencyTables.fit(SYMBOLS, 4, contexts=False)
CODER = PayloadCoder(TABLE, CODE, KEY.encode())
DEPLOYMENT = Deployment(KEY, CLASSES, [CODER])
PATIENT_S = 30


def label_of(symbols):
    return int(symbols.sum()) % CLASSES


def payloads(count, seed=0):
    """Payloads and their labels."""
    rows = SYMBOLS[np.random.default_rng(seed).integers(0, len(SYMBOLS), count)]
    return [CODER.encode(row) for row in rows], [label_of(row) for row in rows]


class CodeEdge(FakeEdge):
    """Decodes real payloads, and keeps those that came to it; otherwise as `FakeEdge`."""

    def __init__(self, key=KEY):
        super().__init__(key)
        self.seen = []

    def decode(self, payloads):
        self.entered.release()
        assert self.gate.wait(PATIENT_S)
        self.batches.append(len(payloads))
        if self.fault:
            raise self.fault
        self.seen += payloads
        return logits_of([label_of(CODER.decode(payload)) for payload in payloads])


def options(**given):
    """Without a limit of rate, and patient."""
    where = {} if "serial" in given else {"udp": "127.0.0.1:0"}
    return GatewayOptions(**{**where, "rate": 0, "timeout_ms": 20_000, "packet_bytes": 20, "retry_s": 0.05, **given})


class ScriptedLink:
    """A link in memory: `come` is received, what is sent back lies in `sent`; `full` takes no answers."""

    name = "memory"

    def __init__(self):
        self.come, self.sent, self.full, self.closed = deque(), [], False, False

    def fileno(self):
        return -1

    def receive(self):
        return [self.come.popleft() for _ in range(min(64, len(self.come)))]

    def send(self, packet, source):
        if not self.full:
            self.sent.append((source, PacketAnswer.decode(packet, DEPLOYMENT.number)))
        return not self.full

    def close(self):
        self.closed = True


class Bench:
    """A gateway over a link in memory, driven step by step.

    Args:
        edge: Where an edge is, or a server.
    """

    def __init__(self, edge, deployment=DEPLOYMENT, keys=None, **given):
        self.link = ScriptedLink()
        address = edge if isinstance(edge, str) else edge.endpoint
        self.gateway = Gateway(self.link, deployment, address, options(**given), keys)
        self.stats, self._taken = self.gateway.stats, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gateway.close()

    def packets(self, *packets, source="here"):
        self.link.come += [(source, packet) for packet in packets]

    def payload(self, payload, message, device=1, source="here"):
        self.packets(*cut(payload, 20, device=device, message=message, deployment=DEPLOYMENT.number), source=source)

    def steps(self, until, what="it"):
        """Let the gateway work until something is so."""
        end_s = time.monotonic() + PATIENT_S
        while not until():
            assert time.monotonic() < end_s, f"{what} did not happen: {self.stats.summary()}"
            self.gateway.step(0.005)

    def answers(self, count):
        """The next answers: (device, message, status, label) each."""
        self.steps(lambda: len(self.link.sent) >= self._taken + count, f"{count} answers")
        found = self.link.sent[self._taken:self._taken + count]
        self._taken += count
        return [(a.device, a.message, a.status, a.label) for _, a in found]


@contextlib.contextmanager
def running(gateway):
    """Let a gateway work in a thread of its own; it is closed in the end."""
    ended, faults = threading.Event(), []

    def run():
        try:
            with gateway:
                while not ended.is_set():
                    gateway.step(0.02)
        except Exception as e:
            faults.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield gateway
    finally:
        ended.set()
        thread.join()
    assert faults == []


class _Device:
    """Sends payloads in packets, and waits for answers."""

    def __init__(self, device=1, packet_bytes=20):
        self.device, self.packet_bytes, self.number = device, packet_bytes, DEPLOYMENT.number

    def send(self, payload, message):
        for packet in cut(payload, self.packet_bytes, device=self.device, message=message, deployment=self.number):
            self.raw(packet)

    def ask(self, payload, message, timeout_s=PATIENT_S):
        """Status and label of a payload; `None` where there is no answer."""
        self.send(payload, message)
        return self.answer(message, timeout_s)

    def answer(self, message, timeout_s=PATIENT_S):
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            for packet in self.receive(left_s):
                with contextlib.suppress(FragmentError):
                    found = PacketAnswer.decode(packet, self.number)
                    if (found.device, found.message) == (self.device, message):
                        return found.status, found.label
        return None


class UdpDevice(_Device):
    """A device that sends datagrams.

    Args:
        name: Of a `UdpLink`.
    """

    def __init__(self, name, **given):
        super().__init__(**given)
        host, _, port = name.removeprefix("udp://").rpartition(":")
        self.socket = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((host.strip("[]"), int(port)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def raw(self, packet):
        self.socket.send(packet)

    def receive(self, timeout_s):
        return [self.socket.recv(2000)] if select.select([self.socket], [], [], timeout_s)[0] else []


class Line(_Device):
    """A device on a serial line, which is a pseudo-terminal; `port` is the gateway's end of it."""

    def __init__(self, **given):
        super().__init__(**given)
        self.near, self._far = os.openpty()
        tty.setraw(self.near)
        self.port, self._reader = os.ttyname(self._far), LineReader(200)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for end in (self.near, self._far):
            with contextlib.suppress(OSError):
                os.close(end)

    def raw(self, packet):
        self.write(cobs_encode(packet))

    def write(self, data):
        while data:
            data = data[os.write(self.near, data):]

    def receive(self, timeout_s):
        if not select.select([self.near], [], [], timeout_s)[0]:
            return []
        return list(self._reader.feed(os.read(self.near, 4096)))


def write_bundle(folder, **changes):
    """What a gateway needs of a bundle, on disk: no networks."""
    folder.mkdir()
    np.save(folder / TABLES, TABLE.to_arrays()["frequencies"])
    given = {
        "format_version": FORMAT_VERSION, "key": KEY, "label": "a plan", "kind": "code", "quality": None, "plan": {},
        "effort": None, "downscale": None, "backbone": "a network", "arithmetic": "int8", "image_shape": SHAPE,
        "normalisation": Normalisation((0.0,), (1.0,)), "class_names": tuple(map(str, range(CLASSES))),
        "feature_shape": CODE, "code_shape": CODE, "exit": None, "rates": (), "switching": None, "parity": (),
        "source": None, "versions": {}, "footprint": None, "files": {TABLES: file_sha256(folder / TABLES)}, **changes}
    Manifest(**given).save(folder)
    return folder
