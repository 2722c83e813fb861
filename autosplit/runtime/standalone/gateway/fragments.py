"""Payloads in packets of a few dozen bytes: fragments, answers, and both on a serial line, byte by byte.

`docs/protocol.md` describes the bytes; `fragments.c` is the device's side of them. Nothing is acknowledged or sent
again: a lost packet costs one answer. Every packet is either well-formed or refused with a reason that can be counted.
"""

from __future__ import annotations

import binascii
import struct
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from ..edge.sessions import TokenBucket
from ..errors import ConfigError
from ..protocol.wire import short_key

__all__ = ["ANSWERED", "ANSWER_BYTES", "AWAY", "FRAGMENT_BYTES", "MAX_FRAGMENTS", "MAX_PACKET_BYTES",
           "MIN_PACKET_BYTES", "PACKET_VERSION", "Fragment", "FragmentError", "LineReader", "Message", "PacketAnswer",
           "Reassembler", "cobs_decode", "cobs_encode", "cut", "deployment_number"]

PACKET_VERSION = 1
"""Version of the packets, 0 to 15."""

_FRAGMENT, _ANSWER = PACKET_VERSION << 4, PACKET_VERSION << 4 | 1
# byte 0                1-2     3        4                            5 to the last but two   last two
#      version and kind device  message  last (top bit) and index     data                    CRC-16
# Numbers are big-endian. The CRC starts from the deployment's number, so packets of another one that is within earshot
# fail it: otherwise a device could take the answer to a neighbour of the same number for its own.
_HEAD = struct.Struct("!BHBB")
_REPLY = struct.Struct("!BHBBH")
_CRC = struct.Struct("!H")

FRAGMENT_BYTES = _HEAD.size + _CRC.size
"""Bytes of a fragment's packet beside its data."""

ANSWER_BYTES = _REPLY.size + _CRC.size
"""Bytes of an answer's packet."""

MAX_FRAGMENTS = 128
"""Most fragments of one payload: an index has seven bits."""

MIN_PACKET_BYTES, MAX_PACKET_BYTES = ANSWER_BYTES, 1472
"""Shortest packets that an answer fits in, and longest that cross Ethernet as one UDP datagram."""

ANSWERED, AWAY = 0, 255
"""Status of an answer that holds a label, and of one that says that the edge cannot be asked; others are a `Reason`."""

_LAST = 0x80
_RESIDUE = 0x1D0F  # what this CRC is over content and checksum together, wherever it starts
_MESSAGES = 2  # of one device at a time: the one being sent, and the one before, whose last fragment may come late
_LONGEST_RUN = 254  # bytes without a zero that one code byte of COBS stands for


class FragmentError(ValueError):
    """A packet that is none, or none for us.

    Attributes:
        reason: Why, in a word: `length`, `kind` or `checksum`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def deployment_number(key: str) -> int:
    """What the checksums of a deployment's packets start from: the first 2 bytes of the SHA-256 of its key."""
    return int.from_bytes(short_key(key)[:2], "big")


@dataclass(frozen=True)
class Fragment:
    """A piece of a payload.

    Attributes:
        device: Number of the device, 0 to 65,535.
        message: Number of the payload, 0 to 255; the device counts, and begins again after 255.
        index: Place of the piece, from 0 on.
        last: Whether it is the payload's last piece.
        data: Its bytes, at least one.
    """

    device: int
    message: int
    index: int
    last: bool
    data: bytes

    def encode(self, deployment: int) -> bytes:
        """The packet; `deployment` is the deployment's number."""
        head = _HEAD.pack(_FRAGMENT, self.device, self.message, self.index | (_LAST if self.last else 0))
        return _sealed(head + self.data, deployment)

    @classmethod
    def decode(cls, packet: bytes, deployment: int, packet_bytes: int = MAX_PACKET_BYTES) -> Fragment:
        """The fragment in a packet.

        Args:
            packet: As it came, without framing.
            deployment: The deployment's number.
            packet_bytes: Longest packet that is accepted.

        Raises:
            FragmentError: There is none for this deployment in it; nothing else is ever raised.
        """
        if not FRAGMENT_BYTES < len(packet) <= packet_bytes:
            raise FragmentError("length", f"a packet of {len(packet)} bytes; those with fragments have "
                                          f"{FRAGMENT_BYTES + 1} to {packet_bytes}")
        kind, device, message, place = _HEAD.unpack_from(packet)
        if kind != _FRAGMENT:
            raise FragmentError("kind", f"a packet that begins with 0x{kind:02x}; fragments begin with "
                                        f"0x{_FRAGMENT:02x}")
        if not _is_sealed(packet, deployment):
            raise FragmentError("checksum", "the checksum of a packet does not match: it was altered, or comes from "
                                            "another deployment")
        return cls(device, message, place & ~_LAST, bool(place & _LAST), packet[_HEAD.size:-_CRC.size])


