"""Which rate a device picks on links that change: the table's, soon after each change."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.runtime.standalone.bundle.rates import Rate, Switching
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient
from autosplit.runtime.standalone.device.exchange import TIMEOUT, Reply
from autosplit.runtime.standalone.device.switch import RateSwitch
from autosplit.runtime.standalone.errors import ConfigError, LinkError
from autosplit.runtime.standalone.protocol.wire import EdgeAnswer
from tests.runtime.standalone.fakes import CLASSES, SHAPE, FakeDevice, logits_of

SIZES = (10, 40, 160, 640)
OVERHEAD, BUDGET_MS, DEVICE_MS = 74.0, 50.0, 10.0
RATES, DELAYS = tuple(np.geomspace(5, 5000, 49)), tuple(np.geomspace(1, 60, 16))


def fits(size, kbps, delay_ms):
    return DEVICE_MS + delay_ms + 8 * (size + OVERHEAD) / kbps <= BUDGET_MS


def best(kbps, delay_ms=14.0):
    """The largest rate that is in time, by default with the delay, the mean jitter and the edge of `OverALink`."""
    return max((i for i, size in enumerate(SIZES) if fits(size, kbps, delay_ms)), default=0)


def manifest():
    rates = tuple(Rate(f"{size} bytes", {}, (1, 1, 1), 0.9, size, size, 0.9, size, DEVICE_MS, 0.0) for size in SIZES)
    table = tuple(tuple(best(kbps, delay) for delay in DELAYS) for kbps in RATES)
    return SimpleNamespace(key="a bundle", image_shape=SHAPE, num_classes=CLASSES, rates=rates, start=2,
                           switching=Switching(BUDGET_MS, RATES, DELAYS, OVERHEAD, 2, table))


class RateDevice(FakeDevice):
    """Payloads of a rate's size."""

    def __init__(self, **options):
        super().__init__(**options)
        self.manifest = manifest()

    def begin(self, batch, rate=None):
        return [bytes([int(image[0, 0, 0]) % CLASSES]) * SIZES[rate] for image in batch], None


class OverALink(DeviceClient):
    """A client whose exchanges take as long as a link of a rate and a delay would."""

    kbps, delay_ms, jitter_ms, edge_ms = 1000.0, 10.0, 1.0, 3.0
    dead = False

    def __init__(self, monkeypatch, **options):
        super().__init__(RateDevice(), "127.0.0.1:9", ClientOptions(adaptive=True, **options))
        self._random, self._now_s, self.pings = np.random.default_rng(0), 100.0, 0
        monkeypatch.setattr("autosplit.runtime.standalone.device.client.time", SimpleNamespace(monotonic=self._tick))

    def _tick(self):  # called twice while an image is encoded, which thus takes `DEVICE_MS`
        self._now_s += 0.01
        return self._now_s

    def _link_ms(self, size):
        return self.delay_ms + 8 * (size + OVERHEAD) / self.kbps + self._random.exponential(self.jitter_ms)

    def ping(self):
        self.pings += 1
        self._link = SimpleNamespace(ready=True, close=lambda: None)
        return self._link_ms(-14)

    def _ask(self, payloads):
        (payload,) = payloads
        self._now_s += 0.1
        if self.dead:
            return [Reply(self.options.timeout_ms, reason=TIMEOUT)]
        logits = logits_of([payload[0]])[0] if self.options.logits else None
        answer = EdgeAnswer(payload[0], 1.0, self.edge_ms - 1.0, 1, logits)
        size = len(payload) + (logits.nbytes if logits is not None else 0)
        return [Reply(self._link_ms(size) + self.edge_ms, answer)]


@pytest.fixture
def client(monkeypatch):
    with OverALink(monkeypatch) as found:
        yield found


def rates(client, count):
    """Rates of so many images, one after the other."""
    return [client.infer(np.full(SHAPE, 7, np.uint8)).rate for _ in range(count)]


def test_it_follows_the_link_down_and_up(client):
    assert rates(client, 20)[-5:] == [best(1000)] * 5
    client.kbps = 26.0
    first, *later = rates(client, 20)
    assert first == best(1000)  # it cannot know
    assert max(later) < 3
    assert np.median(later) == best(26) == 0
    client.kbps = 60.0
    assert np.median(rates(client, 30)[10:]) == best(60) == 1
    client.kbps = 1000.0
    assert rates(client, 20)[-5:] == [best(1000)] * 5


@pytest.mark.parametrize("jitter_ms", [0.1, 5.0])
def test_it_is_in_time_under_jitter(client, jitter_ms):
    client.kbps, client.jitter_ms = 100.0, jitter_ms
    found = rates(client, 100)[10:]
    assert np.mean(np.array(found) > best(100)) < 0.1
    assert np.mean(found) > best(100) - 1.2


def test_one_straggler_changes_little(client):
    rates(client, 20)
    client.delay_ms = 150.0
    rates(client, 1)
    client.delay_ms = 10.0
    assert rates(client, 8)[-4:] == [best(1000)] * 4


def test_a_slower_edge_than_predicted_takes_from_the_link(client):
    client.kbps = 250.0
    usual = rates(client, 30)[-10:]
    client.edge_ms = 25.0
    assert np.mean(rates(client, 40)[-10:]) < np.mean(usual)


def test_batches_are_asked_for_one_by_one(client):
    answers = client.infer(np.full((5, *SHAPE), 3, np.uint8))
    assert [a.label for a in answers] == [3] * 5
    assert client.switch.link.exchanges == 5 + client.pings == 6
    assert all(a.payload_bytes == SIZES[a.rate] for a in answers)


def test_an_edge_that_is_silent_leaves_a_careful_device(client):
    rates(client, 20)
    client.dead = True
    answer = client.infer(np.full(SHAPE, 3, np.uint8))
    assert (answer.where, answer.label, answer.rate) == ("fallback", 3, best(1000))
    assert client.switch.rate == 0


def test_it_learns_from_silence_without_a_fallback_too(monkeypatch):
    with OverALink(monkeypatch, fallback=False) as client:
        rates(client, 20)
        client.dead = True
        with pytest.raises(LinkError):
            client.infer(np.full(SHAPE, 3, np.uint8))
        assert client.switch.rate == 0


def test_logits_count_as_bytes(monkeypatch):
    with OverALink(monkeypatch, logits=True) as client:
        client.kbps = 60.0
        rates(client, 30)
        assert client.switch.link.delay_ms < 25


def test_before_anything_is_known_it_is_the_rate_of_the_search():
    assert RateSwitch(manifest()).rate == 2


def test_options_that_contradict_each_other():
    with pytest.raises(ConfigError, match="choose one"):
        ClientOptions(adaptive=True, rate=1)
    with pytest.raises(ConfigError, match="rate must lie in"):
        ClientOptions(rate=16)
