"""Sessions, replays and rates, with time handed in."""

from __future__ import annotations

import pytest

from autosplit.runtime.standalone.edge.sessions import Sessions, TokenBucket
from autosplit.runtime.standalone.protocol.wire import Reason


def test_a_bucket_allows_its_burst_and_then_its_rate():
    bucket = TokenBucket(rate=10, burst=3, tokens=3, time_s=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.1), bucket.take(0.1)] == [True, False]
    assert [bucket.take(9.9) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(5.0)  # a clock that goes back gives nothing


def test_a_bucket_never_allows_more_than_rate_and_burst():
    bucket = TokenBucket(rate=7, burst=5, tokens=5, time_s=0)
    assert sum(bucket.take(step / 1000) for step in range(10_000)) in (74, 75)


def test_frames_count_once_and_in_order():
    sessions = Sessions(8, 60)
    number = sessions.open(b"c", b"d", 0)
    assert [sessions.admit(b"c", number, s, 0) for s in (1, 2, 5)] == [None, None, None]
    assert [sessions.admit(b"c", number, s, 0) for s in (5, 3, 0)] == [Reason.REPLAY] * 3
    assert sessions.admit(b"c", number, 6, 0) is None


def test_frames_count_on_their_own_connection_only():
    sessions = Sessions(8, 60)
    first, second = sessions.open(b"c1", b"d1", 0), sessions.open(b"c2", b"d2", 0)
    assert sessions.admit(b"c2", first, 1, 0) is Reason.SESSION
    assert sessions.admit(b"c1", second, 1, 0) is Reason.SESSION
    assert sessions.admit(b"nobody", first, 1, 0) is Reason.SESSION


def test_a_new_session_ends_the_old_one_and_its_frames():
    sessions = Sessions(8, 60)
    old = sessions.open(b"c", b"d", 0)
    assert sessions.admit(b"c", old, 1, 0) is None
    new = sessions.open(b"c", b"d", 0)
    assert new != old
    assert len(sessions) == 1
    assert sessions.admit(b"c", old, 2, 0) is Reason.SESSION
    assert sessions.admit(b"c", new, 1, 0) is None
    sessions.close(b"c")
    sessions.close(b"c")
    assert sessions.admit(b"c", new, 2, 0) is Reason.SESSION


def test_numbers_of_sessions_do_not_repeat_over_servers():
    numbers = {Sessions(8, 60).open(b"c", b"d", 0) for _ in range(50)}
    assert len(numbers) == 50
    assert 0 not in numbers


def test_the_rate_is_a_devices_whatever_its_connections():
    sessions = Sessions(8, 60, rate=1, burst=3)
    first = sessions.open(b"c1", b"d", 0)
    assert sessions.admit(b"c1", first, 1, 0) is None
    second = sessions.open(b"c2", b"d", 0)
    assert sessions.admit(b"c2", second, 1, 0) is Reason.RATE
    assert sessions.admit(b"c1", first, 2, 0) is Reason.RATE
    assert sessions.open(b"c3", b"d", 0) is Reason.RATE
    assert isinstance(sessions.open(b"c4", b"another", 0), int)
    assert sessions.admit(b"c1", first, 3, 1.0) is None


@pytest.mark.parametrize("same_device", [True, False])
def test_tables_are_bounded_and_forget_who_is_silent(same_device):
    sessions = Sessions(3, 10)
    for i in range(3):
        assert isinstance(sessions.open(bytes([i]), b"d" if same_device else bytes([i]), i), int)
    for i in range(3, 1000):
        assert sessions.open(i.to_bytes(2, "big"), b"d" if same_device else i.to_bytes(2, "big"), 3) is Reason.FULL
    assert len(sessions) == 3
    assert isinstance(sessions.open(b"\x01", b"d" if same_device else b"\x01", 5), int)  # has one already
    assert isinstance(sessions.open(b"new", b"new2", 10.5), int)  # the first was silent since 0
    assert sessions.open(b"newer", b"newer", 10.5) is Reason.FULL
    sessions.forget(100)
    assert len(sessions) == 0