@dataclass(frozen=True)
class PacketAnswer:
    """What becomes of a payload, in one packet.

    Attributes:
        device: Number of the device.
        message: Number of the payload.
        status: `ANSWERED`, `AWAY`, or the number of a `Reason`.
        label: The class, 0 to 65,535; 0 where there is none.
    """

    device: int
    message: int
    status: int
    label: int = 0

    def encode(self, deployment: int) -> bytes:
        """The packet; `deployment` is the deployment's number."""
        return _sealed(_REPLY.pack(_ANSWER, self.device, self.message, self.status, self.label), deployment)

    @classmethod
    def decode(cls, packet: bytes, deployment: int) -> PacketAnswer:
        """The answer in a packet; arguments and errors as of `Fragment.decode`."""
        if len(packet) != ANSWER_BYTES:
            raise FragmentError("length", f"a packet of {len(packet)} bytes; one with an answer has {ANSWER_BYTES}")
        kind, device, message, status, label = _REPLY.unpack_from(packet)
        if kind != _ANSWER:
            raise FragmentError("kind", f"a packet that begins with 0x{kind:02x}; answers begin with 0x{_ANSWER:02x}")
        if not _is_sealed(packet, deployment):
            raise FragmentError("checksum", "the checksum of an answer does not match: it was altered, or comes from "
                                            "another deployment")
        return cls(device, message, status, label)


def cut(payload: bytes, packet_bytes: int, *, device: int, message: int, deployment: int) -> list[bytes]:
    """The packets of a payload, all but the last of the full size.

    Args:
        payload: At least one byte.
        packet_bytes: Longest packet.
        device: Number of the device.
        message: Number of the payload.
        deployment: The deployment's number.

    Raises:
        ConfigError: The payload is empty or needs more than `MAX_FRAGMENTS` packets.
    """
    room = packet_bytes - FRAGMENT_BYTES
    if not payload or len(payload) > room * MAX_FRAGMENTS:
        raise ConfigError(f"a payload of {len(payload)} bytes; packets of {packet_bytes} bytes carry 1 to "
                          f"{max(0, room * MAX_FRAGMENTS)}")
    pieces = [payload[start:start + room] for start in range(0, len(payload), room)]
    return [Fragment(device, message, i, i == len(pieces) - 1, piece).encode(deployment)
            for i, piece in enumerate(pieces)]


def _sealed(content: bytes, deployment: int) -> bytes:
    # inverted, or a packet with a zero byte behind it would pass as well
    return content + _CRC.pack(binascii.crc_hqx(content, deployment) ^ 0xFFFF)


def _is_sealed(packet: bytes, deployment: int) -> bool:
    return binascii.crc_hqx(packet, deployment) == _RESIDUE


# --- packets on a serial line -----------------------------------------------------------------------------------------


def cobs_encode(packet: bytes) -> bytes:
    """A packet on a serial line: consistent overhead byte stuffing (Cheshire and Baker 1999) between two zero bytes.

    The zero before it ends whatever noise came on an idle line, which would otherwise be taken for its beginning.
    """
    stuffed = bytearray(1)
    for run in packet.split(b"\0"):
        while len(run) >= _LONGEST_RUN:
            stuffed.append(_LONGEST_RUN + 1)
            stuffed += run[:_LONGEST_RUN]
            run = run[_LONGEST_RUN:]
        stuffed.append(len(run) + 1)
        stuffed += run
    stuffed.append(0)
    return bytes(stuffed)


def cobs_decode(stuffed: bytes) -> bytes:
    """The packet that was stuffed; the bytes are given without the zeros around them.

    Returns:
        The packet; empty where the bytes are none that was stuffed, or one that was cut short.
    """
    packet, start = bytearray(), 0
    while start < len(stuffed):
        code = stuffed[start]
        end = start + code
        if not code or end > len(stuffed):
            return b""
        packet += stuffed[start + 1:end]
        start = end
        if code <= _LONGEST_RUN and start < len(stuffed):
            packet.append(0)
    return bytes(packet)


