"""Requests of many devices computed together: a bounded queue, and the thread that empties it in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..edge.stats import ServerStats
from ..errors import AutosplitError, PayloadError, WorkerLostError
from ..protocol.interfaces import EdgeSide, Logits
from ..protocol.wire import EdgeAnswer, Reason

__all__ = ["BatchComputer", "BatchQueue", "Reply", "Request"]

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Request:
    """A payload that waits to be decoded.

    Attributes:
        connection: Where the answer goes.
        session: The session it came in.
        sequence: Its number there.
        payload: Its bytes.
        logits: Whether the answer shall hold all logits.
        arrived_s: When it came (`time.monotonic`).
        deadline_s: After this the device no longer waits; infinite where it gave no deadline.
        lost: How often the process died that decoded it.
    """

    connection: bytes
    session: int
    sequence: int
    payload: bytes
    logits: bool
    arrived_s: float
    deadline_s: float
    lost: int = 0


Reply = tuple[Request, "EdgeAnswer | Reason"]


class BatchQueue:
    """Requests in order of arrival, never more than `limit`.

    Args:
        limit: Most requests that wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, request: Request) -> bool:
        """Add a request; false where the queue is full or closed."""
        with self._changed:
            if self._closed or len(self._waiting) >= self._limit:
                return False
            self._waiting.append(request)
            self._changed.notify()
            return True

    def put_back(self, requests: Sequence[Request]) -> None:
        """Let requests be taken once more, before all others and whatever the limit; a closed queue takes them too."""
        with self._changed:
            self._waiting.extendleft(reversed(requests))
            self._changed.notify()

    def take(self, most: int, wait_s: float) -> list[Request]:
        """The next batch; any number of threads may ask.

        Waits for a first request, then until there are `most` or until the oldest has waited `wait_s`.

        Returns:
            1 to `most` requests; none once the queue is closed and empty.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                # counted from its arrival: while the last batch was computed, the oldest may have waited long enough
                left = self._waiting[0].arrived_s + wait_s - time.monotonic()
                self._changed.wait_for(lambda: not 0 < len(self._waiting) < most or self._closed,
                                       timeout=max(0.0, left))
                if self._waiting:  # another thread may have been quicker
                    return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    @property
    def closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._closed

    def close(self) -> None:
        """Take no more requests; those that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class BatchComputer(threading.Thread):
    """A thread that computes, apart from the one that has the socket.

    Args:
        edge: Decodes payloads; called by this thread alone. One that has a method `restart` may raise
            `WorkerLostError`: the batch goes back to the queue, once, and the method is called.
        queue: Where requests come from; the thread ends when it is closed and empty.
        done: Called by this thread with the replies of each batch, one for each request.
        stats: Counts batches.
        max_batch: Most requests decoded at once.
        max_wait_ms: How long the first request of a batch waits for others.
    """

    def __init__(self, edge: EdgeSide, queue: BatchQueue, done: Callable[[list[Reply]], None], stats: ServerStats,
                 max_batch: int, max_wait_ms: float) -> None:
        super().__init__(name="edge-compute", daemon=True)
        self._edge, self._queue, self._done, self._stats = edge, queue, done, stats
        self._max_batch, self._wait_s = max_batch, max_wait_ms / 1000

    def run(self) -> None:
        """Compute until the queue is closed."""
        while batch := self._queue.take(self._max_batch, self._wait_s):
            start_s = time.monotonic()
            # a request whose device waits no longer would only delay the others
            replies: list[Reply] = [(r, Reason.LATE) for r in batch if r.deadline_s < start_s]
            if batch := [r for r in batch if r.deadline_s >= start_s]:
                try:
                    results = self._decode([r.payload for r in batch], again=any(r.lost for r in batch))
                except WorkerLostError as e:
                    self._queue.put_back([replace(r, lost=r.lost + 1) for r in batch])
                    self._done(replies)
                    self._replace(e)
                    continue
                edge_ms = 1000 * (time.monotonic() - start_s)
                queue_ms = [1000 * (start_s - r.arrived_s) for r in batch]
                self._stats.batched(len(batch), queue_ms, edge_ms)
                replies += [(r, row if isinstance(row, Reason) else
                             EdgeAnswer(int(row.argmax()), waited, edge_ms, len(batch), row if r.logits else None))
                            for r, row, waited in zip(batch, results, queue_ms, strict=True)]
            self._done(replies)

    def _replace(self, lost: WorkerLostError) -> None:
        """Get a new process for the one that died, however long that takes: others go on meanwhile.

        A server that is about to end tries once.
        """
        self._stats.count(lost=1)
        _log.warning("%s; another one is begun", lost)
        while True:
            try:
                self._edge.restart()  # type: ignore[attr-defined] # (only who has it raises this error)
                return
            except AutosplitError as e:
                if self._queue.closed:
                    return
                _log.warning("no process could be begun (%s); trying again", e)
                time.sleep(_PAUSE_S)

    def _decode(self, payloads: Sequence[bytes], again: bool = False) -> list[Logits | Reason]:
        """A row of logits for each payload, or why there is none: one bad payload harms no other.

        Args:
            payloads: Of a batch.
            again: Whether a process has died of some of them already, so that they are told apart here.
        """
        try:
            rows = np.asarray(self._edge.decode(payloads), dtype=np.float32)
            if rows.ndim != 2 or len(rows) != len(payloads):
                raise RuntimeError(f"{len(payloads)} payloads gave logits of shape {rows.shape}")
            return list(rows)
        except PayloadError:
            if len(payloads) == 1:
                return [Reason.PAYLOAD]
        except WorkerLostError as e:
            if not again:
                raise
            self._replace(e)
            if len(payloads) == 1:
                return [Reason.FAULT]
        except Exception:  # whatever the network does, the server stays up
            _log.exception("the edge failed on %d payloads", len(payloads))
            if len(payloads) == 1:
                return [Reason.FAULT]
        half = len(payloads) // 2  # by halves the bad one is found in about log2(n) attempts, and the rest is answered
        return self._decode(payloads[:half], again) + self._decode(payloads[half:], again)
