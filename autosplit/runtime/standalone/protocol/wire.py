"""Frames: the messages between device and edge, byte by byte as `docs/protocol.md` describes.

A frame is a header of 28 bytes and a body. Every sequence of bytes is either exactly one frame or refused with a reason
that can be counted; `Frame.decode` raises nothing else.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from ..errors import PayloadError
from .interfaces import Logits

__all__ = ["ANSWER_BYTES", "DEVICE_ID_BYTES", "HEADER_BYTES", "HEARTBEAT_MS", "KEY_BYTES", "LOGITS", "MAX_BODY_BYTES",
           "MAX_SEQUENCE", "PROTOCOL_VERSION", "SILENCE_MS", "EdgeAnswer", "Frame", "FrameError", "Kind", "Reason",
           "answer_bytes", "request_bytes", "short_key"]

PROTOCOL_VERSION = 1
"""Version of the frames, 0 to 255; both ends must have the same."""

HEADER_BYTES = 28
KEY_BYTES = 4
MAX_BODY_BYTES = 1 << 24
"""No body is ever longer; a server sets its own, lower limit."""

DEVICE_ID_BYTES = 8
"""Bytes that a device names itself with in its HELLO."""

HEARTBEAT_MS, SILENCE_MS = 10_000, 30_000
"""How often each end asks whether the other is there, and after how long without a word it is not."""

MAX_SEQUENCE = (1 << 32) - 1
MAX_DEADLINE_MS = (1 << 16) - 1

LOGITS = 1
"""Flag of a request: the answer shall hold all logits."""

_MAGIC = b"aS"
# byte 0-1  2        3     4      5       6-7          8-11  12-15    16-19     20-23        24-27
#      "aS" version  kind  flags  reason  deadline_ms  key   session  sequence  body length  CRC-32 of all other bytes
# Numbers are big-endian. The checksum finds damage, it keeps no attacker out: CURVE keys do (`keys`).
_HEADER = struct.Struct("!2sBBBBH4sIII")
_CHECKSUM = struct.Struct("!I")
_ANSWER = struct.Struct("!IIIH")
ANSWER_BYTES = _ANSWER.size
"""Length of an answer's body without logits."""

_FLOAT = np.dtype(">f4")
_MAX_COUNT = (1 << 32) - 1
_SHORT = 255


class Kind(enum.IntEnum):
    """What a frame is for."""

    HELLO = 1  # device: asks for a session; its body names the device
    WELCOME = 2  # edge: the number of the session, and the longest payload
    REQUEST = 3  # device: a payload
    ANSWER = 4  # edge: an `EdgeAnswer`
    PING = 5  # device
    PONG = 6  # edge
    REFUSED = 7  # edge: a `Reason`
    BYE = 8  # device: ends the session


class Reason(enum.IntEnum):
    """Why a frame was refused; the numbers are part of the protocol."""

    TRUNCATED = 1
    OVERSIZED = 2
    MAGIC = 3
    VERSION = 4
    KIND = 5
    FIELD = 6
    LENGTH = 7
    CHECKSUM = 8
    PARTS = 9  # a ZeroMQ message that is not one frame
    KEY = 10  # of another deployment
    SESSION = 11  # none, or an old one: the device says HELLO again
    REPLAY = 12  # a sequence number that was used
    RATE = 13  # too many frames a second
    BUSY = 14  # the queue is full
    FULL = 15  # too many devices
    LATE = 16  # its deadline passed in the queue
    PAYLOAD = 17  # none of this bundle
    FAULT = 18  # the edge's network failed
    HANDSHAKE = 19  # keys do not fit; counted, never sent

    @property
    def word(self) -> str:
        """The name for counters and messages, in small letters."""
        return self.name.lower()


class FrameError(ValueError):
    """Bytes that are no frame, or a frame for somebody else.

    Attributes:
        reason: Why.
        sequence: That of the frame, as far as it could be read; 0 otherwise.
    """

    def __init__(self, reason: Reason, text: str, sequence: int = 0) -> None:
        super().__init__(text)
        self.reason, self.sequence = reason, sequence


