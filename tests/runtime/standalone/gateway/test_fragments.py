"""Packets byte by byte, what they are on a serial line, and payloads put together again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosplit.runtime.standalone.errors import ConfigError
from autosplit.runtime.standalone.gateway.fragments import (
    ANSWER_BYTES,
    ANSWERED,
    AWAY,
    FRAGMENT_BYTES,
    MAX_FRAGMENTS,
    Fragment,
    FragmentError,
    LineReader,
    PacketAnswer,
    Reassembler,
    cobs_decode,
    cobs_encode,
    cut,
    deployment_number,
)
from autosplit.runtime.standalone.protocol.wire import Reason
from tests.runtime.standalone.payload.codes import QUICK

DEPLOYMENT = 0x7117
PAYLOAD = bytes.fromhex("208a40058804")  # the known answer of docs/protocol.md


def crc16(data, start):
    """CRC-16/GENIBUS but for the start, bit by bit."""
    crc = start
    for byte in data:
        for bit in range(7, -1, -1):
            carry = (crc >> 15) ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFF) ^ (0x1021 if carry else 0)
    return crc ^ 0xFFFF


# --- packets --------------------------------------------------------------------------------------------------------


def test_the_reference_is_the_standards():
    assert crc16(b"123456789", 0xFFFF) == 0xD64E


def test_known_answers():
    """Those of docs/protocol.md."""
    assert deployment_number("known") == DEPLOYMENT
    packets = cut(PAYLOAD, 12, device=0x0102, message=3, deployment=DEPLOYMENT)
    assert [p.hex(" ") for p in packets] == ["10 01 02 03 00 20 8a 40 05 88 ca 00", "10 01 02 03 81 04 f0 8d"]
    assert PacketAnswer(0x0102, 3, ANSWERED, 7).encode(DEPLOYMENT).hex(" ") == "11 01 02 03 00 00 07 74 38"
    assert PacketAnswer(0x0102, 3, AWAY).encode(DEPLOYMENT).hex(" ") == "11 01 02 03 ff 00 00 cb bc"
    assert cobs_encode(packets[0]).hex(" ") == "00 05 10 01 02 03 07 20 8a 40 05 88 ca 01 00"


def test_every_byte_of_a_packet():
    packet = Fragment(0xABCD, 0xEF, 0x55, True, b"data").encode(0x1234)
    assert packet[:9] == b"\x10\xab\xcd\xef\xd5data"
    assert int.from_bytes(packet[9:], "big") == crc16(packet[:9], 0x1234)
    assert Fragment.decode(packet, 0x1234) == Fragment(0xABCD, 0xEF, 0x55, True, b"data")
    answer = PacketAnswer(0xABCD, 0xEF, Reason.BUSY, 0x0102).encode(0x1234)
    assert answer[:7] == b"\x11\xab\xcd\xef\x0e\x01\x02"
    assert int.from_bytes(answer[7:], "big") == crc16(answer[:7], 0x1234)
    assert PacketAnswer.decode(answer, 0x1234) == PacketAnswer(0xABCD, 0xEF, Reason.BUSY, 0x0102)


@QUICK
@given(st.binary(min_size=1, max_size=700), st.integers(13, 300), st.integers(0, 65_535), st.integers(0, 255))
def test_pieces_make_up_the_payload(payload, packet_bytes, device, message):
    packets = cut(payload, packet_bytes, device=device, message=message, deployment=9)
    room = packet_bytes - FRAGMENT_BYTES
    assert [len(p) for p in packets[:-1]] == [packet_bytes] * (-(-len(payload) // room) - 1)
    found = [Fragment.decode(p, 9, packet_bytes) for p in packets]
    assert b"".join(f.data for f in found) == payload
    assert [(f.device, f.message, f.index) for f in found] == [(device, message, i) for i in range(len(found))]
    assert [f.last for f in found] == [False] * (len(found) - 1) + [True]


def test_what_cannot_be_cut():
    room = 20 - FRAGMENT_BYTES
    assert len(cut(bytes(room * MAX_FRAGMENTS), 20, device=0, message=0, deployment=0)) == MAX_FRAGMENTS
    for payload, packet_bytes in ((b"", 20), (bytes(room * MAX_FRAGMENTS + 1), 20), (b"x", FRAGMENT_BYTES)):
        with pytest.raises(ConfigError, match=f"a payload of {len(payload)} bytes; packets of {packet_bytes} bytes"):
            cut(payload, packet_bytes, device=0, message=0, deployment=0)


@pytest.mark.parametrize("read", [Fragment.decode, PacketAnswer.decode])
def test_damage_of_up_to_three_bits_is_always_found(read):
    rng = np.random.default_rng(1)
    good = (Fragment(1, 2, 3, False, b"symbols") if read == Fragment.decode else PacketAnswer(1, 2, 0, 3)).encode(77)
    read(good, 77)
    for _ in range(3000):
        bad = bytearray(good)
        for bit in rng.choice(8 * len(good), rng.integers(1, 4), replace=False):
            bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FragmentError):
            read(bytes(bad), 77)


@pytest.mark.parametrize("read", [Fragment.decode, PacketAnswer.decode])
def test_a_byte_more_or_less_is_always_found(read):
    good = (Fragment(1, 2, 3, False, b"symbols") if read == Fragment.decode else PacketAnswer(1, 2, 0, 3)).encode(77)
    more = [bytes([n]) for n in range(256)]
    for bad in (good[:-1], good[1:], *(good + byte for byte in more), *(byte + good for byte in more)):
        with pytest.raises(FragmentError):
            read(bad, 77)


def test_packets_of_another_deployment_fail():
    packet = Fragment(1, 2, 3, False, b"symbols").encode(77)
    assert sum(_refused(Fragment.decode, packet, other) for other in range(1 << 16)) == (1 << 16) - 1


@pytest.mark.parametrize(("packet", "reason"), [
    (b"", "length"), (Fragment(1, 2, 3, True, b"").encode(77), "length"),
    (Fragment(1, 2, 3, True, b"x" * 14).encode(77), "length"), (PacketAnswer(1, 2, 0, 3).encode(77), "kind"),
    (Fragment(1, 2, 3, True, b"x").encode(77)[:-2] + b"zz", "checksum")])
def test_what_is_no_fragment(packet, reason):
    with pytest.raises(FragmentError) as caught:
        Fragment.decode(packet, 77, 20)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("packet", "reason"), [
    (b"", "length"), (bytes(ANSWER_BYTES + 1), "length"), (Fragment(1, 2, 3, True, b"xy").encode(77), "kind"),
    (PacketAnswer(1, 2, 0, 3).encode(76), "checksum")])
def test_what_is_no_answer(packet, reason):
    with pytest.raises(FragmentError) as caught:
        PacketAnswer.decode(packet, 77)
    assert caught.value.reason == reason


def _refused(read, *arguments):
    try:
        read(*arguments)
    except FragmentError:
        return True
    return False


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("packet", "stuffed"), [  # examples of the paper's and of Wikipedia's, between zeros
    ("00", "01 01"), ("00 00", "01 01 01"), ("11 22 00 33", "03 11 22 02 33"), ("11 22 33 44", "05 11 22 33 44"),
    ("11 00 00 00", "02 11 01 01 01"), ("", "01")])
def test_known_stuffing(packet, stuffed):
    packet = bytes.fromhex(packet)
    assert cobs_encode(packet) == b"\0" + bytes.fromhex(stuffed) + b"\0"
    assert cobs_decode(bytes.fromhex(stuffed)) == packet


@pytest.mark.parametrize("run", [253, 254, 255, 508, 509])
@pytest.mark.parametrize("end", [b"", b"\0", b"\0x"])
def test_long_runs(run, end):
    packet = bytes(1 + i % 255 for i in range(run)) + end
    stuffed = cobs_encode(packet)
    assert 0 not in stuffed[1:-1]
    assert len(stuffed) <= len(packet) + len(packet) // 254 + 3
    assert cobs_decode(stuffed[1:-1]) == packet
    if stuffed[-2] == 1 and not end:  # others leave out an empty code after a full run
        assert cobs_decode(stuffed[1:-2]) == packet


@QUICK
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
def test_packets_come_out_of_a_stream_however_it_is_cut(packets, step):
    stream = b"".join(map(cobs_encode, packets))
    reader = LineReader(300)
    assert [p for i in range(0, len(stream), step) for p in reader.feed(stream[i:i + step])] == packets


@QUICK
@given(st.binary(max_size=400))
def test_any_bytes_are_a_packet_or_none(data):
    assert len(cobs_decode(data)) <= len(data)
    packets = list(LineReader(30).feed(data))
    assert all(len(p) <= 31 for p in packets)


def test_a_packet_too_long_is_let_go():
    reader = LineReader(30)
    assert list(reader.feed(b"\x05" * 100_000)) == []
    assert len(reader._held) <= 32
    assert list(reader.feed(b"\0" + cobs_encode(b"good"))) == [b"", b"good"]


def test_noise_before_a_packet_does_not_hurt_it():
    assert list(LineReader(30).feed(b"\xfe\x01\xff" + cobs_encode(b"good"))) == [b"", b"good"]


# --- messages -------------------------------------------------------------------------------------------------------


class Table:
    """A reassembler with payloads of at most 100 bytes in pieces of 10, and its counters."""

    def __init__(self, **given):
        self.counts = Counter()
        self.reassembler = Reassembler(**{"longest": 100, "max_devices": 4, "assembly_s": 10, "rate": 0,
                                          "counts": self.counts, **given})

    def take(self, payload, indices=None, *, device=1, message=0, now_s=0.0, source="here"):
        """Payloads that are whole after these fragments, all where none are named."""
        pieces = [payload[i:i + 10] for i in range(0, len(payload), 10)]
        found = [self.reassembler.take(source, Fragment(device, message, i, i == len(pieces) - 1, pieces[i]), now_s)
                 for i in (range(len(pieces)) if indices is None else indices)]
        return [message.payload for message in found if message]


A, B, C = (bytes([n]) * 35 for n in (1, 2, 3))


def test_fragments_in_any_order_make_a_payload():
    for seed in range(20):
        assert Table().take(A, np.random.default_rng(seed).permutation(4).tolist()) == [A]


def test_what_a_message_says():
    table = Table()
    assert table.take(b"short") == [b"short"]
    found = table.reassembler.take(("1.2.3.4", 5), Fragment(9, 8, 0, True, b"x"), 0)
    assert (found.source, found.device, found.number, found.payload, found.allowed) == (("1.2.3.4", 5), 9, 8, b"x",
                                                                                        True)


@pytest.mark.parametrize("lost", range(4))
def test_a_lost_fragment_costs_its_payload_alone(lost):
    table = Table()
    assert table.take(A, [i for i in range(4) if i != lost], message=0) == []
    assert table.take(B, message=1) == [B]
    assert table.take(C, message=2) == [C]  # which takes the place of the first
    assert table.counts == {"incomplete": 1}


def test_duplicates_are_counted_and_make_no_second_payload():
    table = Table()
    assert table.take(A, [0, 0, 1, 2, 1, 3, 3, 0]) == [A]
    assert table.counts == {"duplicates": 4}


def test_a_late_duplicate_does_not_disturb_the_next_payload():
    table = Table()
    assert table.take(A, message=7) + table.take(B, [0, 1], message=8) == [A]
    assert table.take(A, [3], message=7) + table.take(B, [2, 3], message=8) == [B]
    assert table.counts == {"duplicates": 1}


def test_two_payloads_of_a_device_may_be_mixed_up_on_the_way():
    table = Table()
    assert table.take(A, [0, 1, 3], message=7) + table.take(B, [0, 2], message=8) == []
    assert table.take(A, [2], message=7) + table.take(B, [3, 1], message=8) == [A, B]


def test_a_restart_in_the_middle_of_a_payload():
    table = Table()
    assert table.take(A, [0, 1]) == []
    assert table.take(B) == [B]  # the same number again
    assert table.counts == {"incomplete": 1}
    assert table.take(C) == [C]  # and again, after the former was whole
    assert table.counts == {"incomplete": 1}


@pytest.mark.parametrize(("before", "index", "last"), [
    ([3], 3, False), ([3], 4, False), ([3], 2, True), ([0, 1], 1, True), ([0, 1], 0, True)])
def test_what_contradicts_the_fragments_before_begins_anew(before, index, last):
    table = Table()
    table.take(A, before)
    table.reassembler.take("here", Fragment(1, 0, index, last, A[:10]), 0)
    assert table.counts == {"incomplete": 1}


def test_a_mixture_of_two_payloads_is_possible_and_for_the_payloads_checksum_to_find():
    table = Table()
    table.take(A, [1, 2, 3])
    assert table.take(B, [0]) == [B[:10] + A[10:]]


def test_numbers_come_round():
    table = Table()
    assert [table.take(bytes([n % 251]) * 12, message=n % 256) != [] for n in range(600)] == [True] * 600
    assert not table.counts


def test_an_incomplete_payload_is_forgotten_in_time():
    table = Table()
    table.take(A, [0, 1, 2], now_s=0)
    assert table.take(A, [3], now_s=10.1) == []  # a new beginning
    table = Table()
    table.take(A, [0, 1, 2], now_s=0)
    assert table.take(A, [3], now_s=9.9) == [A]
    table.reassembler.forget(20.1)
    assert (len(table.reassembler), table.reassembler.held_bytes) == (0, 0)


def test_devices_are_told_apart_by_number_and_by_where_they_are():
    table = Table()
    assert table.take(A, [0, 1, 2]) == table.take(B, [0, 1, 3], device=2) == []
    assert table.take(C, [0, 2, 3], source="there") == []
    assert table.take(B, [2], device=2) + table.take(A, [3]) + table.take(C, [1], source="there") == [B, A, C]


def test_the_device_silent_longest_is_dropped_for_a_new_one():
    table = Table()
    for device in range(4):
        table.take(A, [0, 1], device=device)
    table.take(A, [2], device=0)
    table.take(B, [0], device=9)  # in place of device 1
    assert len(table.reassembler) == 4
    assert table.counts == {"evicted": 1, "incomplete": 1}
    assert table.take(A, [3], device=0) == [A]
    assert table.take(A, [2, 3], device=1) == []


def test_a_payload_too_long_is_not_kept():
    table = Table()
    assert table.take(bytes(101)) == []
    assert table.counts == {"oversized": 1}
    assert table.take(bytes(100), message=1) == [bytes(100)]


def test_memory_is_bounded_whatever_comes():
    rng = np.random.default_rng(3)
    table = Table(max_devices=16)
    for i in range(20_000):
        fragment = Fragment(int(rng.integers(9)), int(rng.integers(3)), int(rng.integers(128)),
                            bool(rng.integers(20) == 0), rng.bytes(rng.integers(1, 60)))
        table.reassembler.take(int(rng.integers(2)), fragment, i / 1000)
        assert len(table.reassembler) <= 16
        if i % 100 == 0:
            assert table.reassembler.held_bytes <= 16 * 2 * 100
    assert table.counts["evicted"] > 1000
    assert table.counts["oversized"] > 100


def test_the_rate_of_a_device_is_limited():
    table = Table(rate=2)

    def allowed(number, device, now_s):
        return table.reassembler.take("here", Fragment(device, number, 0, True, b"x"), now_s).allowed

    assert [allowed(n, 1, 0) for n in range(4)] == [True, True, False, False]
    assert allowed(0, 2, 0)
    assert [allowed(n, 1, 0.5) for n in (4, 5)] == [True, False]
