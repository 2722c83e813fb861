"""What a server counts, always: plain numbers of bounded size, which `metrics` can show in Prometheus' format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..protocol.wire import Reason

__all__ = ["BATCH_EDGES", "MS_EDGES", "Histogram", "ServerStats"]

MS_EDGES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts of values up to and including each edge, and above the last.

    Args:
        edges: Upper edges, ascending.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(float(e) for e in edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def summary(self) -> dict[str, Any]:
        """Count, mean, and counts by upper edge."""
        count = sum(self.counts)
        names = [f"{e:g}" for e in self.edges] + ["inf"]
        return {"count": count, "mean": self.total / count if count else None,
                "up_to": dict(zip(names, self.counts, strict=True))}


class ServerStats:
    """Counters of one server; any thread may write and read.

    Attributes:
        lock: Held while anything here is read or changed.
        frames: Frames received, well-formed or not.
        requests: Requests that were taken on.
        answers: Requests that were answered.
        lost: Processes that computed and died.
        dropped: Replies that could not be delivered, since their device had left or did not read.
        refused: Frames and requests refused, by reason.
        batch: Sizes of batches.
        queue_ms: Time requests waited for their batch.
        edge_ms: Time batches were computed in.
        queued: Requests that wait just now.
        sessions: Sessions just now.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.frames = self.requests = self.answers = self.dropped = self.queued = self.sessions = self.lost = 0
        self.refused: Counter[Reason] = Counter()
        self.batch = Histogram(BATCH_EDGES)
        self.queue_ms, self.edge_ms = Histogram(MS_EDGES), Histogram(MS_EDGES)

    def refuse(self, reason: Reason) -> None:
        """Count a refusal."""
        with self.lock:
            self.refused[reason] += 1

    def count(self, **changes: int) -> None:
        """Raise the counters of these names."""
        with self.lock:
            for name, by in changes.items():
                setattr(self, name, getattr(self, name) + by)

    def gauge(self, queued: int, sessions: int) -> None:
        """Set what is true just now."""
        with self.lock:
            self.queued, self.sessions = queued, sessions

    def batched(self, size: int, queue_ms: Sequence[float], edge_ms: float) -> None:
        """Count a computed batch."""
        with self.lock:
            self.batch.add(size)
            self.edge_ms.add(edge_ms)
            for ms in queue_ms:
                self.queue_ms.add(ms)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON."""
        with self.lock:
            return {
                "frames": self.frames, "requests": self.requests, "answers": self.answers, "dropped": self.dropped,
                "lost": self.lost,
                "refused": {r.word: n for r, n in sorted(self.refused.items())}, "queued": self.queued,
                "sessions": self.sessions, "batch": self.batch.summary(), "queue_ms": self.queue_ms.summary(),
                "edge_ms": self.edge_ms.summary(),
            }
