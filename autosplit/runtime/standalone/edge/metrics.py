"""A server's counters in Prometheus' text format, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..edge.stats import Histogram, ServerStats
from ..errors import ConfigError, LinkError

__all__ = ["MetricsServer", "registry_of"]


def registry_of(stats: ServerStats) -> Any:
    """A `prometheus_client.CollectorRegistry` that reads a server's counters whenever it is asked.

    Raises:
        ConfigError: prometheus_client is not installed.
    """
    registry = _prometheus().CollectorRegistry()
    registry.register(_Collector(stats))
    return registry


class MetricsServer:
    """Serves `http://ADDRESS:PORT/metrics` until it is closed.

    Args:
        stats: Of the server.
        port: To listen on; 0 takes a free one.
        address: To listen on.

    Attributes:
        port: The port.

    Raises:
        ConfigError: prometheus_client is not installed.
        LinkError: The port cannot be had.
    """

    def __init__(self, stats: ServerStats, port: int, address: str = "127.0.0.1") -> None:
        registry = registry_of(stats)
        try:
            self._server, self._thread = _prometheus().start_http_server(port, address, registry)
        except (OSError, OverflowError) as e:
            raise LinkError(f"cannot serve metrics on {address}:{port}: {getattr(e, 'strerror', None) or e}; choose "
                            "another --metrics-port") from e
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:  # what prometheus_client asks for at each scrape, so that serving itself costs nothing more
    def __init__(self, stats: ServerStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Any]:
        """The metric families of `prometheus_client`, made anew at each scrape."""
        from prometheus_client import core

        stats = self._stats
        with stats.lock:
            for name, text, value in (
                ("frames", "Frames received, well-formed or not.", stats.frames),
                ("requests", "Requests taken on.", stats.requests),
                ("answers", "Requests answered.", stats.answers),
                ("lost", "Processes that computed and died.", stats.lost),
                ("replies_dropped", "Replies that could not be delivered.", stats.dropped),
            ):
                yield core.CounterMetricFamily(f"autosplit_{name}", text, value=value)
            refused = core.CounterMetricFamily("autosplit_refused", "Frames and requests refused, by reason.",
                                               labels=["reason"])
            for reason, count in sorted(stats.refused.items()):
                refused.add_metric([reason.word], count)
            yield refused
            yield core.GaugeMetricFamily("autosplit_queued_requests", "Requests that wait.", value=stats.queued)
            yield core.GaugeMetricFamily("autosplit_sessions", "Connections with a session.", value=stats.sessions)
            yield _histogram(core, "autosplit_batch_requests", "Requests computed together.", stats.batch)
            yield _histogram(core, "autosplit_queue_milliseconds", "Wait of a request for its batch.", stats.queue_ms)
            yield _histogram(core, "autosplit_edge_milliseconds", "Computing of a batch.", stats.edge_ms)


def _histogram(core: Any, name: str, text: str, values: Histogram) -> Any:
    total, buckets = 0, []  # Prometheus' buckets are cumulative, ours are not
    for edge, count in zip([*(f"{e:g}" for e in values.edges), "+Inf"], values.counts, strict=True):
        total += count
        buckets.append((edge, total))
    return core.HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.total)


def _prometheus() -> Any:
    try:
        import prometheus_client
    except ImportError as e:
        raise ConfigError("metrics need the package prometheus_client: pip install prometheus-client") from e
    return prometheus_client
