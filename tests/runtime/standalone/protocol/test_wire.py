"""Frames: what goes through, and that everything else is refused with a reason."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosplit.runtime.standalone.errors import PayloadError
from autosplit.runtime.standalone.protocol.wire import (
    HEADER_BYTES,
    LOGITS,
    MAX_BODY_BYTES,
    EdgeAnswer,
    Frame,
    FrameError,
    Kind,
    Reason,
    short_key,
)

KEY = short_key("a bundle")
U32 = st.integers(0, (1 << 32) - 1)


def request(**changes):
    return Frame(**{"kind": Kind.REQUEST, "key": KEY, "session": 7, "sequence": 3, "body": b"body", **changes})


def patched(data, at, new, *, checked=True):
    """Other bytes at an offset of a frame, with a checksum that fits unless it shall not."""
    data = data[:at] + new + data[at + len(new):]
    if checked:
        head, body = data[: HEADER_BYTES - 4], data[HEADER_BYTES:]
        data = head + struct.pack("!I", zlib.crc32(body, zlib.crc32(head))) + body
    return data


def reason_of(data, **options):
    with pytest.raises(FrameError) as caught:
        Frame.decode(data, KEY, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@given(U32, U32, st.binary(max_size=200), st.integers(0, 65_535), st.booleans())
def test_a_request_survives(session, sequence, body, deadline, logits):
    frame = request(session=session, sequence=sequence, body=body, deadline_ms=deadline, flags=LOGITS * logits)
    data = frame.encode()
    assert len(data) == HEADER_BYTES + len(body)
    assert Frame.decode(data, KEY) == frame


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_survives(kind):
    frame = Frame(kind, KEY, 1, 2, b"x", reason=Reason.BUSY if kind is Kind.REFUSED else None)
    assert Frame.decode(frame.encode(), KEY) == frame


def test_known_bytes():
    assert request(deadline_ms=258, flags=LOGITS).encode().hex() == (
        "6153" "01" "03" "01" "00" "0102" + KEY.hex() + "00000007" "00000003" "00000004" "b0b571f7" + b"body".hex())


@pytest.mark.parametrize(("at", "new", "reason"), [
    (0, b"X", Reason.MAGIC), (2, b"\x02", Reason.VERSION), (3, b"\x00", Reason.KIND), (3, b"\x09", Reason.KIND),
    (4, b"\x02", Reason.FIELD), (5, b"\x01", Reason.FIELD), (8, b"\xff\xff\xff\xff", Reason.KEY),
    (20, b"\x00\x00\x00\x05", Reason.LENGTH), (20, b"\x00\x00\x00\x03", Reason.LENGTH),
    (20, b"\xff\xff\xff\xff", Reason.OVERSIZED),
])
def test_a_wrong_field_has_its_reason(at, new, reason):
    assert reason_of(patched(request().encode(), at, new)) is reason


def test_refusals_need_a_known_reason():
    refused = Frame(Kind.REFUSED, KEY, reason=Reason.BUSY).encode()
    for wrong in (b"\x00", b"\xff"):
        assert reason_of(patched(refused, 5, wrong)) is Reason.FIELD


@pytest.mark.parametrize("cut", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3])
def test_truncated(cut):
    assert reason_of(request().encode()[:cut]) is (Reason.TRUNCATED if cut < HEADER_BYTES else Reason.LENGTH)


def test_oversized():
    assert reason_of(request(body=b"12345").encode(), max_body=4) is Reason.OVERSIZED
    with pytest.raises(FrameError, match="at most"):
        request(body=bytes(MAX_BODY_BYTES + 1)).encode()


@given(st.integers(0, 8 * (HEADER_BYTES + 4) - 1))
def test_every_flipped_bit_is_found(bit):
    data = bytearray(request().encode())
    data[bit // 8] ^= 1 << bit % 8
    reason_of(bytes(data))


@given(st.binary(max_size=80))
def test_random_bytes_are_no_frame(data):
    reason_of(data)
    if len(data) >= 3:
        reason_of(b"aS\x01" + data[3:])


@pytest.mark.parametrize("changes", [{"session": 1 << 32}, {"sequence": -1}, {"deadline_ms": 1 << 16},
                                     {"key": b"too long"}])
def test_what_does_not_fit_is_not_sent(changes):
    with pytest.raises(FrameError) as caught:
        request(**changes).encode()
    assert caught.value.reason is Reason.FIELD


def test_the_sequence_of_a_refused_frame_is_known_if_it_can_be_read():
    with pytest.raises(FrameError) as caught:
        Frame.decode(request(sequence=99, key=short_key("another")).encode(), KEY)
    assert caught.value.sequence == 99


def test_answers_survive():
    logits = np.array([1.5, -2, 3e5], dtype=np.float32)
    for answer in (EdgeAnswer(2, 1.25, 0.5, 3, logits), EdgeAnswer(2, 1.25, 0.5, 3)):
        data = answer.encode()
        assert len(data) == 14 + (0 if answer.logits is None else 12)
        back = EdgeAnswer.decode(data)
        assert (back.label, back.queue_ms, back.edge_ms, back.batch) == (2, 1.25, 0.5, 3)
        assert (back.logits is None) == (answer.logits is None)
        if answer.logits is not None:
            assert back.logits.dtype == np.float32
            assert back.logits.tolist() == logits.tolist()


@pytest.mark.parametrize("size", [0, 13, 15, 17])
def test_damaged_answers_are_refused(size):
    with pytest.raises(PayloadError, match=f"an answer of {size} bytes"):
        EdgeAnswer.decode(bytes(size))


# --- docs -----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_kind_and_reason_with_its_number():
    page = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text()
    missing = [f"{kind.value} {kind.name}" for kind in Kind] + [f"{r.value} {r.word}" for r in Reason]
    assert [text for text in missing if not re.search(rf"\b{text}\b", page)] == []