class LineReader:
    """Packets out of a stream of bytes, whatever else is in it; never holds more than the longest packet takes.

    Args:
        packet_bytes: Longest packet.
    """

    def __init__(self, packet_bytes: int) -> None:
        self._longest = packet_bytes + packet_bytes // _LONGEST_RUN + 1
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that end in these bytes; an empty one for what is none or too long."""
        *ended, rest = data.split(b"\0")
        for part in ended:
            self._hold(part)
            if self._held:  # nothing between two zeros is no packet
                yield cobs_decode(bytes(self._held)) if len(self._held) <= self._longest else b""
            self._held.clear()
        self._hold(rest)

    def _hold(self, part: bytes) -> None:
        # one byte more than the longest says that it is too long; the others are not needed
        self._held += part[:self._longest + 1 - len(self._held)]


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """A payload that came whole.

    Attributes:
        source: Where its packets came from, as the link names it.
        device: Number of the device.
        number: Of the payload.
        payload: Its bytes.
        allowed: Whether the device keeps to its rate.
    """

    source: Hashable
    device: int
    number: int
    payload: bytes
    allowed: bool


@dataclass
class _Incoming:
    began_s: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    count: int = 0  # of fragments, known once the last one has come
    held_bytes: int = 0
    done: bool = False

    def fits(self, fragment: Fragment) -> bool:
        """Whether this fragment can be one of the same payload as those before it."""
        if fragment.index in self.pieces:
            return self.pieces[fragment.index] == fragment.data and (self.count == fragment.index + 1) == fragment.last
        if fragment.last:
            return not self.count and fragment.index > max(self.pieces, default=-1)
        return not self.count or fragment.index < self.count


@dataclass
class _Device:
    heard_s: float
    bucket: TokenBucket
    messages: OrderedDict[int, _Incoming] = field(default_factory=OrderedDict)  # by number, in order of their beginning


class Reassembler:
    """Puts payloads together from fragments of many devices, in any order; time is handed in, in seconds.

    It holds at most two payloads of a device and so many devices; what was heard of longest ago is dropped first. A
    payload that is whole is kept for a while as well, so that a fragment which comes twice begins no second one. A
    fragment that contradicts those before it under the same number, as after a restart of the device, begins anew.

    Devices are told apart by where they are and by their number, so whoever sends from elsewhere does not mix in.

    Args:
        longest: Longest payload, bytes.
        max_devices: Most devices remembered.
        assembly_s: How long a payload may take from its first fragment on.
        rate: Payloads a second of one device; 0 = no limit.
        counts: Where `duplicates`, `incomplete` (payloads dropped before they were whole), `oversized` (fragments of
            a payload that is too long) and `evicted` (devices dropped for others) are counted.
    """

    def __init__(self, longest: int, max_devices: int, assembly_s: float, rate: float, counts: Counter[str]) -> None:
        self._longest, self._max_devices, self._assembly_s = longest, max_devices, assembly_s
        self._rate, self._counts = rate, counts
        self._devices: OrderedDict[Hashable, _Device] = OrderedDict()  # in order of when they were last heard

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def held_bytes(self) -> int:
        """Bytes of payloads held just now."""
        return sum(m.held_bytes for device in self._devices.values() for m in device.messages.values())

    def take(self, source: Hashable, fragment: Fragment, now_s: float) -> Message | None:
        """Add a fragment; gives its payload where it was the last one missing."""
        self.forget(now_s)
        who = (source, fragment.device)
        device = self._devices.get(who)
        if device is None:
            if len(self._devices) >= self._max_devices:
                self._counts["evicted"] += 1
                self._drop_oldest()
            burst = max(1.0, self._rate)
            device = self._devices[who] = _Device(now_s, TokenBucket(self._rate, burst, burst, now_s))
        self._devices.move_to_end(who)
        device.heard_s = now_s
        messages = device.messages
        while messages and next(iter(messages.values())).began_s < now_s - self._assembly_s:
            self._drop(messages.popitem(last=False)[1])
        found = messages.get(fragment.message)
        if found is not None and not found.fits(fragment):
            self._drop(messages.pop(fragment.message))
            found = None
        if found is None:
            if len(messages) >= _MESSAGES:
                self._drop(messages.popitem(last=False)[1])
            found = messages[fragment.message] = _Incoming(now_s)
        if fragment.index in found.pieces:
            self._counts["duplicates"] += 1
            return None
        if found.held_bytes + len(fragment.data) > self._longest:
            self._counts["oversized"] += 1
            return None
        found.pieces[fragment.index] = fragment.data
        found.held_bytes += len(fragment.data)
        if fragment.last:
            found.count = fragment.index + 1
        if len(found.pieces) != found.count:
            return None
        found.done = True
        payload = b"".join(found.pieces[i] for i in range(found.count))
        return Message(source, fragment.device, fragment.message, payload, device.bucket.take(now_s))

    def forget(self, now_s: float) -> None:
        """Drop devices that were silent for so long that nothing they began can still become whole."""
        while self._devices and next(iter(self._devices.values())).heard_s < now_s - self._assembly_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        for message in self._devices.popitem(last=False)[1].messages.values():
            self._drop(message)

    def _drop(self, message: _Incoming) -> None:
        if not message.done:
            self._counts["incomplete"] += 1