def short_key(key: str) -> bytes:
    """What stands for a deployment in every frame: the first 4 bytes of the SHA-256 of its key."""
    return hashlib.sha256(key.encode()).digest()[:KEY_BYTES]


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        kind: What it is for.
        key: `short_key` of the deployment.
        session: Number that the server gave the session; 0 before it did.
        sequence: Number of the frame in its session; a reply has that of the frame it replies to.
        body: What the kind asks for.
        flags: `LOGITS` in a request; else 0.
        reason: Why a frame was refused; else `None`.
        deadline_ms: In a request: milliseconds at the edge after which the device no longer waits; 0 = no deadline.
    """

    kind: Kind
    key: bytes
    session: int = 0
    sequence: int = 0
    body: bytes = b""
    flags: int = 0
    reason: Reason | None = None
    deadline_ms: int = 0

    def encode(self) -> bytes:
        """The bytes of this frame.

        Raises:
            FrameError: A field does not fit.
        """
        if len(self.body) > MAX_BODY_BYTES:
            raise FrameError(Reason.OVERSIZED, f"a body of {len(self.body)} bytes; at most {MAX_BODY_BYTES} fit")
        if len(self.key) != KEY_BYTES:
            raise FrameError(Reason.FIELD, f"a key of {len(self.key)} bytes; a frame has one of {KEY_BYTES}")
        try:
            head = _HEADER.pack(_MAGIC, PROTOCOL_VERSION, self.kind, self.flags, self.reason or 0, self.deadline_ms,
                                self.key, self.session, self.sequence, len(self.body))
        except struct.error as e:
            raise FrameError(Reason.FIELD, f"a field of a frame does not fit: {e}") from e
        return head + _CHECKSUM.pack(zlib.crc32(self.body, zlib.crc32(head))) + self.body

    @classmethod
    def decode(cls, data: bytes, key: bytes, max_body: int = MAX_BODY_BYTES) -> Frame:
        """The frame that these bytes are.

        Args:
            data: A whole message.
            key: `short_key` of the deployment that is served.
            max_body: Longest body that is accepted, bytes.

        Raises:
            FrameError: They are no frame, or one for another version or deployment; nothing else is ever raised.
        """
        if len(data) < HEADER_BYTES:
            raise FrameError(Reason.TRUNCATED, f"{len(data)} bytes are no frame; its header alone has {HEADER_BYTES}")
        magic, version, kind, flags, reason, deadline, own, session, sequence, length = _HEADER.unpack_from(data)
        size = len(data) - HEADER_BYTES

        def refuse(why: Reason, text: str) -> FrameError:
            return FrameError(why, text, sequence)

        if magic != _MAGIC:
            raise FrameError(Reason.MAGIC, "the bytes do not begin as a frame does")
        if version != PROTOCOL_VERSION:
            raise refuse(Reason.VERSION, f"a frame of version {version}, expected {PROTOCOL_VERSION}; use one "
                                         "autosplit version at both ends")
        # from here on the checks go from what costs nothing to the checksum, which reads the whole body
        if max(size, length) > max_body:
            raise refuse(Reason.OVERSIZED, f"a body of {max(size, length)} bytes; at most {max_body} are accepted")
        if size != length:
            raise refuse(Reason.LENGTH, f"a body of {size} bytes where the header says {length}")
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        if checksum != zlib.crc32(memoryview(data)[HEADER_BYTES:], zlib.crc32(memoryview(data)[:_HEADER.size])):
            raise refuse(Reason.CHECKSUM, "the checksum of a frame does not match: it was altered on the way")
        if kind not in _KINDS:
            raise refuse(Reason.KIND, f"a frame of the unknown kind {kind}")
        known_flags = LOGITS if kind == Kind.REQUEST else 0
        if flags & ~known_flags or (reason not in _REASONS if kind == Kind.REFUSED else reason):
            raise refuse(Reason.FIELD, f"flags {flags:#x} and reason {reason} do not go with a frame of kind {kind}")
        if own != key:
            raise refuse(Reason.KEY, f"a frame of the deployment {own.hex()}, expected {key.hex()}; use one bundle at "
                                     "both ends")
        return cls(Kind(kind), own, session, sequence, bytes(data[HEADER_BYTES:]), flags,
                   Reason(reason) if reason else None, deadline)


def request_bytes(payload_bytes: int) -> int:
    """What a request puts on a TCP connection, without TCP/IP's own headers."""
    return _message_bytes(payload_bytes)


def answer_bytes(logits: int = 0) -> int:
    """What an answer with so many logits puts on a TCP connection, likewise."""
    return _message_bytes(_ANSWER.size + _FLOAT.itemsize * logits)


def _message_bytes(body_bytes: int) -> int:
    frame_bytes = HEADER_BYTES + body_bytes
    return frame_bytes + (2 if frame_bytes <= _SHORT else 9)  # ZMTP 3.1: flags, and the length in 1 or 8 bytes


_KINDS = frozenset(int(k) for k in Kind)
_REASONS = frozenset(int(r) for r in Reason)


@dataclass(frozen=True)
class EdgeAnswer:
    """The body of an answer.

    Attributes:
        label: The class of the largest logit.
        queue_ms: Time the request waited at the edge.
        edge_ms: Time its batch was computed in.
        batch: Requests in that batch.
        logits: float32 (classes,), where the request asked for them.
    """

    label: int
    queue_ms: float
    edge_ms: float
    batch: int
    logits: Logits | None = None

    def encode(self) -> bytes:
        """14 bytes, and 4 for each logit."""
        queued, computed = (min(round(1000 * ms), _MAX_COUNT) for ms in (self.queue_ms, self.edge_ms))
        head = _ANSWER.pack(self.label, queued, computed, self.batch)
        return head if self.logits is None else head + self.logits.astype(_FLOAT).tobytes()

    @classmethod
    def decode(cls, body: bytes) -> EdgeAnswer:
        """The answer in a body.

        Raises:
            PayloadError: The body is none.
        """
        if len(body) < _ANSWER.size or (len(body) - _ANSWER.size) % _FLOAT.itemsize:
            raise PayloadError(f"an answer of {len(body)} bytes; it has {_ANSWER.size}, and 4 for each logit")
        label, queued, computed, batch = _ANSWER.unpack_from(body)
        logits = np.frombuffer(body, _FLOAT, offset=_ANSWER.size).astype(np.float32)
        return cls(label, queued / 1000, computed / 1000, batch, logits if logits.size else None)
