"""Counters, and what Prometheus reads of them."""

from __future__ import annotations

import sys
import urllib.request

import pytest

from autosplit.runtime.standalone.edge.metrics import MetricsServer
from autosplit.runtime.standalone.edge.stats import Histogram, ServerStats
from autosplit.runtime.standalone.errors import ConfigError, LinkError
from autosplit.runtime.standalone.protocol.wire import Reason
from tests.runtime.standalone.fakes import Raw, asking, images, serving


def test_histograms_count_up_to_and_including_their_edges():
    values = Histogram([1, 2, 5])
    for value in (0, 1, 1.5, 2, 5, 5.1, 1e9):
        values.add(value)
    assert values.counts == [2, 2, 1, 2]
    assert values.summary()["up_to"] == {"1": 2, "2": 2, "5": 1, "inf": 2}
    assert Histogram([1]).summary() == {"count": 0, "mean": None, "up_to": {"1": 0, "inf": 0}}


@pytest.fixture
def scrape():
    stats = ServerStats()
    metrics = MetricsServer(stats, 0)

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=30) as reply:
            text = reply.read().decode()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                if not line.startswith("#")}

    yield stats, read
    metrics.close()


def test_metrics_of_what_was_counted(scrape):
    stats, read = scrape
    stats.count(frames=5, requests=3, answers=2, dropped=1)
    stats.refuse(Reason.REPLAY)
    stats.refuse(Reason.REPLAY)
    stats.gauge(queued=4, sessions=6)
    stats.batched(3, [0.2, 1.5, 7000], 1.0)
    found = read()
    expected = {
        "frames_total": 5, "requests_total": 3, "answers_total": 2, "replies_dropped_total": 1,
        'refused_total{reason="replay"}': 2, "queued_requests": 4, "sessions": 6, "batch_requests_sum": 3,
        "batch_requests_count": 1, 'batch_requests_bucket{le="2"}': 0, 'batch_requests_bucket{le="4"}': 1,
        'queue_milliseconds_bucket{le="5000"}': 2, 'queue_milliseconds_bucket{le="+Inf"}': 3,
        "edge_milliseconds_sum": 1,
    }
    assert {name: found[f"autosplit_{name}"] for name in expected} == expected
    stats.count(answers=1)
    assert read()["autosplit_answers_total"] == 3


def test_metrics_of_a_live_server():
    with serving() as server, asking(server) as client, Raw(server.endpoint) as device:
        metrics = MetricsServer(server.stats, 0)
        client.infer(images(10)[0])
        device.send(b"noise")
        device.settle()
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=30) as reply:
            assert reply.headers["Content-Type"].startswith("text/plain")
            text = reply.read().decode()
        metrics.close()
    assert "\nautosplit_requests_total 10.0\n" in text
    assert '\nautosplit_refused_total{reason="truncated"} 1.0\n' in text
    assert "# TYPE autosplit_queue_milliseconds histogram\n" in text


def test_a_port_that_is_taken(scrape):
    stats, _ = scrape
    other = MetricsServer(stats, 0)
    with pytest.raises(LinkError, match=r"cannot serve metrics on .*; choose another --metrics-port"):
        MetricsServer(stats, other.port)
    other.close()
    with pytest.raises(LinkError, match="choose another --metrics-port"):
        MetricsServer(stats, 70_000)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="pip install prometheus-client"):
        MetricsServer(ServerStats(), 0)
