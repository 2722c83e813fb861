"""Pictures that arrive while others are answered: order, deadlines, what is dropped, and edges that are silent."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.runtime.standalone.device.choosers import FixedRate
from autosplit.runtime.standalone.device.client import Answer, Attempt, StageMs
from autosplit.runtime.standalone.device.exchange import Reply
from autosplit.runtime.standalone.device.stream import PictureStream
from autosplit.runtime.standalone.errors import ConfigError
from tests.runtime.standalone.fakes import FakeDevice, FakeEdge, asking, images, scripted, serving

PICTURE = np.zeros((1, 4, 4), dtype=np.uint8)


class Client:
    """Takes its time; remembers what it was asked."""

    def __init__(self, clock, takes_ms=10.0):
        self.clock, self.takes_ms, self.asked = clock, takes_ms, []

    def ping(self):
        return 5.0

    def infer_within(self, image, within_ms, rate=None):
        self.asked.append((round(within_ms, 6), rate))
        self.clock.now_s += min(self.takes_ms, within_ms) / 1000
        reply = Reply(self.takes_ms)
        if self.takes_ms > within_ms:
            return Attempt(None, 3, 0.0, reply)
        return Attempt(Answer(1, "edge", "", 3, StageMs(link=self.takes_ms)), 3, 0.0, reply)


class Chooser(FixedRate):
    """Remembers what it saw and learned."""

    def __init__(self, rates=(0,)):
        self.rates, self.seen, self.learned, self.ping = list(rates), [], [], None

    def choose(self, seen, now_s):
        self.seen.append(seen)
        return self.rates[(len(self.seen) - 1) % len(self.rates)]

    def pinged(self, ms, now_s):
        self.ping = ms

    def learn(self, rate, payload_bytes, reply, encode_ms, now_s):
        self.learned.append((rate, payload_bytes, reply.waited_ms))


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr("autosplit.runtime.standalone.device.stream.time",
                        SimpleNamespace(monotonic=lambda: found.now_s))
    return found


def test_pictures_are_answered_in_order_and_told_what_waits(clock):
    client, chooser = Client(clock, 30.0), Chooser((0, 1, None))
    stream = PictureStream(client, chooser, 100.0)
    for number in range(4):
        stream.offer(str(number), PICTURE, 100.0 + number / 200)  # 0, 5, 10, 15 ms
    stream.close()
    clock.now_s = 100.02
    settled = list(stream)
    assert [(s.name, s.outcome, round(s.age_ms), round(s.waited_ms)) for s in settled] == [
        ("0", "answered", 50, 20), ("1", "answered", 75, 45), ("2", "skipped", 70, 70), ("3", "answered", 95, 65)]
    assert chooser.ping == 5.0
    assert [seen.waiting for seen in chooser.seen] == [3, 2, 1, 0]
    assert [round(seen.next_age_ms) for seen in chooser.seen] == [15, 40, 65, 0]
    assert {(seen.arrived, round(seen.recent_ms - seen.running_ms)) for seen in chooser.seen} == {(4, 0)}
    assert client.asked == [(80.0, 0), (55.0, 1), (35.0, 0)]
    assert chooser.learned == [(0, 3, 30.0), (1, 3, 30.0), (0, 3, 30.0)]


def test_what_is_too_old_or_too_many_is_dropped(clock):
    stream = PictureStream(Client(clock, 90.0), Chooser(), 100.0, buffer=2)
    for number in range(4):
        stream.offer(str(number), PICTURE)
    stream.close()
    # the two oldest have no room; the first of the others leaves the second too little time
    assert [(s.name, s.outcome, round(s.age_ms)) for s in stream] == [
        ("0", "dropped", 0), ("1", "dropped", 0), ("2", "answered", 90), ("3", "late", 100)]
    stream = PictureStream(Client(clock, 200.0), Chooser(), 100.0)
    for number in range(2):
        stream.offer(str(number), PICTURE, 100.0 - 0.05 * number)
    stream.close()
    assert [(s.name, s.outcome, s.answer) for s in stream] == [("0", "late", None), ("1", "dropped", None)]


def test_recent_arrivals_are_the_last_eight(clock):
    chooser = Chooser()
    stream = PictureStream(Client(clock, 1.0), chooser, 6e4, buffer=20)
    for number in range(12):
        stream.offer(str(number), PICTURE, 100.0 + number)
    stream.close()
    clock.now_s = 111.0
    next(iter(stream))
    assert (chooser.seen[0].recent_ms, chooser.seen[0].running_ms) == (7000.0, 11000.0)


@pytest.mark.parametrize(("deadline_ms", "buffer"), [(0.0, 8), (70_000.0, 8), (10.0, 0), (float("nan"), 8)])
def test_numbers_out_of_range(deadline_ms, buffer):
    with pytest.raises(ConfigError, match="deadline and buffer are"):
        PictureStream(Client(None), Chooser(), deadline_ms, buffer)


def test_over_a_real_edge():
    pixels, classes = images(30)
    with serving() as server, asking(server) as client:
        stream = PictureStream(client, FixedRate(0), 20_000.0, buffer=30)

        def camera():
            for number, picture in enumerate(pixels):
                stream.offer(str(number), picture)
                time.sleep(0.001)
            stream.close()

        thread = threading.Thread(target=camera)
        thread.start()
        settled = list(stream)
        thread.join()
    assert [s.outcome for s in settled] == ["answered"] * 30
    assert [s.answer.label for s in settled] == classes


def test_an_edge_that_is_slow_once_is_not_lost():
    edge = FakeEdge()
    with serving(edge) as server, asking(server, FakeDevice(falls_back=False)) as client:
        client.ping()
        link = client._link
        edge.gate.clear()
        tried = client.infer_within(PICTURE, 100.0)
        assert tried.answer is None
        assert (tried.reply.reason, tried.payload_bytes) == ("timeout", 9)
        assert 90 <= tried.reply.waited_ms < 5000
        edge.gate.set()
        assert client.lost == ""
        again = client.infer_within(PICTURE + 3, 20_000.0)
        assert again.answer.label == 3
        assert client._link is link


def test_nothing_is_sent_without_time():
    with scripted(lambda frame: pytest.fail("nothing was to be sent")) as endpoint, asking(
            endpoint, FakeDevice(falls_back=False)) as client:
        tried = client.infer_within(PICTURE, 1e-6)
        assert (tried.answer, tried.reply.waited_ms) == (None, 0.0)


def test_a_device_that_answers_itself():
    pixels, classes = images(3)
    with asking("", FakeDevice(answers=True)) as client:
        tried = [client.infer_within(picture, 20_000.0) for picture in pixels]
        stream = PictureStream(client, FixedRate(0), 20_000.0)
        stream.offer("one", pixels[0])
        stream.close()
        assert [(s.outcome, s.answer.label) for s in stream] == [("answered", classes[0])]
    assert [(t.answer.where, t.answer.label, t.payload_bytes) for t in tried] == [("device", c, 0) for c in classes]


def test_the_fallback_answers_while_the_edge_is_lost():
    with serving() as server, asking(server, timeout_ms=200.0, retry_s=1000.0) as client:
        assert client.infer_within(PICTURE + 4, 20_000.0).answer.where == "edge"
        server.stop()
        assert client.infer_within(PICTURE + 4, 100.0).answer is None  # which waits for a session in vain
        answer = client.infer_within(PICTURE + 4, 20_000.0).answer
    assert (answer.where, answer.label, answer.reason) == ("fallback", 4, "timeout")
